"""Comparison of samplers: means over seeds, a paired test, costs."""

import hashlib
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student_t
from scipy.stats import ttest_rel
from texttable import Texttable

from recbole_dealrec.store.files import atomic_path

COSTS = ["selection seconds", "fine-tuning seconds", "evaluation seconds"]
_RUN_KEYS = ["sampler", "seed", "run_dir"]


def comparison_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds of each metric and cost, and test the first sampler against the others.

    For each metric, a paired t test over the seeds sets the first sampler against the best of the others (the highest
    mean). Alternative: the first sampler's mean is greater. The p values are corrected for the number of metrics by
    Holm's method; that the other one is the best of several makes the test stricter, so nothing is corrected for it.

    Args:
        runs: a row for each sampler and seed: ``sampler``, ``seed``, ``run_dir``, metrics and costs (seconds; of the
            selection with all surrogates and scores it needs, but not with the language model, which every run needs).
            Every sampler has the same seeds.

    Returns:
        A row for each quantity and sampler: ``quantity``, ``sampler``, ``mean``, ``std`` (of a sample, NaN for one
        seed), ``seeds`` (their number), ``low`` and ``high`` (95 % confidence interval of the mean, Student's t; NaN
        for one seed), and in the first sampler's rows ``p`` and ``against``, the sampler it is tested against. There is
        no ``p`` below two seeds or where all differences are equal.
    """
    samplers = list(dict.fromkeys(runs["sampler"]))
    by_seed = runs.sort_values("seed").set_index("sampler")
    quantities = [name for name in runs if name not in _RUN_KEYS]
    rows = [
        {"quantity": quantity, "sampler": sampler, "mean": values.mean(), "std": values.std(), "seeds": len(values)}
        for quantity in quantities
        for sampler in samplers
        for values in [by_seed.loc[[sampler], quantity]]
    ]
    table = pd.DataFrame(rows)
    half = interval_half_width(table["std"], table["seeds"])
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half, p=np.nan, against="")
    first, *others = samplers
    if others:
        metrics = [name for name in quantities if name not in COSTS]
        best = by_seed.groupby(level=0)[metrics].mean().loc[others].idxmax()
        p = [paired_p(by_seed.loc[first, name], by_seed.loc[other, name]) for name, other in best.items()]
        tested = (table["sampler"] == first) & table["quantity"].isin(metrics)
        table.loc[tested, "p"] = holm(p)
        table.loc[tested, "against"] = best.to_numpy()
    return table


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
    """Return the p value of a paired t test whose alternative is that the mean of ``first`` is greater.

    Args:
        first: values, one for each pair.
        other: what they are paired with.

    Returns:
        NaN below two pairs or where all differences are equal.
    """
    first, other = np.atleast_1d(first), np.atleast_1d(other)
    if len(first) < 2 or np.ptp(first - other) == 0:
        return np.nan
    return ttest_rel(first, other, alternative="greater").pvalue


def write_comparison(parent: Path, runs: pd.DataFrame, table: pd.DataFrame) -> Path:
    """Write ``runs.csv``, ``comparison.csv`` and ``comparison.tex``, and return their folder, named after the runs."""
    names = [Path(run).name for run in runs["run_dir"]]
    dataset_and_model = names[0].rsplit(f"-{runs['sampler'][0]}-", 1)[0]
    folder = parent / f"{dataset_and_model}-comparison-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "runs.csv": runs.to_csv(index=False),
        "comparison.csv": table.to_csv(index=False),
        "comparison.tex": _readable(table, "$\\pm$").T.to_latex(),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    return folder


def log_comparison(table: pd.DataFrame, folder: Path) -> None:
    """Log the table and the folder of the comparison."""
    readable = _readable(table, "±").reset_index(names="")
    drawn = Texttable(max_width=0)
    drawn.set_deco(Texttable.HEADER)
    drawn.set_cols_dtype(["t"] * readable.shape[1])
    drawn.set_cols_align(["l"] + ["r"] * (readable.shape[1] - 1))
    drawn.set_header_align(["l"] + ["r"] * (readable.shape[1] - 1))
    drawn.header(list(readable))
    drawn.add_rows(readable.to_numpy().tolist(), header=False)
    lines = [f"comparison in {folder}", drawn.draw()]
    if "p" in readable:
        first = table["sampler"].iloc[0]
        lines.append(
            f"p: paired t test over seeds, {first} against the best of the others; alternative: {first}'s mean is "
            "greater; corrected for the number of metrics (Holm)"
        )
    getLogger().info("\n".join(lines))


def _readable(table: pd.DataFrame, plus_minus: str) -> pd.DataFrame:
    """Return quantities by samplers: mean and standard deviation in each cell, and ``p`` where one was tested."""
    digits = {name: 1 if name in COSTS else 4 for name in table["quantity"]}
    cells = table.assign(
        cell=[
            f"{row.mean:.{digits[row.quantity]}f}"
            + ("" if np.isnan(row.std) else f" {plus_minus} {row.std:.{digits[row.quantity]}f}")
            for row in table.itertuples()
        ]
    )
    quantities, samplers = (list(dict.fromkeys(table[name])) for name in ("quantity", "sampler"))
    readable = cells.pivot(index="quantity", columns="sampler", values="cell").loc[quantities, samplers]
    readable = readable.rename_axis(index=None, columns=None)
    if (table["against"] != "").any():
        p = table.drop_duplicates("quantity").set_index("quantity")["p"]
        readable["p"] = ["" if np.isnan(p[name]) else f"{p[name]:.3g}" for name in quantities]
    return readable
