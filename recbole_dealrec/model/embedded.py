"""``llm_path: tiny``: where the embedded language model of a dataset lies, built at the first use."""

import hashlib
import json
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from recbole_dealrec.config import Config
from recbole_dealrec.data import PromptTemplate, SequentialDataset
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.model.tiny import build_tiny_llm


def embedded_llm(config: Config, dataset: SequentialDataset) -> str:
    """Folder of a small Llama that knows the catalogue's titles and their popularity, but no user's history.

    Args:
        config: reads ``checkpoint_dir``, ``tiny_steps``, ``seed`` and the prompt's texts.
        dataset: training part.

    Returns:
        The folder; it is named after all that determines the model, so it is built once.
    """
    template = PromptTemplate(config)
    titles, counts = dataset.titles[1:], item_counts(dataset)[1:]

    def render(listed: Sequence[str]) -> str:
        return template.render(listed[:-1]).text + template.response(listed[-1])

    settings = {
        "titles_per_document": config["max_history_titles"] + 1,
        "steps": config["tiny_steps"],
        "seed": config["seed"],
        "max_length": config["max_prompt_length"],
    }
    example = render([f"title {number}" for number in range(settings["titles_per_document"])])
    known = json.dumps([settings, example, titles, counts.tolist()])
    name = f"tiny-llm-{config['dataset']}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    folder = Path(config["checkpoint_dir"]) / name
    if not folder.is_dir():
        getLogger().info(f"building the embedded language model in {folder}")
        device, progress = str(config["device"]), config["show_progress"]
        build_tiny_llm(folder, titles, counts, render=render, device=device, show_progress=progress, **settings)
    return str(folder)
