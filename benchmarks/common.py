"""Functions of all benchmarks: a line about the machine, Markdown tables, and the files of results."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import torch
import transformers

RESULTS = Path(__file__).parent / "results"


def header() -> str:
    """Return date, machine and versions as a sentence without a full stop."""
    devices = [f"{platform.machine()}, {torch.get_num_threads()} threads on {os.cpu_count()} CPUs"]
    if torch.cuda.is_available():
        devices.append(torch.cuda.get_device_name())
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, transformers, peft)]
    return ", ".join([str(date.today()), *devices, f"Python {platform.python_version()}", *versions])


def commit() -> str:
    """Return the commit that is checked out, short."""
    return _git(RESULTS.parent, "rev-parse", "--short", "HEAD")


def cloned(earlier: str, folder: Path) -> Path:
    """Clone this repository into a folder at an earlier commit, and return the folder."""
    _git(RESULTS.parent, "clone", "--quiet", "..", str(folder))
    _git(folder, "checkout", "--quiet", earlier)
    return folder


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers that are not whole have four decimals; pass text for another form."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: pd.Series, decimals: int = 4) -> str:
    """Return the mean and, for several values, the standard deviation."""
    deviation = f" ± {values.std():.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{deviation}"


def write(name: str, text: str) -> None:
    """Print a result and write it to ``results/<name>.md``."""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
