"""The seconds and peak memory of each step of a run, saved in the folder of the step's outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from recbole_dealrec.store.console import CONSOLE
from recbole_dealrec.store.opening import synchronize
from recbole_dealrec.store.peak_memory import memory_text, peak_memory
from recbole_dealrec.store.run_folder import RunFolder

_STEPS = "steps.json"
Record = dict[str, Any]  # "seconds", and "memory", peaks in MiB by name


class Stopwatch:
    """Seconds of the current step, including those of interrupted runs."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Restart at zero for a new step."""
        self._start, self._earlier = perf_counter(), 0.0

    def seconds(self) -> float:
        """Return the seconds of the current step so far."""
        return perf_counter() - self._start + self._earlier

    def resume(self, seconds: float) -> None:
        """Count the seconds that an interrupted run had spent up to the state that this run resumes from."""
        self._earlier = max(self._earlier, float(seconds))

    def add(self, seconds: float) -> None:
        """Add seconds that other runs had spent on a part of the step."""
        self._earlier += seconds


stopwatch = Stopwatch()


def is_due(folder: RunFolder, name: str, *outputs: str) -> bool:
    """Return whether an output of a step is missing; if none is, log that they are from an earlier run."""
    due = not folder.has(*outputs)
    if not due:
        CONSOLE.info(f"{name}: from an earlier run")
    return due


@contextmanager
def step(folder: RunFolder, name: str, detail: str = "", shown_name: str = "") -> Iterator[dict[str, Any]]:
    """Measure a step of all processes, and add its record to the folder if it ends without an error.

    JSON outputs that are put into the yielded dictionary, by file name, are written after the record, so that a killed
    run never has an output without the record of its step. Steps must not be nested.

    Args:
        folder: folder of the step's outputs.
        name: name of its record.
        detail: text for the terminal at its beginning, such as the number of samples.
        shown_name: its name in the terminal, if that is different.
    """
    outputs: dict[str, Any] = {}
    stopwatch.restart()
    shown_name = shown_name or name
    CONSOLE.info(f"{shown_name}: {detail} ..." if detail else f"{shown_name} ...")
    with peak_memory() as memory:
        yield outputs
    seconds = round(stopwatch.seconds(), 3)
    record = {"seconds": seconds, "memory": memory()}
    add_records(folder, {name: record})
    for file, content in outputs.items():
        folder.output_json(file, content)
    synchronize(folder)
    CONSOLE.info(f"{shown_name}: {seconds:,.1f} s, {memory_text(record['memory'])}")


def add_records(folder: RunFolder, added: dict[str, Record]) -> None:
    """Add records to those of a folder."""
    folder.output_json(_STEPS, {**records(folder), **added})


def records(folder: RunFolder) -> dict[str, Record]:
    """Return the records of the steps in a folder by name, in the order in which they were added."""
    return folder.read_json(_STEPS, {})
