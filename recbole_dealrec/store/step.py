"""A step of a run: its seconds and peak memory, kept in the folder that holds what it made."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from time import perf_counter
from typing import Any

from recbole_dealrec.store.opening import agree
from recbole_dealrec.store.peak_memory import watched_memory
from recbole_dealrec.store.run_folder import RunFolder

_STEPS = "steps.json"
Record = dict[str, Any]  # "seconds", and "memory", peaks in MiB by name


class Stopwatch:
    """Seconds of the step that is going on, with those that interrupted runs had spent on it."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a step."""
        self._start, self._earlier = perf_counter(), 0.0

    def seconds(self) -> float:
        """Return the seconds until now."""
        return perf_counter() - self._start + self._earlier

    def resume(self, seconds: float) -> None:
        """Count the seconds that an interrupted run had spent up to what this one goes on from."""
        self._earlier = max(self._earlier, float(seconds))

    def add(self, seconds: float) -> None:
        """Count seconds that other runs had spent on a part of the step."""
        self._earlier += seconds


stopwatch = Stopwatch()


@contextmanager
def step(folder: RunFolder, name: str) -> Iterator[None]:
    """Log and measure a step, which all processes take part in; steps do not lie inside one another.

    Its record is kept once the step ends without an error.
    """
    stopwatch.restart()
    getLogger().info(f"step {name}")
    with watched_memory() as memory:
        yield
    seconds = round(stopwatch.seconds(), 3)
    keep(folder, {name: {"seconds": seconds, "memory": memory()}})
    agree(folder)
    getLogger().info(f"step {name} took {seconds:.1f} s")


def keep(folder: RunFolder, found: dict[str, Record]) -> None:
    """Add records to those of a folder."""
    folder.output_json(_STEPS, {**records(folder), **found})


def records(folder: RunFolder) -> dict[str, Record]:
    """Return the records of the steps of a folder by name, in the order in which they were kept."""
    return folder.read_json(_STEPS, {})
