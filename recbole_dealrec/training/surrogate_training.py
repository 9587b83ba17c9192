"""Training of the surrogates of a run."""

from collections.abc import Callable

import numpy as np
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import init_seed
from torch import nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import QueryDataLoader, Splits
from recbole_dealrec.distributed import processes
from recbole_dealrec.model.surrogate.surrogate import SurrogateFiles, build_surrogate, surrogate_loader
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.safetensors_trainer import OnEpoch, SafetensorsTrainer, unheard


class SurrogateTraining:
    """Training of one of a run's surrogates, with a seed derived from ``seed`` and its number.

    Args:
        config: configuration of the run; the surrogate's is ``Config.surrogate``.
        splits: the surrogate is trained on the training part and validated on the validation part.
        folder: run folder for the weights.
        number: number of the surrogate in the run, from 0.
        on_epoch: called with the curve after each epoch and each evaluation.

    Attributes:
        model: the surrogate; its saved weights after ``fit`` or ``load``.
    """

    def __init__(
        self, config: Config, splits: Splits, folder: RunFolder, number: int, on_epoch: OnEpoch = unheard
    ) -> None:
        self._files = SurrogateFiles(number)
        self.config = config.surrogate()
        self.config["seed"] = surrogate_seed(config["seed"], number)
        self.splits, self.folder = splits, folder
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.model: SequentialRecommender = build_surrogate(self.config, splits.train)
        self._trainer = _SurrogateTrainer(self.config, self.model, folder, self._files.weights, on_epoch)

    def fit(self) -> None:
        """Train, and save and load the weights of the last epoch as good as the best by validation."""
        self._fit()
        self.load()

    def finish(self) -> None:
        """Write the losses and validation results, which marks the training as finished."""
        self.folder.output_json(self._files.curve, self._trainer.summary())

    def load(self) -> None:
        """Load the saved weights."""
        self._trainer.load(self.folder / self._files.weights)

    def watch(self, after_evaluation: Callable[[nn.Module], None]) -> None:
        """Train without saving, and call ``after_evaluation`` with the surrogate after each evaluation."""
        self._fit(saved=False, callback_fn=lambda epoch, score: after_evaluation(self.model))

    def _fit(self, **options) -> None:
        train_data = surrogate_loader(self.config, self.splits.train, self.model)
        valid_data = QueryDataLoader(self.config, self.splits.valid)
        options["show_progress"] = self.config["show_progress"]
        processes.on_main(lambda: self._trainer.fit(train_data, valid_data, **options))


class _SurrogateTrainer(SafetensorsTrainer):
    """Keep the last evaluated epoch within one standard error of the best one (Breiman et al., 1984, section 3.4.3).

    The standard error is that of the evaluated epoch's metric over the validation queries.
    Which of epochs that validation cannot tell apart is best is a matter of chance; at the last one's lowest learning
    rate, the scores of surrogates with other seeds agree best (docs/results/scores.md).
    """

    def _valid_epoch(self, valid_data, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        score, result = super()._valid_epoch(valid_data, show_progress)
        behind = self.best_valid_score - score if self.valid_metric_bigger else score - self.best_valid_score
        if self._saves_state and 0 < behind <= self.evaluator.standard_errors().get(self.valid_metric.lower(), 0):
            self._save_checkpoint(self._place[0])
            self.best_valid_result = result
        return score, result


def surrogate_seed(seed: int, number: int) -> int:
    """Return a surrogate's seed; unlike with ``seed + number``, runs with neighbouring seeds share no seed."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
