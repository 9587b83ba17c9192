"""Names of the folders that runs are kept in, after all that determines what comes out."""

import hashlib
import json
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from huggingface_hub import try_to_load_from_cache

from recbole_dealrec.config import Config, properties_folder
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.store.atomic import checksum
from recbole_dealrec.values import read_yaml

# Keys that change how a run is carried out, not what comes out.
_NEUTRAL_KEYS = {
    "show_progress", "state", "gpu_id", "use_gpu", "device", "checkpoint_dir", "data_path", "log_wandb",
    "wandb_project", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "worker",
    "config_files", "tokens_per_batch", "micro_batch_size", "eval_batch_size", "surrogate_eval_batch_size",
    "llm_device_map",
}  # fmt: skip
_EFFORT_KEYS = {"effort_parameters", "effort_sample_ratio"}
_INFLUENCE_KEYS = {
    "hessian_solver", "hessian_damping", "hessian_samples", "lissa_depth", "lissa_scale", "lissa_repeats",
    "lissa_damping", "curvature", "n_surrogates", "influence_parameters", "influence_on",
}  # fmt: skip
_CHECKPOINT_KEYS = ("llm_path", "text_encoder_path")  # what is there counts, not what the folder is called
# Keys that surrogates, scores and the language model before fine-tuning do not depend on.
SELECTION_KEYS = {"sampler", "n_fewshot", "effort_weight", "n_groups", "hard_prune_ratio"}
FINE_TUNING_KEYS = {
    "epochs", "train_batch_size", "learner", "learning_rate", "weight_decay", "clip_grad_norm", "warmup_steps",
    "mixed_precision", "eval_step", "stopping_step", "valid_metric", "n_valid", "n_test", "metrics", "topk",
    "num_beams", "max_new_tokens", "scoring", "grounding", "grounding_popularity",
}  # fmt: skip


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
    return f"{config['dataset']}-{config['model']}-{config['sampler']}-{_digest(config, splits, _NEUTRAL_KEYS)}"


def shared_name(config: Config, splits: Splits) -> str:
    """Folder of the scores of the language model before fine-tuning, however samples are selected."""
    ignored = _NEUTRAL_KEYS | SELECTION_KEYS | FINE_TUNING_KEYS
    if config["effort_sample_ratio"] == 1:
        ignored = ignored | _INFLUENCE_KEYS  # of a part of the samples, influence tells which part
    digest = _digest(config, splits, ignored)
    return f"{config['dataset']}-{config['model']}-shared-{digest}"


def surrogate_score_name(config: Config, splits: Splits) -> str:
    """Folder of scores that are computed on surrogates alone, whichever recommender is fine-tuned how."""
    return _surrogate_folder(config, splits, "scores", _recommender_keys())


def surrogate_name(config: Config, splits: Splits) -> str:
    """Folder of the surrogates, whatever is computed on them."""
    return _surrogate_folder(config, splits, "surrogates", _recommender_keys() | _INFLUENCE_KEYS)


def _surrogate_folder(config: Config, splits: Splits, kind: str, ignored: Set[str]) -> str:
    digest = _digest(config, splits, _NEUTRAL_KEYS | SELECTION_KEYS | FINE_TUNING_KEYS | ignored)
    return f"{config['dataset']}-{config['surrogate_model']}-{kind}-{digest}"


@cache
def _recommender_keys() -> frozenset[str]:
    """Keys of the recommenders and of effort, which surrogates and their scores do not depend on."""
    folder = properties_folder()
    files = [*folder.glob("model/*.yaml"), *folder.glob("llm/*.yaml")]
    read = {"model"}.union(*map(read_yaml, files)) - read_yaml(folder / "overall.yaml").keys()
    return frozenset(read | _EFFORT_KEYS)


def _digest(config: Config, splits: Splits, ignored: Set[str]) -> str:
    """Twelve hexadecimal digits of the keys that are not ignored, checkpoints, rows, item tokens and titles."""
    keys = {key: value for key, value in config.resolved().items() if key not in ignored}
    keys.update({key: checkpoint_content(keys[key]) for key in _CHECKPOINT_KEYS if key in keys})
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
