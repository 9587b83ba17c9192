"""Comparison of samplers: means over seeds, yardsticks, paired tests, costs."""

import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.evaluator.register import smaller_metrics
from scipy.stats import t as student_t
from scipy.stats import ttest_rel

from recbole_dealrec.report.finding import AGAINST, LEAST_SEEDS, SIGNIFICANT, findings, too_few_seeds, validation_note
from recbole_dealrec.report.latex import escape, latex_table
from recbole_dealrec.store.console import CONSOLE, line_width
from recbole_dealrec.store.files import atomic_path, read_json

COSTS = ["selection seconds", "fine-tuning seconds", "evaluation seconds"]
REFERENCES = ("Random", "TargetFrequency")  # samplers that cost nothing; the others are tested against them
_MARKS = dict(zip(REFERENCES, (r"*", r"\dagger"), strict=True))
_RUN_KEYS = ["sampler", "seed", "sees", "run_dir"]
_ROUNDING = 1e-12  # of differences of metrics


def comparison_table(runs: pd.DataFrame, yardsticks: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds of each metric and cost, and test the samplers against those of ``REFERENCES``.

    The tests are two-sided paired t tests over the seeds. All p values of one reference, of all samplers and metrics,
    are corrected together by Holm's method.

    Args:
        runs: a row for each sampler and seed: ``sampler``, ``seed``, ``sees`` (the parts of the data that its choice
            depends on, as a text), ``run_dir``, metrics and costs (seconds; of the selection with all surrogates and
            scores it needs, but not with the language model, which every run needs). Every sampler has the same seeds.
        yardsticks: the result of ``yardstick_values``.

    Returns:
        A row for each quantity and method: ``quantity``, ``method``, ``kind`` (sampler or yardstick), ``sees`` (of a
        sampler), ``mean``, ``std`` (of a sample, NaN for one seed), ``seeds`` (their number), ``low`` and ``high``
        (95 % confidence interval of the mean, Student's t, not below 0; NaN for one seed), ``best`` (whether it is the
        best sampler of a metric), and for each reference that was compared with others ``p against <reference>``. There
        is no p below three seeds or if all differences are equal.
    """
    metrics = [name for name in runs if name not in [*_RUN_KEYS, *COSTS]]
    sees = dict(zip(runs["sampler"], runs["sees"], strict=True))
    kinds = {"sampler": runs.rename(columns={"sampler": "method"}), "yardstick": yardsticks}
    table = pd.DataFrame(
        {"quantity": quantity, "method": method, "kind": kind, "sees": sees.get(method)}
        | {"mean": found.mean(), "std": found.std(), "seeds": len(found)}
        for quantity in [*metrics, *COSTS]
        for kind, values in kinds.items()
        if quantity in values
        for method, column in values.groupby("method", sort=False)[quantity]
        if len(found := column.dropna())
    )
    half = interval_half_width(table["std"], table["seeds"])
    table = table.assign(low=np.maximum(table["mean"] - half, 0), high=table["mean"] + half, best=_is_best(table))
    samplers = list(dict.fromkeys(runs["sampler"]))
    for reference in [name for name in REFERENCES if name in samplers and len(samplers) > 1]:
        p = _p_values(runs, metrics, reference)
        pairs = zip(table["quantity"], table["method"], strict=True)
        table[f"{AGAINST}{reference}"] = [p.get(pair, np.nan) for pair in pairs]
    return table


def yardstick_values(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the yardsticks of each seed as ``method``, ``seed`` and metrics, from the run that has most of them.

    A mean of several surrogates replaces them.

    Args:
        runs: the argument of ``comparison_table``; each ``run_dir`` contains a ``result.json``.
    """
    rows = []
    for seed, folders in runs.groupby("seed")["run_dir"]:
        most = max((read_json(Path(folder) / "result.json")["yardsticks"] for folder in folders), key=len)
        single = [row["name"] for row in most if row["name"].startswith("surrogate")]
        left_out = single if len(single) > 1 else []
        rows += [
            {"method": row["name"], "seed": seed, **row["unrounded"]} for row in most if row["name"] not in left_out
        ]
    return pd.DataFrame(rows)


def _is_best(table: pd.DataFrame) -> pd.Series:
    """Return whether a row is the best sampler of a metric; if all samplers are equal, none is."""
    falls = table["quantity"].str.partition("@")[0].isin(smaller_metrics)
    value = table["mean"].where(~falls, -table["mean"])[(table["kind"] == "sampler") & ~table["quantity"].isin(COSTS)]
    of_metric = value.groupby(table["quantity"])
    highest, lowest = of_metric.transform("max"), of_metric.transform("min")
    return ((value == highest) & (highest > lowest)).reindex(table.index, fill_value=False)


def _p_values(runs: pd.DataFrame, metrics: Sequence[str], reference: str) -> dict[tuple[str, str], float]:
    """Return the corrected p values of all other samplers and all metrics against one sampler."""
    by_seed = {name: rows.set_index("seed")[metrics] for name, rows in runs.groupby("sampler")}
    other = by_seed.pop(reference)
    p = {
        (metric, name): paired_p(values[metric], other.loc[values.index, metric])
        for name, values in by_seed.items()
        for metric in metrics
    }
    return dict(zip(p, holm(list(p.values())), strict=True))


def interval_half_width(std: np.ndarray, n: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Return half the width of a confidence interval of a mean, by Student's t; NaN below two values.

    Args:
        std: standard deviation of a sample.
        n: number of values.
        level: confidence.
    """
    return student_t.ppf((1 + level) / 2, np.asarray(n) - 1) * std / np.sqrt(n)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p values corrected for their number (Holm, 1979); NaN stays and does not count."""
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    factors = np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return p


def paired_p(first: Sequence[float], other: Sequence[float]) -> float:
    """Return the p value of a two-sided paired t test.

    Args:
        first: values, one for each pair.
        other: what they are paired with.

    Returns:
        NaN below three pairs or if all differences are equal.
    """
    difference = np.subtract(first, other)
    if len(difference) < LEAST_SEEDS or np.ptp(difference) < _ROUNDING:
        return np.nan
    return ttest_rel(first, other).pvalue


def write_comparison(parent: Path, runs: pd.DataFrame, table: pd.DataFrame) -> Path:
    """Write ``runs.csv``, ``comparison.csv`` and ``comparison.tex``, and return their folder, named after the runs.

    In ``runs.csv``, each ``run_dir`` is relative to this folder, which is next to the runs.
    """
    names = [Path(run).name for run in runs["run_dir"]]
    dataset_and_model = names[0].rsplit(f"-{runs['sampler'][0]}-", 1)[0]
    folder = parent / f"{dataset_and_model}-comparison-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "runs.csv": runs.assign(run_dir=[f"../{name}" for name in names]).to_csv(index=False),
        "comparison.csv": table.to_csv(index=False),
        "comparison.tex": _latex(table, dataset_and_model),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    return folder


def log_comparison(table: pd.DataFrame, folder: Path, headline: str | None) -> None:
    """Print the tables, the findings on the headline metric, and the path of the report."""
    is_cost = table["quantity"].isin(COSTS)
    lines = ["comparison, mean ± standard deviation over seeds", _drawn(table[~is_cost], _spread)]
    tested = [] if too_few_seeds(table) else [name for name in table if name.startswith(AGAINST)]
    for column in tested:
        lines += ["", f"{column}: two-sided paired t test over seeds, Holm's correction over the whole table"]
        rows = table[~is_cost & (table["kind"] == "sampler") & (table["method"] != column.removeprefix(AGAINST))]
        lines.append(_drawn(rows, lambda row, column=column: _p(row[column])))
    CONSOLE.info("\n".join(lines))
    for finding in findings(table, headline) if headline else []:
        CONSOLE.info(finding)
    if note := validation_note(table):
        CONSOLE.info(textwrap.fill(note, line_width()))
    CONSOLE.info(f"seconds\n{_drawn(table[is_cost], _spread)}")
    CONSOLE.info(f"report: {folder / 'report.html'}; the same folder has the tables as CSV and LaTeX, and runs.csv")


def _drawn(rows: pd.DataFrame, write: Any) -> str:
    return _cells(rows, write).to_string(line_width=line_width())


def _cells(rows: pd.DataFrame, write: Any) -> pd.DataFrame:
    """Return methods by quantities; each cell is what ``write`` returns for a row, or a dash without a row."""
    methods, quantities = (list(dict.fromkeys(rows[name])) for name in ("method", "quantity"))
    cells = rows.assign(cell=[write(row) for row in rows.to_dict("records")])
    cells = cells.pivot(index="method", columns="quantity", values="cell").loc[methods, quantities]
    return cells.fillna("–").rename_axis(index=None, columns=None)


def _spread(row: dict[str, Any]) -> str:
    digits = 1 if row["quantity"] in COSTS else 4
    return f"{row['mean']:.{digits}f}" + ("" if np.isnan(row["std"]) else f" ± {row['std']:.{digits}f}")


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3g}"


def _latex(table: pd.DataFrame, name: str) -> str:
    """Return a table of metrics and one of seconds."""
    is_cost = table["quantity"].isin(COSTS)
    marks = {name: mark for name, mark in _MARKS.items() if f"{AGAINST}{name}" in table}
    told = ", ".join(f"$^{{{mark}}}$ from {escape(reference)}" for reference, mark in marks.items())
    told = (
        f"Significantly different: {told} ($p < {SIGNIFICANT}$, two-sided paired $t$ test over seeds, Holm)."
        if told
        else ""
    )
    seeds = int(table["seeds"].max())
    over = f"mean $\\pm$ standard deviation over {seeds} seeds" if seeds > 1 else "one seed"

    def cell(row: dict[str, Any]) -> str:
        found = [mark for reference, mark in marks.items() if row[f"{AGAINST}{reference}"] < SIGNIFICANT]
        mean, _, std = escape(_spread(row)).partition(" ")
        mean = rf"\textbf{{{mean}}}" if row["best"] else mean
        return " ".join(filter(None, [mean, std])) + (f"$^{{{''.join(found)}}}$" if found else "")

    metrics = _cells(table[~is_cost], cell).replace("–", "--")
    is_sampler = metrics.index.isin(table.loc[table["kind"] == "sampler", "method"])
    groups = [group for group in (metrics[is_sampler], metrics[~is_sampler]) if len(group)]
    caption = f"{escape(name)}: test metrics, {over}; the best sampler is bold."
    captions = [caption, escape(validation_note(table)), (too_few_seeds(table) or told) if told else ""]
    seconds = latex_table([_cells(table[is_cost], cell)], f"{escape(name)}: seconds, {over}.")
    needs = "% \\usepackage{booktabs,graphicx}\n"
    return f"{needs}{latex_table(groups, ' '.join(filter(None, captions)))}\n{seconds}"
