"""The tiny LLM of a dataset (``llm_path: tiny``), built at the first use."""

import hashlib
import json
from logging import getLogger
from pathlib import Path

from recbole_dealrec.config import Config
from recbole_dealrec.data import SequentialDataset
from recbole_dealrec.distributed import processes
from recbole_dealrec.model.bigrec.tiny_llama import build_tiny_llm


def tiny_llm_folder(config: Config, dataset: SequentialDataset) -> Path:
    """Return the folder of ``tiny_llm``; its name contains a hash of titles, popularity and settings."""
    content = json.dumps([_settings(config), dataset.titles[1:], dataset.item_counts[1:].tolist()])
    name = f"tiny-llm-{config['dataset']}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    return Path(config["checkpoint_dir"]) / name


def tiny_llm(config: Config, dataset: SequentialDataset) -> str:
    """Return the folder of the tiny LLM, a small Llama pre-trained on titles by popularity; build it at the first use.

    It sees neither users' histories nor prompts before fine-tuning.

    Args:
        config: reads ``checkpoint_dir``, ``tiny_steps``, ``max_history_titles``, ``max_prompt_length`` and ``seed``.
        dataset: training part.
    """
    folder = tiny_llm_folder(config, dataset)

    def build() -> None:
        getLogger().info(f"building the tiny LLM in {folder}")
        options = {"device": str(config["device"]), "show_progress": config["show_progress"], **_settings(config)}
        build_tiny_llm(folder, dataset.titles[1:], dataset.item_counts[1:], **options)

    processes.on_main(lambda: folder.is_dir() or build())
    return str(folder)


def _settings(config: Config) -> dict[str, int]:
    return {
        "titles_per_document": config["max_history_titles"] + 1,
        "steps": config["tiny_steps"],
        "seed": config["seed"],
        "max_length": config["max_prompt_length"],
    }
