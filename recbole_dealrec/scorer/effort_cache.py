"""Effort scores shared by runs, with a hash of the network and the sample's tokens as key."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from torch import Tensor

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.distributed import processes
from recbole_dealrec.model.loss import IGNORED_LABEL
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.store.files import atomic_path, remove_scratch
from recbole_dealrec.store.score_checkpoint import PeriodicWriter, compute_share, join_shares, with_progress
from recbole_dealrec.store.step import stopwatch

KEY_BYTES = 16
_FOLDER_DIGITS = 16  # of a network's fingerprint; the keys depend on all of it
_FILE, _LOCK = "scores.npz", ".lock"


class Entries(NamedTuple):
    """Scores with their keys.

    Attributes:
        keys: from :func:`sample_keys`, uint8 [n, ``KEY_BYTES``].
        scores: effort, float64 [n]; NaN is a valid score.
        seconds: computing time of each score, float32 [n].
    """

    keys: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray

    def of(self, index: np.ndarray) -> "Entries":
        """Return the entries at ``index``, an integer or boolean array."""
        return Entries(*(values[index] for values in self))


_NO_ENTRIES = Entries(np.empty((0, KEY_BYTES), np.uint8), np.empty(0), np.empty(0, np.float32))


class EffortCache:
    """Effort scores in a folder that several runs can read and write at the same time.

    There is one file per network. A run reads from it the scores of earlier runs, such as runs on less data, with
    another sampler, or interrupted ones. Their computing time is added to the current step. The folder can be deleted
    at any time.

    Args:
        folder: folder of the cache; created if absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def score(
        self,
        llm: LLMRecommender,
        samples: CandidateSamples,
        effort_parameters: str | list[str],
        compute_context: AbstractContextManager[Callable[[dict[str, Tensor]], np.ndarray]],
    ) -> np.ndarray:
        """Return the effort of each sample, float64 [n]; compute and store the missing scores.

        Args:
            llm: the recommender.
            samples: the samples.
            effort_parameters: value of the configuration key.
            compute_context: yields a function of a batch's scores, [B]; entered only if a score is missing.
        """
        fingerprint = llm.fingerprint()
        path = self.folder / fingerprint[:_FOLDER_DIGITS] / _FILE
        entries, known = processes.on_main(
            lambda: self._look_up(path, sample_keys(llm, fingerprint, samples, effort_parameters))
        )
        count = int(known.sum())
        getLogger().info(f"effort: {count} of {len(known)} scores are known, {len(known) - count} to compute")
        if count == len(known):
            return entries.scores
        batches = _missing_batches(llm, samples, ~known)
        hidden = not llm.config["show_progress"]
        with compute_context as compute:
            new = _compute(path, entries, with_progress(batches, len(known) - count, "effort", hidden), compute)
        return join_shares(entries.scores, known | new)

    def _look_up(self, path: Path, keys: np.ndarray) -> tuple[Entries, np.ndarray]:
        """Return entries of these keys, NaN and 0 seconds where none is stored, and whether one is stored, bool [n]."""
        stored = _read(path)
        place = np.searchsorted(_as_single_values(stored.keys), _as_single_values(keys))
        known = place < len(stored.keys)
        known[known] = (stored.keys[place[known]] == keys[known]).all(axis=1)
        entries = Entries(keys, np.full(len(keys), np.nan), np.zeros(len(keys), np.float32))
        entries.scores[known], entries.seconds[known] = stored.scores[place[known]], stored.seconds[place[known]]
        stopwatch.add(float(entries.seconds.sum(dtype=np.float64)))
        return entries, known


def sample_keys(
    llm: LLMRecommender, fingerprint: str, samples: CandidateSamples, effort_parameters: str | list[str]
) -> np.ndarray:
    """Return a BLAKE2b hash of everything that the effort of each sample depends on, uint8 [n, ``KEY_BYTES``].

    These are the ``fingerprint`` of the language model, ``effort_parameters``, and the tokens read and written.
    """
    of_model = hashlib.blake2b(f"{fingerprint}\n{json.dumps(effort_parameters)}\n".encode(), digest_size=KEY_BYTES)
    keys = np.empty((len(samples), KEY_BYTES), dtype=np.uint8)
    for index, batch in llm.batches(samples):
        tokens, mask, labels = (batch[name].numpy() for name in ("input_ids", "attention_mask", "labels"))
        for row, sample in enumerate(index):
            read = tokens[row][mask[row] == 1]
            hashed = of_model.copy()
            hashed.update(np.concatenate([[len(read)], read, labels[row][labels[row] != IGNORED_LABEL]]).tobytes())
            keys[sample] = np.frombuffer(hashed.digest(), dtype=np.uint8)
    return keys


def _missing_batches(
    llm: LLMRecommender, samples: CandidateSamples, missing: np.ndarray
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield indices and batches of the missing scores.

    A batch whose scores are all missing is unchanged, so that an interrupted run gives the same scores as an
    uninterrupted one, to the last digit. The missing samples of the other batches are put into new batches.
    """
    rest = []
    for index, batch in llm.batches(samples):
        if missing[index].all():
            yield index, batch
        else:
            rest.append(index[missing[index]])
    left = np.sort(np.concatenate(rest)) if rest else np.empty(0, dtype=np.int64)
    if len(left):
        yield from ((left[index], batch) for index, batch in llm.batches(samples[left]))


def _compute(path: Path, entries: Entries, batches: Iterator, compute: Callable) -> np.ndarray:
    """Compute this process's share, set and store its entries, and return their mask, bool [n]."""
    new, writer, start = np.zeros(len(entries.keys), dtype=bool), PeriodicWriter(), perf_counter()
    for index, values in compute_share(batches, compute):
        # The other processes compute at the same time.
        entries.seconds[index] = (perf_counter() - start) / len(index) / processes.world_size()
        entries.scores[index], new[index] = values, True
        writer.write_if_due(_add, path, entries, new)
        start = perf_counter()
    if new.any():
        _add(path, entries, new)
    return new


def _as_single_values(keys: np.ndarray) -> np.ndarray:
    """Return each key as one comparable value, [n]."""
    return np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").ravel()


def _add(path: Path, entries: Entries, new: np.ndarray) -> None:
    """Add the new entries to those in the file.

    Raises:
        InputError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / _LOCK):
        remove_scratch(path.parent)
        together = Entries(*map(np.concatenate, zip(_read(path), entries.of(new), strict=True)))
        _, first = np.unique(_as_single_values(together.keys), return_index=True)
        with atomic_path(path) as file, open(file, "wb") as stream:
            np.savez(stream, **together.of(first)._asdict())


def _read(path: Path) -> Entries:
    """Return the entries of a file, sorted by key; none if it is missing or broken."""
    if not path.exists():
        return _NO_ENTRIES
    try:
        with np.load(path) as arrays:
            entries = Entries(*(arrays[name] for name in Entries._fields))
        if not all(map(_same_layout, entries, _NO_ENTRIES)) or len({len(values) for values in entries}) > 1:
            raise ValueError("its arrays are not effort scores")
    except Exception as error:  # NumPy and zipfile raise many kinds of errors for a broken file
        getLogger().warning(f"{path}: cannot be read and is ignored ({error}); its scores are computed again")
        return _NO_ENTRIES
    return entries


def _same_layout(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays agree in dtype and in all dimensions but the first."""
    return one.dtype == other.dtype and one.shape[1:] == other.shape[1:] and one.ndim == other.ndim
