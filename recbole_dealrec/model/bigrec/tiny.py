"""``llm_path: tiny``: where the embedded language model of a dataset lies, built at the first use."""

import hashlib
import json
from logging import getLogger
from pathlib import Path

from recbole_dealrec.config import Config
from recbole_dealrec.data import PromptTemplate, SequentialDataset
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.distributed import processes
from recbole_dealrec.model.bigrec.tiny_llama import build_tiny_llm


def tiny_llm_folder(config: Config, dataset: SequentialDataset) -> Path:
    """Where ``tiny_llm`` keeps its model; named after all that determines it."""
    known = json.dumps([_settings(config), dataset.titles[1:], item_counts(dataset)[1:].tolist()])
    name = f"tiny-llm-{config['dataset']}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    return Path(config["checkpoint_dir"]) / name


def tiny_llm(config: Config, dataset: SequentialDataset) -> str:
    """Folder of a small Llama that knows the catalogue's titles and their popularity, but no user's history.

    It has seen lists of titles alone: that an answer follows a prompt is left for fine-tuning to teach.

    Args:
        config: reads ``checkpoint_dir``, ``tiny_steps``, ``max_history_titles``, ``max_prompt_length`` and ``seed``.
        dataset: training part.

    Returns:
        The folder, ``tiny_llm_folder``; built once.
    """
    folder = tiny_llm_folder(config, dataset)

    def build() -> None:
        getLogger().info(f"building the embedded language model in {folder}")
        device, progress = str(config["device"]), config["show_progress"]
        build_tiny_llm(
            folder, dataset.titles[1:], item_counts(dataset)[1:], render=PromptTemplate.list_titles, device=device,
            show_progress=progress, **_settings(config),
        )  # fmt: skip

    processes.on_main(lambda: folder.is_dir() or build())
    return str(folder)


def _settings(config: Config) -> dict[str, int]:
    return {
        "titles_per_document": config["max_history_titles"] + 1,
        "steps": config["tiny_steps"],
        "seed": config["seed"],
        "max_length": config["max_prompt_length"],
    }
