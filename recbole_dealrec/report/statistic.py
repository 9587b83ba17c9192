"""Statistics of a selection and of all candidates: scores, groups and coverage."""

from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.data import CandidateSamples

_BINS = 50
_NO_SCORES = ["user", "target", "group", "selected"]


def selection_statistics(
    scores: pd.DataFrame, ranked_by: str | None, samples: CandidateSamples, popularity: np.ndarray
) -> dict[str, Any]:
    """Return statistics of a selection as plain values.

    Args:
        scores: content of ``scores.csv``, a row for each sample.
        ranked_by: column that the sampler ranks by, if any.
        samples: the candidates.
        popularity: int64 [n_items], how often each item occurs in the training part.

    Returns:
        ``scores`` (a histogram of each score), ``groups`` (sizes; absent without groups) and ``coverage``, each for all
        ``candidates`` and for the ``selected`` ones.
    """
    selected = scores["selected"].to_numpy(dtype=bool)
    columns = score_columns(scores)
    statistics = {
        "scores": {name: _histogram(values.to_numpy(), selected) for name, values in columns.items()},
        "coverage": _coverage(samples, selected, popularity),
    }
    if "group" in scores:
        statistics["groups"] = _groups(scores["group"], selected, scores[ranked_by] if ranked_by else None)
    return statistics


def score_columns(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``scores.csv`` that are scores."""
    return scores.drop(columns=_NO_SCORES, errors="ignore").select_dtypes("number")


def _histogram(values: np.ndarray, selected: np.ndarray) -> dict[str, Any]:
    """Count values in ranges of equal width, and those that are not finite."""
    finite = np.isfinite(values)
    edges = np.histogram_bin_edges(values[finite], _BINS)
    return {
        "edges": edges.tolist(),
        "candidates": np.histogram(values[finite], edges)[0].tolist(),
        "selected": np.histogram(values[finite & selected], edges)[0].tolist(),
        "not_finite": int(np.count_nonzero(~finite)),
    }


def _groups(group: pd.Series, selected: np.ndarray, score: pd.Series | None) -> dict[str, Any]:
    table = pd.DataFrame({"group": group, "selected": selected})
    columns = {"candidates": ("group", "size"), "selected": ("selected", "sum")}
    if score is not None:
        table["score"] = score
        columns |= {"lowest": ("score", "min"), "highest": ("score", "max")}
    open_groups = table[table["group"] >= 0].groupby("group").agg(**columns).reset_index()
    aside = int((table["group"] < 0).sum())
    return {**{name: values.tolist() for name, values in open_groups.items()}, "set_aside": aside}


def _coverage(samples: CandidateSamples, selected: np.ndarray, popularity: np.ndarray) -> dict[str, Any]:
    chosen = samples[selected]
    of_target, length = popularity[samples.item_id], samples.item_length
    measures = {
        "samples": len,
        "users": lambda part: len(np.unique(part.user_id)),
        "target items": lambda part: len(np.unique(part.item_id)),
        "items in histories": lambda part: np.count_nonzero(np.unique(part.item_id_list)),
        "median popularity of the target": lambda part: np.median(popularity[part.item_id]),
        "median length of the history": lambda part: np.median(part.item_length),
    }
    table = {
        name: {"candidates": float(measure(samples)), "selected": float(measure(chosen))}
        for name, measure in measures.items()
    }
    return {
        "catalogue": len(popularity) - 1,
        "table": table,
        "popularity": _doubling_histogram(of_target, selected),
        "history_length": _doubling_histogram(length, selected),
    }


def _doubling_histogram(values: np.ndarray, selected: np.ndarray) -> dict[str, list[int]]:
    """Count whole numbers in ranges ``first`` to ``last`` from 1 on, each twice as wide as the one before."""
    place = np.frexp(np.maximum(values, 1))[1] - 1  # of 2^k to 2^(k+1) - 1
    highest = int(place.max())
    first = 2 ** np.arange(highest + 1)
    return {
        "first": first.tolist(),
        "last": np.minimum(2 * first - 1, values.max()).tolist(),
        "candidates": np.bincount(place, minlength=highest + 1).tolist(),
        "selected": np.bincount(place[selected], minlength=highest + 1).tolist(),
    }
