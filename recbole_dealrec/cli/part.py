"""A representative part of a run's work: a full batch of about the mean length, and one epoch."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from recbole_dealrec.config import Config
from recbole_dealrec.data import Fields, QueryDataLoader, SequentialDataset
from recbole_dealrec.pipeline import Job
from recbole_dealrec.store.run_folder import RunFolder

_LISSA_STEPS = 500
_CURVATURE_SAMPLES = 64  # a solve passes over them dozens of times
_FEW, _SHORT = 2, 1.0  # rows of a warm-up pass; seconds below which a pass is repeated


def with_keys(config: Config, keys: Mapping[str, Any]) -> Config:
    """Return a configuration with other values of some keys."""
    return Config(config["model"], config["dataset"], config_dict={**config.resolved(), **keys})


def short_config(config: Config, folder: Path) -> Config:
    """Return a run's configuration with one epoch and one surrogate, and outputs in another folder."""
    keys = {
        "checkpoint_dir": str(folder), "show_progress": False, "n_surrogates": 1, "surrogate_epochs": 1, "epochs": 1,
        "effort_sample_ratio": 1.0, "hessian_samples": _CURVATURE_SAMPLES, "lissa_depth": _LISSA_STEPS,
        "lissa_repeats": 1, "train_batch_size": config["micro_batch_size"],
    }  # fmt: skip
    for path in ("llm_path", "text_encoder_path"):
        if path in config and Path(config[path]).exists():
            keys[path] = str(Path(config[path]).absolute())  # the steps are measured in the other folder
    return with_keys(config, keys)


def typical(lengths: np.ndarray, size: int, config: Config) -> np.ndarray:
    """Return ``size`` rows, or all, that are consecutive when sorted by length, around the mean length.

    Args:
        lengths: items of each history, of which the recommender may read only the latest.
        size: number of rows.
        config: reads ``max_history_titles`` or ``max_history_items``.
    """
    read = [config[key] for key in ("max_history_titles", "max_history_items") if key in config]
    lengths = np.minimum(lengths, min(read, default=lengths.max()))
    order = np.argsort(lengths, kind="stable")
    start = np.searchsorted(lengths[order], lengths.mean()) - size // 2
    start = int(np.clip(start, 0, max(0, len(order) - size)))
    return order[start : start + size]


def evaluations(epochs: int, eval_step: int) -> int:
    """Return how often a training is evaluated."""
    step = min(epochs, eval_step)
    return epochs // step if step > 0 else 0


def n_selected(job: Job) -> int:
    """Return the number of samples to fine-tune on."""
    return len(job.samples) if job.config["sampler"] == "Full" else job.config["n_fewshot"]


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def timed(run: Callable[[np.ndarray], Any], rows: np.ndarray) -> float:
    """Return the seconds of a pass over rows, after a warm-up on a few of them; a short pass is repeated."""
    run(rows[:_FEW])
    seconds = seconds_of(lambda: run(rows))
    return seconds if seconds > _SHORT else min(seconds, seconds_of(lambda: run(rows)))


def lengths_of(dataset: SequentialDataset) -> np.ndarray:
    """Return the number of items in the history of each row."""
    return dataset.inter_feat[Fields.of(dataset.config).length].numpy()


def query_seconds(config: Config, dataset: SequentialDataset, n_queries: int, evaluate: Callable) -> float:
    """Return the seconds of ``n_queries`` queries (0: all), measured on one batch of them."""
    loader = lambda rows: QueryDataLoader(config, dataset.copy(dataset.inter_feat[rows]))  # noqa: E731
    rows = typical(lengths_of(dataset), config["eval_batch_size"], config)
    seconds = timed(lambda rows: evaluate(loader(rows)), rows)
    return seconds * len(QueryDataLoader(config, dataset, n_queries).positives) / len(loader(rows).positives)


def new_folder(folder: Path) -> RunFolder:
    """Return a new run folder inside a temporary folder."""
    return RunFolder(Path(tempfile.mkdtemp(dir=folder)))
