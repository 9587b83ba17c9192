"""RecBole's evaluator, with standard errors of its metrics over the queries."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct

from recbole_dealrec.config import Config

_ACCURACY = ("recall", "ndcg", "mrr", "hit", "map", "precision")
_GROUPS = 50  # of queries, for the jackknife
_DIGITS = 15


def headline_metric(config: Config) -> str | None:
    """Return the name of the metric that rankings are judged by, None without an accuracy metric.

    It is ``valid_metric`` if this is an accuracy metric, else the first accuracy metric of ``metrics`` at 10, or at the
    largest cut-off if 10 is not one.
    """
    known = [metric.lower() for metric in config["metrics"] if metric.lower() in _ACCURACY]
    if config["valid_metric"].lower().partition("@")[0] in known or not known:
        return config["valid_metric"].lower() if known else None
    return f"{known[0]}@{10 if 10 in config['topk'] else max(config['topk'])}"


class QueryEvaluator(Evaluator):
    """Evaluate as RecBole does, and keep the collected data for ``unrounded`` and ``standard_errors``.

    Args:
        config: reads ``metrics``, ``topk`` and ``metric_decimal_place``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.evaluated: DataStruct | None = None

    def evaluate(self, dataobject: DataStruct) -> dict[str, float]:
        self.evaluated = dataobject
        return super().evaluate(dataobject)

    def unrounded(self) -> dict[str, float]:
        """Return the metrics of the last evaluation to 15 decimal places, independent of ``metric_decimal_place``."""
        found = {}
        for metric in self.metric_class.values():
            with _unrounded(metric):
                found |= metric.calculate_metric(self.evaluated)
        return {name: float(value) for name, value in found.items()}

    def standard_errors(self) -> dict[str, float]:
        """Return the standard error over queries of each metric of the last evaluation; empty for one query.

        For a metric that is a mean over queries, it is the standard deviation of the values, divided by the square root
        of their number. For the others (ItemCoverage, ShannonEntropy, GiniIndex, GAUC), it is the delete-a-group
        jackknife with 50 groups (Quenouille, 1956): an approximation that is too large on average (Efron and Stein,
        1981), by a third in ``tests/training/test_query_evaluator.py``.
        """
        n = _n_queries(self.evaluated)
        if n < 2:
            return {}
        found = {}
        for metric in self.metric_class.values():
            with _unrounded(metric):
                errors = _errors_of_means if hasattr(metric, "topk_result") else _jackknife
                found |= errors(metric, self.evaluated)
        return {name: float(value) for name, value in found.items()}


@contextmanager
def _unrounded(metric: AbstractMetric) -> Iterator[None]:
    places, metric.decimal_place = metric.decimal_place, _DIGITS
    try:
        yield
    finally:
        metric.decimal_place = places


def _errors_of_means(metric: AbstractMetric, struct: DataStruct) -> dict[str, float]:
    """Return the standard errors of a metric that averages its values [n_queries, K] in ``topk_result``."""

    def errors(name: str, values: np.ndarray) -> dict[str, float]:
        return {f"{name}@{k}": values[:, k - 1].std(ddof=1) / np.sqrt(len(values)) for k in metric.topk}

    metric.topk_result = errors
    try:
        return metric.calculate_metric(struct)
    finally:
        del metric.topk_result


def _jackknife(metric: AbstractMetric, struct: DataStruct) -> dict[str, float]:
    """Return the standard errors from the values that leave out each of up to 50 groups of queries."""
    n = _n_queries(struct)
    count = min(_GROUPS, n)
    group = np.random.default_rng(0).permutation(np.arange(n) % count)
    replicates = [metric.calculate_metric(_select(struct, group != left_out)) for left_out in range(count)]
    return {name: np.std([values[name] for values in replicates]) * np.sqrt(count - 1) for name in replicates[0]}


def _n_queries(struct: DataStruct) -> int:
    return max(len(value) for name, value in struct._data_dict.items() if name.startswith("rec."))


def _select(struct: DataStruct, kept: np.ndarray) -> DataStruct:
    part = DataStruct()
    for name, value in struct._data_dict.items():
        part.set(name, value[torch.from_numpy(kept)] if name.startswith("rec.") else value)
    return part
