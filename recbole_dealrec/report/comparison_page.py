"""The page of a comparison, ``report.html`` next to its tables."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.report import figure
from recbole_dealrec.report.comparison_table import COSTS
from recbole_dealrec.report.finding import AGAINST, findings, too_few_seeds, validation_note
from recbole_dealrec.report.page import render
from recbole_dealrec.store.files import atomic_path, read_json


def write_comparison_report(folder: Path, runs: pd.DataFrame, table: pd.DataFrame, headline: str | None) -> None:
    """Write the self-contained page, with relative links to the pages of the runs.

    Args:
        folder: folder of the comparison.
        runs: the argument of ``comparison_table``; each ``run_dir`` contains a ``result.json``.
        table: the result of ``comparison_table``.
        headline: the metric that the page begins with; None without an accuracy metric.
    """
    samplers = list(dict.fromkeys(runs["sampler"]))
    by_quantity = {name: rows.to_dict("records") for name, rows in table.groupby("quantity", sort=False)}
    metrics = [name for name in by_quantity if name not in COSTS]
    selections = {
        name: [read_json(Path(run) / "result.json")["selection"]["coverage"] for run in rows["run_dir"]]
        for name, rows in runs.groupby("sampler", sort=False)
    }
    page = render(
        "comparison.html",
        title=f"{folder.name.rsplit('-comparison-', 1)[0]}: {', '.join(samplers)}",
        samplers=samplers,
        yardsticks=list(dict.fromkeys(table.loc[table["kind"] == "yardstick", "method"])),
        seeds=sorted(set(runs["seed"])),
        headline=headline,
        headline_figure=_intervals(by_quantity[headline], headline) if headline else "",
        findings=findings(table, headline) if headline else [],
        few=too_few_seeds(table),
        sees=dict(zip(runs["sampler"], runs["sees"], strict=True)),
        validation_note=validation_note(table),
        cells={(row["method"], row["quantity"]): row for row in table.to_dict("records")},
        metrics=metrics,
        metric_figures=[(name, _intervals(by_quantity[name], name)) for name in metrics if name != headline],
        references=[name.removeprefix(AGAINST) for name in table if name.startswith(AGAINST)],
        against=AGAINST,
        costs=COSTS,
        cost_figures=[(name, _intervals(by_quantity[name], name)) for name in COSTS],
        coverage={name: _mean_table(parts) for name, parts in selections.items()},
        coverage_figures=_coverage_figures(selections),
        runs=[{**row, "link": _link(folder, row["run_dir"])} for row in runs.to_dict("records")],
    )
    with atomic_path(folder / "report.html") as file:
        file.write_text(page, encoding="utf-8")


def _intervals(rows: list[dict[str, Any]], quantity: str) -> str:
    columns = ([row[name] for row in rows] for name in ("method", "mean", "low", "high"))
    return figure.intervals(*columns, quantity)


def _mean_table(parts: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the coverage of a sampler's selections, averaged over its seeds."""
    return {
        measure: {part: float(np.mean([table["table"][measure][part] for table in parts])) for part in values}
        for measure, values in parts[0]["table"].items()
    }


def _coverage_figures(selections: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Return figures of popularity and history length of the selections of all seeds, and of the candidates."""
    figures = []
    for name, (title, axis) in figure.COVERAGE.items():
        counts = {sampler: [part[name] for part in parts] for sampler, parts in selections.items()}
        one = next(iter(counts.values()))[0]
        series = {"all candidates": one["candidates"]}
        series |= {sampler: np.sum([part["selected"] for part in parts], axis=0) for sampler, parts in counts.items()}
        figures.append((title, figure.share_lines(series, one["first"], one["last"], axis)))
    return figures


def _link(folder: Path, run_dir: str) -> str:
    return Path(os.path.relpath(Path(run_dir) / "report.html", folder)).as_posix()
