"""The validation part in two halves: one for the selection to see, one to tune on."""

import numpy as np
from recbole.data.dataset import SequentialDataset

from recbole_dealrec.config import Config
from recbole_dealrec.data.candidates import CandidateSamples
from recbole_dealrec.errors import InputError

_WORDS = {"user": "half of its users, drawn by the seed", "time": "its earlier half"}


def validation_halves(config: Config, valid: SequentialDataset) -> tuple[SequentialDataset, SequentialDataset] | None:
    """Return the half of the validation part that the selection sees, and the other one; None if it is not halved.

    Args:
        config: reads ``selection_part`` and ``seed``.
        valid: validation part.

    Raises:
        InputError: the part has no times to be halved by, or a half would be empty.
    """
    if (by := config["selection_part"]) == "none":
        return None
    samples = CandidateSamples.from_dataset(valid)
    seen = _first_users(samples, config["seed"]) if by == "user" else _earlier(samples)
    if seen.all() or not seen.any():
        raise InputError(f"configuration key 'selection_part' is {by}, but validation has one {by} alone; leave it out")
    return tuple(valid.copy(valid.inter_feat[np.flatnonzero(half)]) for half in (seen, ~seen))


def seen_text(by: str, n_seen: int, n_rows: int) -> str:
    """Return in words which rows of the validation part a selection may have seen, for its card."""
    return f"{_WORDS.get(by, 'all')}, {n_seen} of {n_rows} rows"


def _first_users(samples: CandidateSamples, seed: int) -> np.ndarray:
    """Return which samples are of half of the users, drawn by the seed; bool [n]."""
    users = np.unique(samples.user_id)
    drawn = np.random.default_rng(seed).choice(users, len(users) // 2, replace=False)
    return np.isin(samples.user_id, drawn)


def _earlier(samples: CandidateSamples) -> np.ndarray:
    """Return which samples are in the earlier half; bool [n]."""
    if samples.time is None:
        raise InputError(
            "configuration key 'selection_part': time needs the times of the interactions, which benchmark_filename "
            "has not; add the files' column of times to load_col, or use user"
        )
    seen = np.zeros(len(samples), dtype=bool)
    seen[np.argsort(samples.time, kind="stable")[: len(seen) // 2]] = True
    return seen
