"""The verdict on a run: its metric compared with the yardsticks, in words."""

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

from recbole_dealrec.config import Config
from recbole_dealrec.report.answer import NORMAL_95
from recbole_dealrec.training.query_evaluator import headline_metric
from recbole_dealrec.yardstick.yardsticks import KNN, POPULAR, RANDOM, SURROGATE_MEAN, UNTUNED, VALID_POPULAR

_LISTS = (POPULAR, VALID_POPULAR)
_COMPARED = (*_LISTS, KNN, "surrogate", SURROGATE_MEAN, UNTUNED, RANDOM)
_ABOVE, _BELOW, _EQUAL = "above", "below", "not significantly different from"


def relation(value: float, error: float | None, other: float, other_error: float | None) -> str:
    """Return the relation of a value to another, by the 95 % interval of the difference: above, below or neither.

    The errors are assumed to be independent. For values on the same queries, this usually makes the interval too wide.

    Args:
        value: the first value.
        error: its standard error; None if there is none, and so no significant difference.
        other: the other value.
        other_error: its standard error.
    """
    if error is None or other_error is None:
        return _EQUAL
    difference, half = value - other, NORMAL_95 * hypot(error, other_error)
    return _ABOVE if difference > half else _BELOW if difference < -half else _EQUAL


def verdict(config: Config, result: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict on a run.

    Args:
        config: configuration of the run.
        result: ``test_result``, ``test_standard_error`` and ``yardsticks`` of the run.

    Returns:
        ``headline``, the metric that the run is judged by, and ``verdict``, one line: its relation to each yardstick,
        and whether the run learned from histories. Empty without yardsticks, or without an accuracy metric.
    """
    metric = headline_metric(config)
    if not metric or not result["yardsticks"]:
        return {}
    rows = {row["name"]: row for row in result["yardsticks"] if metric in row["test_result"]}
    if SURROGATE_MEAN in rows:
        rows.pop("surrogate", None)
    told, of_lists = _standing(metric, result["test_result"], result["test_standard_error"], rows)
    again = result["reweighting"]
    told_again, _ = _standing(metric, again["test_result"], again["standard_error"], rows)
    return {"headline": metric, "verdict": f"{told} {_conclusion(of_lists)} Re-weighted: {told_again}"}


def _standing(
    metric: str, result: Mapping[str, float], errors: Mapping[str, float], rows: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[str]]:
    """Return a sentence that compares a metric with the yardsticks, and its relation to each of the lists."""
    value, error = result[metric], errors.get(metric)
    relations: dict[str, list[str]] = {_BELOW: [], _EQUAL: [], _ABOVE: []}
    of_lists = []
    for name in filter(rows.__contains__, _COMPARED):
        other = rows[name]["test_result"][metric]
        found = relation(value, error, other, rows[name]["standard_error"].get(metric))
        relations[found].append(f"the {name} ({other:.4f})" if name != KNN else f"{name} ({other:.4f})")
        of_lists += [found] if name in _LISTS else []
    told = "; ".join(f"{word} {_listed(names)}" for word, names in relations.items() if names)
    with_error = f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
    return f"{_shown(metric)} {with_error}: {told}.", of_lists


def _conclusion(of_lists: Sequence[str]) -> str:
    if not of_lists:
        return "There is no list to compare it with."
    if set(of_lists) == {_ABOVE}:
        return "This run ranks better than one list for all users: it has learned from histories."
    return "This run shows no sign of learning from histories."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _shown(metric: str) -> str:
    name, at, cutoff = metric.partition("@")
    acronyms = {"ndcg", "mrr", "map"}
    return f"{name.upper() if name in acronyms else name.capitalize()}{at}{cutoff}"
