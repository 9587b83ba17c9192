"""Evaluation on a run's test queries: of its language model, fine-tuned or not, and of the yardsticks."""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from recbole.data.dataloader import TrainDataLoader
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, Splits, train_loader
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.yardstick.recall_part import ItemKinds, recall_parts
from recbole_dealrec.yardstick.yardsticks import UNTUNED, Yardsticks, yardstick_row


class Evaluation:
    """Evaluate recommenders on the ``n_test`` test queries of a run.

    Args:
        config: configuration of the run.
        splits: training, validation and test parts.
        samples: candidate samples of the training part.
    """

    def __init__(self, config: Config, splits: Splits, samples: CandidateSamples) -> None:
        self.config, self.splits, self.samples = config, splits, samples

    def tuned(self, trainer: LLMTrainer, reweighting: Reweighting) -> dict[str, Any]:
        """Return the fine-tuned model's metrics (rounded by RecBole and unrounded), errors and parts of Recall.

        The number of queries and the date and time are added.
        """
        queries = self._queries(trainer)
        result = trainer.test(queries, self.config["show_progress"], reweighting)
        reweighted, errors = trainer.reweighted_result()
        exponents = {"popularity": reweighting.popularity, "collaborative": reweighting.collaborative}
        return {
            "test_result": result,
            "unrounded": trainer.evaluator.unrounded(),
            "reweighting": {**exponents, "test_result": reweighted, "standard_error": errors},
            "test_standard_error": trainer.evaluator.standard_errors(),
            "recall_parts": recall_parts(trainer.evaluator, self._kinds),
            "n_test_queries": len(queries.positives),
            "date": datetime.now().isoformat(" ", "minutes"),
        }

    def untuned(self, trainer: LLMTrainer) -> dict[str, Any]:
        """Return the row of the language model with its current weights."""
        result = trainer.evaluate(self._queries(trainer), load_best_model=False)
        return yardstick_row(UNTUNED, result, trainer.evaluator, self._kinds)

    def yardsticks(self, surrogates: Mapping[str, SequentialRecommender]) -> list[dict[str, Any]]:
        """Return the rows of ``Yardsticks``."""
        return list(Yardsticks(self.config, self.splits, self._kinds, self._train_data).rows(surrogates))

    def _queries(self, trainer: LLMTrainer) -> QueryDataLoader:
        """Return the test queries, after the trainer has collected the training data that metrics need."""
        trainer.collect_data(self._train_data)
        return QueryDataLoader(self.config, self.splits.test, self.config["n_test"])

    @cached_property
    def _train_data(self) -> TrainDataLoader:
        return train_loader(self.config, self.splits.train, self.samples.rows)

    @cached_property
    def _kinds(self) -> ItemKinds:
        return ItemKinds.of(self.splits.train, self.samples)
