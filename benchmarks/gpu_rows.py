"""Rows of measurements: stored immediately, measured once, and started only if they will probably end in time."""

import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time
from typing import Any

import common
import pandas as pd
import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from effort_cost import clock

from recbole_dealrec.model.memory import out_of_memory
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.peak_memory import peak_memory

Row = dict[str, Any]


class Deadline:
    """A number of seconds from the start of this process, including its imports."""

    def __init__(self, seconds: float) -> None:
        self._end = psutil.Process().create_time() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time()


class Rows:
    """The rows of one part, in a CSV file.

    Each has a name, what was measured, the device, date and versions, the seconds it took, and the error of a
    measurement that failed; a later call measures such a row again.

    Args:
        file: the CSV file.
        deadline: when the call has to end.

    Attributes:
        left_out: names of the rows that were not started, because time was too short.
    """

    def __init__(self, file: Path, deadline: Deadline) -> None:
        self.file = file
        self.deadline = deadline
        self.left_out: list[str] = []

    def table(self) -> pd.DataFrame:
        """Return the rows so far."""
        return pd.read_csv(self.file) if self.file.is_file() else pd.DataFrame(columns=["row", "error"])

    def find(self, name: str) -> Row | None:
        """Return the row of this name, if its measurement succeeded."""
        table = self.table()
        found = table[(table["row"] == name) & table["error"].isna()]
        return None if found.empty else found.iloc[0].to_dict()

    def add(self, name: str, measure: Callable[[], Row], expected: float) -> None:
        """Measure a row, unless it exists or its probable seconds, ``expected``, are more than the seconds left."""
        if self.find(name):
            return
        if self.deadline.left() < expected:
            self.left_out.append(name)
            return
        start = perf_counter()
        try:
            with peak_memory() as peaks:
                row, error = measure(), None
        except Exception as failure:  # no error may stop the other rows
            traceback.print_exc()
            row, error = {}, f"{type(failure).__name__}: {failure}"
        clear_device_cache(garbage_collection=True)
        seconds, held = perf_counter() - start, peak(peaks())
        self.put({"row": name, "peak MiB": held, **row, "row seconds": round(seconds, 1), "error": error})

    def put(self, row: Row) -> None:
        """Store a row, and replace an older one of its name."""
        row = {**row, "device": device_name(), "machine": common.header()}
        print(row, flush=True)
        self.replace([*(old for old in self.table().to_dict("records") if old["row"] != row["row"]), row])

    def replace(self, rows: list[Row]) -> None:
        """Store these rows and no others."""
        if not rows:
            self.file.unlink(missing_ok=True)
            return
        with atomic_path(self.file) as file:
            pd.DataFrame(rows).to_csv(file, index=False)


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def timed(run: Callable[[], object], samples: int) -> Row:
    """Return samples per second and peak memory (of a GPU, else of the process) of a call on ``samples``."""
    with peak_memory() as peaks:
        seconds = clock(run)
    return {"samples": samples, "samples/s": samples / seconds, "peak MiB": peak(peaks())}


def peak(memory: dict[str, float]) -> float:
    """Return the value of ``peak_memory`` that matters on this device."""
    return memory.get("gpu", memory["resident"])


def fitting(run: Callable[[int], Row], size: int) -> Row:
    """Return ``run`` of ``size``, or of the first of its halves that fits into memory, and that size.

    Raises:
        Exception: any error of ``run``, but out of memory only for size 1.
    """
    while True:
        try:
            return {"batch": size, **run(size)}
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
        clear_device_cache(garbage_collection=True)
        size //= 2
