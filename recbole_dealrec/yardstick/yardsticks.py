"""The rows of the yardsticks, on the same queries as a run's metrics."""

from collections.abc import Iterator, Mapping
from logging import getLogger
from typing import Any

import numpy as np
from recbole.data.dataloader import TrainDataLoader
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_dealrec.config import Config
from recbole_dealrec.data import QueryDataLoader, Splits
from recbole_dealrec.training.query_evaluator import QueryEvaluator, headline_metric
from recbole_dealrec.yardstick.baseline import ConstantList, ItemKNN, popularity_order
from recbole_dealrec.yardstick.random_ranking import random_ranking
from recbole_dealrec.yardstick.ranking_evaluator import RankingEvaluator
from recbole_dealrec.yardstick.recall_part import ItemKinds, recall_parts

RANDOM, POPULAR, VALID_POPULAR = "random ranking", "popularity list", "list of validation targets"
KNN, SURROGATE_MEAN, UNTUNED = "item kNN", "mean of the surrogates", "language model before fine-tuning"
_SHRINKS = (0.0, 5.0, 20.0, 50.0, 100.0)


class Yardsticks:
    """Metrics of recommenders that need only seconds, on a run's test queries.

    Args:
        config: configuration of the run.
        splits: training, validation and test parts.
        kinds: kinds of the items, for the parts of Recall.
        train_data: loader of the training part.
    """

    def __init__(self, config: Config, splits: Splits, kinds: ItemKinds, train_data: TrainDataLoader) -> None:
        self.config, self.splits, self.kinds = config, splits, kinds
        self._ranking = RankingEvaluator(config, train_data)
        self._queries = QueryDataLoader(config, splits.test, config["n_test"])

    def rows(self, surrogates: Mapping[str, SequentialRecommender]) -> Iterator[dict[str, Any]]:
        """Yield a row for each yardstick.

        A row has ``name``, ``test_result``, ``unrounded`` (the same metrics), ``standard_error`` and ``recall_parts``.

        Args:
            surrogates: trained surrogates of the run by name.
        """
        yield self._random_row()
        popular = self.splits.train.item_counts
        valid = self.splits.valid
        wanted = np.bincount(valid.inter_feat[valid.iid_field].numpy(), minlength=len(popular))
        yield self.row(POPULAR, ConstantList(popularity_order(popular)))
        yield self.row(VALID_POPULAR, ConstantList(popularity_order(wanted, popular)))
        try:
            yield self.row(KNN, self._item_knn())
        except MemoryError as error:
            getLogger().warning(f"{KNN} is left out: {error}")
        rows = []
        for name, surrogate in surrogates.items():
            surrogate.eval()
            rows.append(self.row(name, surrogate))
        yield from rows
        if len(rows) > 1:
            yield _mean_row(rows)

    def row(self, name: str, recommender: Any) -> dict[str, Any]:
        """Return the row of a recommender with a method ``full_sort_predict``."""
        result = self._ranking.evaluate(recommender.full_sort_predict, self._queries)
        return yardstick_row(name, result, self._ranking.evaluator, self.kinds)

    def _random_row(self) -> dict[str, Any]:
        sizes = np.array([len(items) for items in self._queries.positives])
        n_items = self.splits.train.item_num - 1
        means, errors = random_ranking(self.config["metrics"], self.config["topk"], sizes, n_items)
        return {"name": RANDOM, "test_result": means, "unrounded": means, "standard_error": errors, "recall_parts": {}}

    def _item_knn(self) -> ItemKNN:
        """Return item kNN with the shrink that is best by ``headline_metric`` on the validation part."""
        knn, metric = ItemKNN(self.splits.train), headline_metric(self.config)
        queries, values = QueryDataLoader(self.config, self.splits.for_tuning.valid), {}
        for shrink in _SHRINKS if metric else ():
            knn.set_shrink(shrink)
            values[shrink] = self._ranking.evaluate(knn.full_sort_predict, queries)[metric]
        best = max(values, key=values.get, default=_SHRINKS[0])
        knn.set_shrink(best)
        getLogger().info(f"{KNN}: shrink {best:g} of {_SHRINKS}, the best by validation {metric}")
        return knn


def yardstick_row(name: str, result: dict[str, float], evaluator: QueryEvaluator, kinds: ItemKinds) -> dict[str, Any]:
    """Return the row of metrics that ``evaluator`` has just computed."""
    return {
        "name": name,
        "test_result": {metric: float(value) for metric, value in result.items()},
        "unrounded": evaluator.unrounded(),
        "standard_error": evaluator.standard_errors(),
        "recall_parts": recall_parts(evaluator, kinds),
    }


def _mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of rows; the mean of their standard errors is an upper bound of its standard error."""

    def mean(values: list[dict[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([value[name] for value in values])) for name in values[0]}

    parts = [row["recall_parts"] for row in rows]
    return {
        "name": SURROGATE_MEAN,
        "test_result": mean([row["test_result"] for row in rows]),
        "unrounded": mean([row["unrounded"] for row in rows]),
        "standard_error": mean([row["standard_error"] for row in rows]),
        "recall_parts": {name: mean([part[name] for part in parts]) for name in parts[0]},
    }
