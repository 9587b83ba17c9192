"""A pass over the samples, shared by the processes, whose scores are kept while they come, so that it can go on."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from recbole_dealrec import processes, sharding
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.run_folder import UNFINISHED, RunFolder

Batch = TypeVar("Batch")
_SECONDS = 30  # between two writes, if not more
_WRITING_SHARE = 0.05  # of the time goes into writing at most
_SUFFIX = f".npz{UNFINISHED}"


class ScoreCheckpoint:
    """Keeps unfinished scores in a run folder, each process those of its share.

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
        """Scores that ``compute`` gives batch by batch, [n] or [n, d]; batches that are kept are not computed again.

        Each process computes every so many-th batch, and all get all scores.

        Args:
            name: what is computed.
            samples: the samples; scores kept for others are not used.
            batches: indices, int64 [B], and batch; always the same ones, or a score may differ in its last digits.
            compute: gives a batch's scores, [B] or [B, d].
        """
        scores, done = self._read(name, samples)
        pace = Pace()
        for index, values in computed(batches, compute, lambda index: not done[index].all()):
            if scores is None:
                scores = _empty(len(samples), values)
            scores[index], done[index] = values, True
            pace.write(self._write, name, rows=samples.rows, scores=scores, done=done)
        return joined(scores, done)

    def once(self, name: str, samples: CandidateSamples, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that the main process computes once and keeps."""
        return processes.on_main(lambda: self._once(name, samples, compute))

    def _once(self, name: str, samples: CandidateSamples, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if kept := self._kept(name, samples):
            return kept["values"]
        values = compute()
        self._write(name, rows=samples.rows, values=values)
        return values

    def _read(self, name: str, samples: CandidateSamples) -> tuple[np.ndarray | None, np.ndarray]:
        if kept := self._kept(name, samples):
            return kept["scores"], kept["done"]
        return None, np.zeros(len(samples), dtype=bool)

    def _kept(self, name: str, samples: CandidateSamples) -> dict[str, np.ndarray] | None:
        file = name + _SUFFIX
        if self.folder is None or not self.folder.own.has(file):
            return None
        with np.load(self.folder.own / file) as arrays:
            if not np.array_equal(arrays["rows"], samples.rows):
                return None
            self.folder.own.go_on_from(file)
            return dict(arrays)

    def _write(self, name: str, **arrays: np.ndarray) -> None:
        if self.folder is not None:
            with self.folder.own.output(name + _SUFFIX) as path, open(path, "wb") as stream:
                np.savez(stream, **arrays)


class Pace:
    """Writes now and then while a pass goes on: every ``_SECONDS``, or seldom enough for ``_WRITING_SHARE``."""

    def __init__(self) -> None:
        self._due = perf_counter() + _SECONDS

    def write(self, write: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Call ``write`` if it is time to."""
        if (start := perf_counter()) > self._due:
            write(*arguments, **named)
            self._due = perf_counter() + max(_SECONDS, (perf_counter() - start) / _WRITING_SHARE)


def computed(
    batches: Iterable[tuple[np.ndarray, Batch]],
    compute: Callable[[Batch], np.ndarray],
    is_needed: Callable[[np.ndarray], bool] = lambda index: True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices and scores of the batches that fall to this process: every so many-th, if it is needed.

    With FSDP, ``compute`` is called in every process as often as in the one that has most to do.
    """
    batches = iter(batches)
    first = next(batches)
    share = islice(chain([first], batches), processes.number(), None, processes.count())
    pending = ((index, batch) for index, batch in share if is_needed(index))
    for (index, batch), own in sharding.in_step(pending, lambda: first):
        values = compute(batch)
        if own:
            yield index, values


def joined(scores: np.ndarray | None, done: np.ndarray) -> np.ndarray:
    """Scores [n] or [n, d] of all processes, of which this one has those that are ``done``, None if it has none."""
    if processes.count() == 1:
        return scores
    shares = processes.gather((np.flatnonzero(done), None if scores is None else scores[done]))
    whole = _empty(len(done), next(values for _, values in shares if values is not None))
    for index, values in shares:
        if values is not None:
            whole[index] = values
    return whole


def with_progress(
    batches: Iterable[tuple[np.ndarray, Batch]], total: int, description: str | None, hidden: bool
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Indices and batch, with a progress bar over ``total`` samples."""
    with tqdm(total=total, desc=description, ncols=100, disable=hidden) as progress:
        for index, batch in batches:
            yield index, batch
            progress.update(len(index))


def _empty(n: int, values: np.ndarray) -> np.ndarray:
    return np.empty((n, *values.shape[1:]), dtype=values.dtype)
