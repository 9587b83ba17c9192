"""Scores that are kept while they come, so that an interrupted pass over the samples goes on."""

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TypeVar

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.run_folder import UNFINISHED, RunFolder

Batch = TypeVar("Batch")
_SECONDS = 30  # between two writes
_SUFFIX = f".npz{UNFINISHED}"


class ScoreCheckpoint:
    """Keeps unfinished scores in a run folder.

    Args:
        folder: run folder; None keeps nothing.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder = folder

    def fill(
        self,
        name: str,
        samples: CandidateSamples,
        batches: Iterable[tuple[np.ndarray, Batch]],
        compute: Callable[[Batch], np.ndarray],
    ) -> np.ndarray:
        """Scores that ``compute`` gives batch by batch, float64 [n]; batches that are kept are not computed again.

        Args:
            name: what is computed.
            samples: the samples; scores kept for others are not used.
            batches: indices, int64 [B], and batch; always the same ones, or a score may differ in its last digits.
            compute: gives a batch's scores, [B].
        """
        scores, done = self._read(name, samples)
        written = perf_counter()
        for index, batch in batches:
            if done[index].all():
                continue
            scores[index], done[index] = compute(batch), True
            if perf_counter() - written > _SECONDS:
                self._write(name, rows=samples.rows, scores=scores, done=done)
                written = perf_counter()
        return scores

    def once(self, name: str, samples: CandidateSamples, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that is computed once and kept."""
        if kept := self._kept(name, samples):
            return kept["values"]
        values = compute()
        self._write(name, rows=samples.rows, values=values)
        return values

    def _read(self, name: str, samples: CandidateSamples) -> tuple[np.ndarray, np.ndarray]:
        if kept := self._kept(name, samples):
            return kept["scores"], kept["done"]
        return np.empty(len(samples)), np.zeros(len(samples), dtype=bool)

    def _kept(self, name: str, samples: CandidateSamples) -> dict[str, np.ndarray] | None:
        file = name + _SUFFIX
        if self.folder is None or not self.folder.has(file):
            return None
        with np.load(self.folder / file) as arrays:
            return dict(arrays) if np.array_equal(arrays["rows"], samples.rows) else None

    def _write(self, name: str, **arrays: np.ndarray) -> None:
        if self.folder is not None:
            with self.folder.output(name + _SUFFIX) as path, open(path, "wb") as stream:
                np.savez(stream, **arrays)
