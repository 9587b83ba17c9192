"""``recbole-dealrec runs``: the runs and comparisons of a ``checkpoint_dir``, the latest last."""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import read_json


class Row(NamedTuple):
    """The row of a run or a comparison."""

    date: str
    dataset: str
    model: str
    sampler: str
    seed: str
    metrics: str
    path: str


def main(arguments: Sequence[str]) -> int:
    """Print the runs and comparisons, and return the exit code.

    Raises:
        InputError: as ``listed``.
    """
    about = "List the runs and comparisons of a folder, the latest last."
    parser = argparse.ArgumentParser(prog="recbole-dealrec runs", allow_abbrev=False, description=about)
    parser.add_argument("--checkpoint_dir", default="saved", help="folder of the run folders (saved)")
    options = parser.parse_args(arguments)
    rows = listed(Path(options.checkpoint_dir).expanduser())
    print(_aligned([Row(*Row._fields), *rows]))
    return 0


def listed(checkpoint_dir: Path) -> list[Row]:
    """Return a row for each run and comparison in a folder, sorted by date.

    The metrics of a run are those at the cut-off of its headline metric, without re-weighting; that of a
    comparison is the best sampler's mean of the headline metric over its seeds.

    Raises:
        InputError: the folder is missing, or has no run and no comparison.
    """
    if not checkpoint_dir.is_dir():
        raise InputError(f"checkpoint_dir '{checkpoint_dir}': no such folder; give the folder that holds the runs")
    folders = [path for path in checkpoint_dir.iterdir() if path.is_dir() and not path.is_symlink()]
    runs = [_run(path) for path in folders if (path / "config.yaml").is_file()]
    comparisons = [_comparison(path) for path in folders if (path / "runs.csv").is_file()]
    if not runs and not comparisons:
        raise InputError(f"checkpoint_dir '{checkpoint_dir}': holds no run")
    return sorted([*runs, *comparisons])


def _run(path: Path) -> Row:
    keys, result = read_yaml(path / "config.yaml"), _result(path)
    date = result["date"] if result else _date(path / "config.yaml")
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in _headlines(result)) if result else "not finished"
    return Row(date, keys["dataset"], keys["model"], keys["sampler"], str(keys["seed"]), metrics, str(path))


def _comparison(path: Path) -> Row:
    with open(path / "runs.csv", encoding="utf-8", newline="") as stream:
        runs = list(csv.DictReader(stream))
    first = (path / runs[0]["run_dir"]).resolve()
    results = [result for row in runs if (result := _result(path / row["run_dir"]))]
    date = max((result["date"] for result in results), default=_date(path / "runs.csv"))
    keys = read_yaml(first / "config.yaml") if first.is_dir() else {"dataset": "", "model": ""}
    samplers, seeds = (_distinct(row[name] for row in runs) for name in ("sampler", "seed"))
    metrics = _best(runs, results[0]["headline"]) if results and "headline" in results[0] else ""
    return Row(date, keys["dataset"], keys["model"], samplers, seeds, metrics, str(path))


def _result(path: Path) -> dict[str, Any] | None:
    """Return the result of a finished run, None for an unfinished one."""
    return read_json(path / "result.json") if (path / "result.json").is_file() else None


def _date(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "minutes")


def _headlines(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics at the cut-off of the headline metric; all metrics if there is none."""
    cutoff = result.get("headline", "").rpartition("@")[2]
    end = f"@{cutoff}" if cutoff else ""
    yield from ((name, value) for name, value in result["test_result"].items() if name.endswith(end))


def _best(runs: Iterable[dict[str, str]], metric: str) -> str:
    values = defaultdict(list)
    for row in runs:
        values[row["sampler"]].append(float(row[metric]))
    best = max(values, key=lambda sampler: mean(values[sampler]))
    return f"{best}: {metric} {mean(values[best]):.4f}"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
