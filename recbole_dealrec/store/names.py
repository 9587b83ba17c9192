"""Names of the folders that runs are kept in, after all that determines what comes out."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from huggingface_hub import try_to_load_from_cache

from recbole_dealrec.config import STEPS, Config
from recbole_dealrec.config.kind import CHECKPOINT
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.store.atomic import checksum

_SURROGATES = ("data", "surrogate")
_LLM_SCORES = ("data", "language model", "effort")


@dataclass(frozen=True)
class Folders:
    """Where a run keeps what it makes.

    Attributes:
        run: folder of one run: one sampler, one seed.
        surrogates: folder of the surrogates, whatever is computed on them.
        surrogate_scores: folder of scores that are computed on surrogates alone.
        llm_scores: folder of scores of the language model before fine-tuning, however samples are selected.
        effort: folder of the effort scores that are known by their content.
    """

    run: Path
    surrogates: Path
    surrogate_scores: Path
    llm_scores: Path
    effort: Path

    @classmethod
    def of(cls, config: Config, splits: Splits, root: Path) -> "Folders":
        """Return the folders of a run under ``root``."""
        names = (run_name, surrogate_name, surrogate_score_name, shared_name)
        return cls(*(root / name(config, splits) for name in names), root / "effort")


def run_name(config: Config, splits: Splits) -> str:
    """Folder of one run: one sampler, one seed."""
    return f"{config['dataset']}-{config['model']}-{config['sampler']}-{_digest(config, splits, STEPS)}"


def shared_name(config: Config, splits: Splits) -> str:
    """Folder of the scores of the language model before fine-tuning, however samples are selected."""
    # Of a part of the samples, influence tells which part.
    steps = _LLM_SCORES if config["effort_sample_ratio"] == 1 else {*_LLM_SCORES, *_SURROGATES, "influence"}
    return f"{config['dataset']}-{config['model']}-shared-{_digest(config, splits, steps)}"


def surrogate_score_name(config: Config, splits: Splits) -> str:
    """Folder of scores that are computed on surrogates alone, whichever recommender is fine-tuned how."""
    digest = _digest(config, splits, (*_SURROGATES, "influence"))
    return f"{config['dataset']}-{config['surrogate_model']}-scores-{digest}"


def surrogate_name(config: Config, splits: Splits) -> str:
    """Folder of the surrogates, whatever is computed on them."""
    return f"{config['dataset']}-{config['surrogate_model']}-surrogates-{_digest(config, splits, _SURROGATES)}"


def _digest(config: Config, splits: Splits, steps: Collection[str]) -> str:
    """Twelve hexadecimal digits of the keys that change these steps, checkpoints, rows, item tokens and titles."""
    values = {key_of(name): value for name, value in config.resolved().items()}
    keys = {
        key.name: checkpoint_content(value) if key.kind is CHECKPOINT else value
        for key, value in values.items()
        if key.step in steps
    }
    hashed = hashlib.sha256(json.dumps(keys, sort_keys=True, default=str).encode())
    for part in (splits.train, splits.valid, splits.test):
        samples = CandidateSamples.from_dataset(part)
        for column in (samples.user_id, samples.item_id, samples.item_id_list):
            hashed.update(np.ascontiguousarray(column).tobytes())
    tokens = splits.train.field2id_token[splits.train.iid_field]
    hashed.update("\n".join([*map(str, tokens), *splits.train.titles]).encode())
    return hashed.hexdigest()[:12]


def checkpoint_content(path: str) -> str:
    """What tells a checkpoint from any other.

    Args:
        path: file, folder, Hugging Face id, or a name that is none of these.

    Returns:
        SHA-256 of a file or of all files of a folder, the commit of what was downloaded, or the name itself.
    """
    if Path(path).exists():
        files = sorted(file for file in [Path(path), *Path(path).rglob("*")] if file.is_file())
        return _content(path, tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    downloaded = try_to_load_from_cache(path, "config.json") if "/" in path else None
    return f"{path}@{Path(downloaded).parent.name}" if isinstance(downloaded, str) else path


@cache
def _content(path: str, state: tuple) -> str:
    """Checksum of a folder; ``state`` changes when a file does."""
    return checksum(Path(path))
