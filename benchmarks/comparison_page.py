"""The page of a comparison of samplers: metrics with tests, power, popularity of what was selected, cost, data."""

from collections.abc import Sequence
from typing import Any

import common
import numpy as np
import pandas as pd
import yaml
from comparison_runs import Runs
from scipy.special import nctdtrinc
from scipy.stats import t as student_t

from recbole_dealrec.data import QueryDataLoader
from recbole_dealrec.report.comparison_table import COSTS, REFERENCES, holm, paired_p
from recbole_dealrec.report.finding import LEAST_SEEDS

TESTED = ["recall@10", "ndcg@10"]
UNTESTED = ("Full", "untuned")
POWER, LEVEL = 0.8, 0.05
NOTES = {
    "BIGRec": "The language model is the tiny one, about a million parameters made of the catalogue's titles. "
    "It compares samplers on equal terms and says nothing about what a large language model would reach.",
    "TIGER": "TIGER starts from random weights; nothing is downloaded.",
}
# Epochs of the surrogates of the rows so far.
SURROGATE_EPOCHS = {"games": 6, "ml-100k": 8}


def report(table: Runs) -> str:
    config, runs = table.config, table.rows()
    resolved = {
        key: value for key, value in config.resolved().items() if key not in ("data_path", "checkpoint_dir", "seed")
    }
    return f"""# {config["dataset"]}, {config["model"]}, {config["n_fewshot"]} samples

{common.header()}. {NOTES[config["model"]]} A row for each run: [{table.file.name}]({table.file.name}).

## Metrics

{explained(table)}{chosen_keys(table)}{schedule(runs)}

{metrics_table(table)}

## What these runs can see

{power_sentences(runs)}

{power_table(runs)}

## Popularity of the selected targets

What the selected targets are worth by themselves: Recall@10 of recommending to everybody the ten items that are most
often targets of the selected samples. A Recall@10 that is not above it gives no sign of anything learnt from the
histories. Best validation result is the {config["valid_metric"]} that training stopped by.

{popularity_table(table, runs)}

## Cost

Seconds on one of two cores, where other work ran beside some of the runs and some stood still for minutes; they compare
samplers, roughly, not machines. A selection includes the surrogates and scores that it uses, whichever run they were
computed for.{full_keys(table)}

{cost_table(runs)}

## Data

{data_table(table)}

## Configuration

That of DEALRec; the other samplers differ in the keys of `properties/sampler/` and those above.

```yaml
{yaml.safe_dump(resolved, allow_unicode=True).rstrip()}
```
"""


def explained(table: Runs) -> str:
    yardsticks = "Below stand yardsticks, which cost seconds, on the same queries. " if table.yardsticks() else ""
    epochs = SURROGATE_EPOCHS.get(table.config["dataset"])
    runs = table.rows()
    now = runs[runs["commit"].notna()]["sampler"].unique() if "commit" in runs else []
    of_them = f" (rows of {', '.join(now)})" if len(now) else ""
    surrogates = (
        f"Surrogates were trained in {epochs} epochs at a constant rate of 0.001, the default then, except in rows "
        f"with a commit{of_them}, which have the configuration below. "
        if epochs
        else ""
    )
    return (
        "Means and standard deviations over seeds, on all test queries, over the full catalogue. The p values are of "
        "two-sided paired t tests over the seeds, corrected by Holm's method over all samplers and both metrics, apart "
        f"against Random and against TargetFrequency, the free draw. {yardsticks}{surrogates}"
    )


def chosen_keys(table: Runs) -> str:
    page = f"{table.name}-first-trials.md"
    sentences = [
        f"Chosen on the validation part with one seed, by [{page}]({page}) as it was first measured: "
        f"{by_sampler(table.chosen)}."
        if table.chosen
        else "",
        f"Measured with what was the default then: {by_sampler(table.former)}." if table.former else "",
    ]
    return " ".join([*filter(None, sentences), "All other keys have their defaults."])


def by_sampler(keys: dict[str, dict[str, Any]]) -> str:
    return "; ".join(f"{sampler}: {listed(own)}" for sampler, own in keys.items())


def schedule(runs: pd.DataFrame) -> str:
    later = set(runs["sampler"]) & {"TargetFrequency"}
    if "commit" in runs:
        later |= set(runs.loc[runs["commit"].notna(), "sampler"])
    if not later:
        return ""
    names = ", ".join(name for name in runs["sampler"].unique() if name in later)
    return f" Rows of later versions, whose learning rate is above 0 at the first step, too: {names}."


def full_keys(table: Runs) -> str:
    return f" Full ran with {listed(table.full)}, which is faster on a CPU." if table.full else ""


def listed(keys: dict[str, Any]) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in keys.items())


def metrics_table(table: Runs) -> str:
    """Return each sampler's metrics, its p values and the paper's figures, and below them the yardsticks."""
    runs = table.rows()
    references = [name for name in REFERENCES if name in set(runs["sampler"])]
    p = {name: p_values(runs, name) for name in references}
    rows = [
        [
            name, table.sees(name), len(part), *(common.spread(part[metric]) for metric in table.metrics),
            *(number(p[reference].get((name, metric))) for metric in TESTED for reference in references),
            *(table.paper.get(name, "").split() or [""] * len(table.metrics)),
        ]
        for name, part in runs.groupby("sampler", sort=False)
    ]  # fmt: skip
    rows += [
        [row["yardstick"], "", "", *(f"{row[metric]:.4f}" for metric in table.metrics)]
        + [""] * (len(rows[0]) - 3 - len(table.metrics))
        for row in table.yardsticks()
    ]
    columns = ["sampler", "sees", "seeds", *table.metrics]
    columns += [f"{metric}, p {name}" for metric in TESTED for name in references]
    columns += [f"paper {metric}" for metric in table.metrics] if table.paper else []
    return common.table(columns, [row[: len(columns)] for row in rows])


def p_values(runs: pd.DataFrame, reference: str) -> dict[tuple[str, str], float]:
    """Return the p values of all other samplers against one, corrected together, by sampler and metric."""
    names = [name for name in runs["sampler"].unique() if name not in (reference, *UNTESTED)]
    p = {(name, metric): p_value(runs, name, reference, metric) for name in names for metric in TESTED}
    return dict(zip(p, holm(list(p.values())), strict=True))


def p_value(runs: pd.DataFrame, name: str, reference: str, metric: str, by: Sequence[str] = ("seed",)) -> float:
    """Return the p value of a paired test of two samplers over what both have, NaN for a sampler and itself."""
    one, other = (runs[runs["sampler"] == each].set_index(list(by))[metric] for each in (name, reference))
    pair = pd.concat([one, other], axis=1, join="inner")
    return float("nan") if name == reference else paired_p(pair.iloc[:, 0], pair.iloc[:, 1])


def power_sentences(runs: pd.DataFrame) -> str:
    text = (
        "Differences of Recall@10 from the references; beside them the least one that a paired test over as many seeds "
        f"finds with a probability of {POWER:.0%} (p < {LEVEL}, one test, not corrected), by the deviation of the "
        "differences between the seeds."
    )
    if (error := "recall@10, standard error") in runs:
        text += (
            f" The standard error of one run over its queries is {runs[error].mean():.4f} in the mean; the queries are "
            "the same in all runs."
        )
    return text


def power_table(runs: pd.DataFrame) -> str:
    """Return the difference of each sampler from both references, and the least one that can be found."""
    by_seed = {name: part.set_index("seed")["recall@10"] for name, part in runs.groupby("sampler", sort=False)}
    references = [name for name in REFERENCES if name in by_seed]
    rows = []
    for name in [name for name in by_seed if name not in UNTESTED]:
        row = [name]
        for reference in references:
            difference = (by_seed[name] - by_seed[reference]).dropna()
            measured = f"{difference.mean():+.4f} ({len(difference)} seeds)", f"{detectable(difference):.4f}"
            row += measured if len(difference) >= LEAST_SEEDS and name != reference else ("", "")
        rows.append(row)
    columns = [text.format(name) for name in references for text in ("from {}", "least found from {}")]
    return common.table(["sampler", *columns], rows)


def detectable(difference: pd.Series) -> float:
    """Return the least mean difference that a two-sided paired t test finds with the probability POWER at LEVEL.

    Args:
        difference: one for each pair; their standard deviation is taken for the true one.
    """
    n = len(difference)
    if n < LEAST_SEEDS:
        return np.nan
    # The other tail has no part in a probability this high.
    shift = nctdtrinc(n - 1, 1 - POWER, student_t.isf(LEVEL / 2, n - 1))
    return shift * difference.std() / np.sqrt(n)


def popularity_table(table: Runs, runs: pd.DataFrame) -> str:
    columns = ["popularity, valid", "popularity, test", "recall@10", "best validation result"]
    groups = runs.groupby("sampler", sort=False)
    rows = [[name, *(common.spread(part[column]) for column in columns)] for name, part in groups]
    everything = table.popularity(table.samples.item_id).values()
    names = ["sampler", "popularity, validation", "popularity, test", "Recall@10, test", "best validation result"]
    return common.table(names, [*rows, ["all candidates", *(f"{value:.4f}" for value in everything), "", ""]])


def cost_table(runs: pd.DataFrame) -> str:
    means = runs.reindex(columns=["sampler", *COSTS]).groupby("sampler", sort=False).mean().dropna(subset=COSTS[:2])
    total = means[COSTS[:2]].sum(axis=1)  # evaluation is not what a selection saves
    columns = ["sampler", *COSTS[:2], "together", COSTS[2]]
    rows = [
        [name, *(f"{value:.0f}" for value in means.loc[name, COSTS[:2]]), f"{total[name]:.0f}",
         number(means.at[name, COSTS[2]], 0)]
        for name in means.index
    ]  # fmt: skip
    if "Full" in means.index:
        columns.append("saved of fine-tuning on all")
        rows = [[*row, f"{1 - total[row[0]] / means.loc['Full', COSTS[1]]:.1%}"] for row in rows]
    return common.table(columns, rows)


def data_table(table: Runs) -> str:
    splits, samples = table.splits, table.samples
    rows = [
        ("users", splits.train.user_num - 1),
        ("items", splits.train.item_num - 1),
        *((f"{name} rows", len(getattr(splits, name))) for name in ("train", "valid", "test")),
        ("test queries (a user and history)", len(QueryDataLoader(splits.test.config, splits.test).positives)),
        ("candidate samples", len(samples)),
        ("mean history of a candidate", f"{samples.item_length.mean():.2f}"),
    ]
    return common.table(["", ""], rows)


def number(value: float | None, decimals: int = 3) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{decimals}f}"
