"""Part e of gpu.py: does a score predict what the language model learns? The linear datamodeling score on Games."""

from functools import cache, partial
from typing import Any

import common
import datamodel
import numpy as np
import pandas as pd
from gpu_promise import KEYS as PROMISE
from gpu_rows import Row, Rows
from gpu_setup import Setup

SUBSETS, SIZE = 64, 128
LEAST = 16  # subsets for a correlation
KEYS = {**PROMISE, **datamodel.KEYS, "n_valid": 1000, "yardsticks": False}
SCORED, BEFORE = "scores of the candidates", "before fine-tuning"


def measure(setup: Setup, rows: Rows) -> None:
    """Add a row of the model before fine-tuning, and one of each subset: sums of scores, and what it brought."""
    rows.add(SCORED, partial(score_seconds, setup), setup.about(150))
    if rows.find(SCORED):
        rows.add(BEFORE, partial(learnt, setup, None), setup.about(20))
        for number in range(4 if setup.small else SUBSETS):
            rows.add(f"subset {number}", partial(learnt, setup, number), setup.about(10))


def keys(setup: Setup) -> dict[str, Any]:
    """Return the keys of all trainings."""
    return {**setup.keys, **KEYS, **({"epochs": 2, "n_valid": 20} if setup.small else {})}


def score_seconds(setup: Setup) -> Row:
    """Compute the scores, which are kept in ``checkpoint_dir``."""
    return {"samples": len(scores(setup)[datamodel.FREE])}


@cache
def scores(setup: Setup) -> dict[str, np.ndarray]:
    """Return the scores by label, float64 [n]."""
    return dict(datamodel.candidate_scores(keys(setup), "games"))


@cache
def learning(setup: Setup) -> datamodel.Learning:
    return datamodel.Learning(datamodel.job_of(keys(setup), "games"))


def learnt(setup: Setup, number: int | None) -> Row:
    """Tune on a subset and return its sums of scores and the outcome."""
    if number is None:
        return learning(setup)(None, 0)
    n = len(learning(setup).job.samples)
    subset = datamodel.drawn(n, number + 1, min(SIZE, n // 4))[number]
    sums = {label: float(values[subset].sum()) for label, values in scores(setup).items()}
    return {**learning(setup)(subset, 0), **sums}


def agreement_table(rows: pd.DataFrame) -> str:
    """Return how well each score predicts the outcomes, as Markdown; a sentence below ``LEAST`` subsets."""
    subsets = rows[rows["row"].str.startswith("subset")] if len(rows) else rows
    if len(subsets) < LEAST:
        return f"{len(subsets)} subsets were tuned on; {LEAST} are needed."
    labels = list(subsets.columns[subsets.columns.get_loc("ndcg@10") + 1 :])
    labels = [label for label in labels if label in {*(label for label, *_ in datamodel.SCORES), *datamodel.COSTLESS}]
    truth = {"fall of the loss": -subsets["loss"], "rise of NDCG@10": subsets["ndcg@10"]}
    free = subsets[datamodel.FREE].to_numpy()
    cells = [
        [
            label,
            *(cell for fall in truth.values() for cell in datamodel.agreement(subsets[label], fall.to_frame(), free)),
        ]
        for label in labels
    ]
    columns = [f"{outcome}{part}" for outcome in truth for part in ("", ", target frequency held")]
    return common.table(["score", *columns], cells)
