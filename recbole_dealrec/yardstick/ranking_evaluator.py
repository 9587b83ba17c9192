"""Evaluation of any ranking by RecBole's collector and evaluator."""

from collections.abc import Callable

import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import QueryDataLoader, SpareBatch
from recbole_dealrec.training.collector import JoinedCollector
from recbole_dealrec.training.query_evaluator import QueryEvaluator


class RankingEvaluator:
    """Rank the items for queries, and evaluate the rankings with RecBole's metrics.

    Args:
        config: reads ``metrics``, ``topk`` and ``metric_decimal_place``.
        train_data: loader of the training part, for metrics such as ItemCoverage.

    Attributes:
        evaluator: has the data collected from the last queries.
    """

    def __init__(self, config: Config, train_data: TrainDataLoader) -> None:
        self._device = config["device"]
        self._collector = JoinedCollector(config)
        self._collector.data_collect(train_data)
        self.evaluator = QueryEvaluator(config)

    @torch.no_grad()
    def evaluate(self, predict: Callable[[Interaction], Tensor], queries: QueryDataLoader) -> dict[str, float]:
        """Return the metrics by name.

        Args:
            predict: returns the score of every item for each query, [B, n_items].
            queries: queries with their positive items.
        """
        for batch in queries:
            interaction, _, *positives = batch
            scores = predict(interaction.to(self._device)).view(len(interaction), -1).to(self._device)
            scores[:, 0] = -torch.inf  # the padding item
            if isinstance(batch, SpareBatch):
                scores, *positives = (values[:0] for values in (scores, *positives))
            self._collector.eval_batch_collect(scores, interaction, *positives)
        return self.evaluator.evaluate(self._collector.get_data_struct())
