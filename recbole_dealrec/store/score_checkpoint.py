"""Scores of all samples, computed batch by batch, shared among the processes and saved so that a pass can resume."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.store.console import progress_bar
from recbole_dealrec.store.opening import process_folder
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder
from recbole_dealrec.store.step import stopwatch

Batch = TypeVar("Batch")
_SECONDS = 30  # minimum time between two writes
_WRITING_SHARE = 0.05  # maximum share of the time for writing
_SUFFIX = f".npz{UNFINISHED}"


class ScoreCheckpoint:
    """Save unfinished scores in a run folder, each process its own share.

    Args:
        folder: run folder; None saves nothing.
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
        """Return the scores of all samples, [n] or [n, d], in every process; saved batches are not computed again.

        Args:
            name: name of the scores.
            rows: int64 [n], rows of the samples; scores saved for other rows are not used.
            batches: indices, int64 [B], and batch; equal in every run, else a score may differ in its last digits.
            compute: returns a batch's scores, [B] or [B, d].
        """
        saved = self._load(name, rows) or {"scores": None, "done": np.zeros(len(rows), dtype=bool)}
        scores, done = saved["scores"], saved["done"]
        writer = PeriodicWriter()
        for index, values in compute_share(batches, compute, lambda index: not done[index].all()):
            if scores is None:
                scores = _empty(len(rows), values)
            scores[index], done[index] = values, True
            writer.write_if_due(self._save, name, rows=rows, scores=scores, done=done)
        return join_shares(scores, done)

    def compute_on_main(self, name: str, rows: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array that rank 0 loads, or computes and saves."""

        def load_or_compute() -> np.ndarray:
            if saved := self._load(name, rows):
                return saved["values"]
            values = compute()
            self._save(name, rows=rows, values=values)
            return values

        return processes.on_main(load_or_compute)

    def _load(self, name: str, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        file = name + _SUFFIX
        if self.folder is None or not self.folder.has(file):
            return None
        with np.load(self.folder / file) as arrays:
            if not np.array_equal(arrays["rows"], rows):
                return None
            stopwatch.resume(float(arrays["seconds"]))
            return dict(arrays)

    def _save(self, name: str, **arrays: np.ndarray) -> None:
        if self.folder is not None:
            with self.folder.output(name + _SUFFIX) as path, open(path, "wb") as stream:
                np.savez(stream, seconds=stopwatch.seconds(), **arrays)


class PeriodicWriter:
    """Write every ``_SECONDS``, or less often if writing would take more than ``_WRITING_SHARE`` of the time."""

    def __init__(self) -> None:
        self._due = perf_counter() + _SECONDS

    def write_if_due(self, write: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Call ``write`` if enough time has passed since the last call."""
        if (start := perf_counter()) > self._due:
            write(*arguments, **named)
            self._due = perf_counter() + max(_SECONDS, (perf_counter() - start) / _WRITING_SHARE)


def compute_share(
    batches: Iterable[tuple[np.ndarray, Batch]],
    compute: Callable[[Batch], np.ndarray],
    is_needed: Callable[[np.ndarray], bool] = lambda index: True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield indices and scores of this process's batches: every ``world_size``-th one, if ``is_needed``.

    With FSDP, ``compute`` is called equally often in every process.
    """
    batches = iter(batches)
    first = next(batches)
    share = islice(chain([first], batches), processes.rank(), None, processes.world_size())
    pending = ((index, batch) for index, batch in share if is_needed(index))
    for (index, batch), counts in fsdp.in_lockstep(pending, lambda: first):
        values = compute(batch)
        if counts:
            yield index, values


def join_shares(scores: np.ndarray | None, done: np.ndarray) -> np.ndarray:
    """Return the scores [n] or [n, d] of all processes.

    Args:
        scores: this process's scores, None if it has none.
        done: bool [n], which of them it has.
    """
    if processes.world_size() == 1:
        return scores
    shares = processes.gather((np.flatnonzero(done), None if scores is None else scores[done]))
    joined = _empty(len(done), next(values for _, values in shares if values is not None))
    for index, values in shares:
        if values is not None:
            joined[index] = values
    return joined


def with_progress(
    batches: Iterable[tuple[np.ndarray, Batch]], total: int, description: str | None, hidden: bool
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield indices and batch, with a progress bar over ``total`` samples."""
    with progress_bar(shown=not hidden, total=total, desc=description) as progress:
        for index, batch in batches:
            yield index, batch
            progress.update(len(index))


def _empty(n: int, values: np.ndarray) -> np.ndarray:
    return np.empty((n, *values.shape[1:]), dtype=values.dtype)
