"""A pass over the samples, shared by the processes, whose scores are kept while they come, so that it can go on."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.store.opening import process_folder
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder
from recbole_dealrec.store.step import stopwatch

Batch = TypeVar("Batch")
_SECONDS = 30  # between two writes, if not more
_WRITING_SHARE = 0.05  # of the time goes into writing at most
_SUFFIX = f".npz{UNFINISHED}"


class ScoreCheckpoint:
    """Keep unfinished scores in a run folder, each process those of its share.

    Args:
        folder: run folder; None keeps nothing.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder = folder and process_folder(folder)

    def score(
        self,
        name: str,
        rows: np.ndarray,
        batches: Iterable[tuple[np.ndarray, Batch]],
        compute: Callable[[Batch], np.ndarray],
    ) -> np.ndarray:
        """Return the scores that ``compute`` gives batch by batch, [n] or [n, d]; kept batches are not computed again.

        Each process computes every so many-th batch, and all get all scores.

        Args:
            name: what is computed.
            rows: int64 [n], rows of the samples; scores kept for others are not used.
            batches: indices, int64 [B], and batch; always the same ones, or a score may differ in its last digits.
            compute: gives a batch's scores, [B] or [B, d].
        """
        scores, done = self._read(name, rows)
        pace = Pace()
        for index, values in computed(batches, compute, lambda index: not done[index].all()):
            if scores is None:
                scores = _empty(len(rows), values)
            scores[index], done[index] = values, True
            pace.write(self._write, name, rows=rows, scores=scores, done=done)
        return joined(scores, done)

    def compute_once(self, name: str, rows: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array that the main process computes once and keeps."""

        def kept_or_computed() -> np.ndarray:
            if kept := self._kept(name, rows):
                return kept["values"]
            values = compute()
            self._write(name, rows=rows, values=values)
            return values

        return processes.on_main(kept_or_computed)

    def _read(self, name: str, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        if kept := self._kept(name, rows):
            return kept["scores"], kept["done"]
        return None, np.zeros(len(rows), dtype=bool)

    def _kept(self, name: str, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        file = name + _SUFFIX
        if self.folder is None or not self.folder.has(file):
            return None
        with np.load(self.folder / file) as arrays:
            if not np.array_equal(arrays["rows"], rows):
                return None
            stopwatch.resume(float(arrays["seconds"]))
            return dict(arrays)

    def _write(self, name: str, **arrays: np.ndarray) -> None:
        if self.folder is not None:
            with self.folder.output(name + _SUFFIX) as path, open(path, "wb") as stream:
                np.savez(stream, seconds=stopwatch.seconds(), **arrays)


class Pace:
    """Write now and then while a pass goes on: every ``_SECONDS``, or seldom enough for ``_WRITING_SHARE``."""

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
    """Give indices and scores of the batches that fall to this process: every so many-th, if it is needed.

    With FSDP, ``compute`` is called in every process as often as in the one that has most to do.
    """
    batches = iter(batches)
    first = next(batches)
    share = islice(chain([first], batches), processes.rank(), None, processes.world_size())
    pending = ((index, batch) for index, batch in share if is_needed(index))
    for (index, batch), counts in fsdp.in_lockstep(pending, lambda: first):
        values = compute(batch)
        if counts:
            yield index, values


def joined(scores: np.ndarray | None, done: np.ndarray) -> np.ndarray:
    """Return scores [n] or [n, d] of all processes; this one has those that are ``done``, None if it has none."""
    if processes.world_size() == 1:
        return scores
    shares = processes.gather((np.flatnonzero(done), None if scores is None else scores[done]))
    of_all = _empty(len(done), next(values for _, values in shares if values is not None))
    for index, values in shares:
        if values is not None:
            of_all[index] = values
    return of_all


def with_progress(
    batches: Iterable[tuple[np.ndarray, Batch]], total: int, description: str | None, hidden: bool
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Give indices and batch, with a progress bar over ``total`` samples."""
    with tqdm(total=total, desc=description, ncols=100, disable=hidden) as progress:
        for index, batch in batches:
            yield index, batch
            progress.update(len(index))


def _empty(n: int, values: np.ndarray) -> np.ndarray:
    return np.empty((n, *values.shape[1:]), dtype=values.dtype)
