"""RecBole's trainer with safetensors checkpoints and resumable training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer, trainer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from recbole_dealrec.config import Config
from recbole_dealrec.data import Fields
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import CONSOLE, progress_bar
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder
from recbole_dealrec.store.step import stopwatch
from recbole_dealrec.training.collector import JoinedCollector
from recbole_dealrec.training.query_evaluator import QueryEvaluator
from recbole_dealrec.training.training_state import TrainingCurve, random_state, set_random_state

_MOST_NAMED = 8  # number of samples in an error message
OnEpoch = Callable[..., None]


def unheard(*values: Any) -> None:
    """Do nothing; this is the default ``on_epoch``."""


class SafetensorsTrainer(Trainer):
    """Train with RecBole's trainer; the best weights are saved as safetensors, never as pickle.

    The learning rate follows ``rate_share`` over all epochs, with ``warmup_steps`` and the peak ``learning_rate``.
    The state of training is saved in the run folder before each epoch. Interrupted training resumes from it and gives
    the same result, if the number of processes is the same. With a ``callback_fn``, which may have its own state,
    nothing is saved and training starts from the beginning.

    Args:
        config: configuration of the model.
        model: RecBole model.
        folder: run folder for the best weights.
        name: file or folder of the weights in it.
        on_epoch: called with the curve, as plain values, after each epoch and each evaluation.

    Attributes:
        curve: losses and validation results so far.
    """

    def __init__(
        self, config: Config, model: nn.Module, folder: RunFolder, name: str, on_epoch: OnEpoch = unheard
    ) -> None:
        with _without_tensorboard():
            super().__init__(config, model)
        self.tensorboard = _EpochEnd(lambda: on_epoch(asdict(self.curve)))
        self.scheduler: LambdaLR | None = None
        self.optimizer.register_step_post_hook(self._advance_rate)
        self.eval_collector = JoinedCollector(config)
        self.evaluator = QueryEvaluator(config)
        self.folder, self.name = folder, name
        self.saved_model_file = folder / name
        self._state_file = f"{name}.state{UNFINISHED}"
        self._saves_state = False
        self._place = 0, 0  # epoch and forward pass
        self._bar = progress_bar(shown=False)  # advances with each batch
        self.curve = TrainingCurve()

    def fit(self, train_data, *args, saved: bool = True, callback_fn=None, **kwargs):
        total = max(self.epochs, 1) * len(train_data)
        share = partial(rate_share, warmup=self.config["warmup_steps"], total=total)
        self.scheduler = LambdaLR(self.optimizer, share)
        self._saves_state = saved and callback_fn is None
        if self._saves_state and self.folder.has(self._state_file):
            self._set_state(torch.load(self.folder / self._state_file, self.device, weights_only=True), train_data)
            CONSOLE.info(f"{self.name}: training resumes with {self._epoch_name(self.start_epoch)}")
        return super().fit(train_data, *args, saved=saved, callback_fn=callback_fn, **kwargs)

    def _advance_rate(self, *_: Any) -> None:
        if self.scheduler:  # none outside ``fit``
            self.scheduler.step()

    def summary(self) -> dict[str, Any]:
        """Return ``best_valid_result``, of the saved weights, and the ``curve`` of a training, as plain values."""
        return {"best_valid_result": self.best_valid_result, "curve": asdict(self.curve)}

    def state(self, train_data, epoch: int) -> dict[str, Any]:
        """Return the complete state of training before ``epoch``, as tensors and plain values."""
        return {
            "epoch": epoch,
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": (self.best_valid_score, self.cur_step, self.best_valid_result),
            "random": processes.gather(random_state(train_data.generator)),
            "curve": asdict(self.curve),
            "seconds": stopwatch.seconds(),
        }

    def _set_state(self, state: dict[str, Any], train_data) -> None:
        self.start_epoch = state["epoch"]
        self._set_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.best_valid_score, self.cur_step, self.best_valid_result = state["best"]
        set_random_state(state["random"][processes.rank() % len(state["random"])], train_data.generator)
        self.curve = TrainingCurve(**state["curve"])
        stopwatch.resume(state["seconds"])

    def _weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(weights)

    def _train_epoch(self, train_data, epoch_idx: int, loss_func=None, show_progress: bool = False) -> float:
        self._save_state(train_data, epoch_idx)
        self._place = epoch_idx, 0
        with progress_bar(shown=show_progress, total=len(train_data), desc=self._epoch_name(epoch_idx)) as self._bar:
            sums = super()._train_epoch(train_data, epoch_idx, loss_func or self._loss)
        self._check_weights(epoch_idx)
        self.curve.add_loss(np.sum(sums) / len(train_data))  # a model with several losses gives a tuple
        return sums

    def _loss(self, interaction: Interaction) -> torch.Tensor:
        epoch, batch = self._place
        self._place, self._batch = (epoch, batch + 1), interaction
        self._bar.update()
        return self.model.calculate_loss(interaction)

    def _check_nan(self, loss: torch.Tensor) -> None:
        """Raise InputError if the loss is not finite."""
        if torch.isfinite(loss):
            return
        fields, (epoch, batch) = Fields.of(self.config), self._place
        users, items = (self._batch[name].tolist() for name in (fields.user, fields.item))
        samples = ", ".join(f"{user}/{item}" for user, item in zip(users[:_MOST_NAMED], items, strict=False))
        raise InputError(
            f"{self.name}: the loss is not finite in epoch {epoch}, forward pass {batch}, for samples (internal ids of "
            f"user and item) {samples}{', ...' if len(users) > _MOST_NAMED else ''}; lower the learning rate"
        )

    def _check_weights(self, epoch: int) -> None:
        """Raise InputError if a trained weight is not finite; the loss does not show this for the last step."""
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters() if weight.requires_grad):
            raise InputError(f"{self.name}: the weights are not finite after epoch {epoch}; lower the learning rate")

    def _save_state(self, train_data, epoch: int) -> None:
        if self._saves_state and epoch > self.start_epoch:
            state = self.state(train_data, epoch)
            with self.folder.output(self._state_file) as path:
                torch.save(state, path)

    def _valid_epoch(self, valid_data, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        score, result = super()._valid_epoch(valid_data, show_progress)
        # The state is loaded with weights_only, which does not accept NumPy's numbers.
        result = {metric: float(value) for metric, value in result.items()}
        self.curve.add_result(self._place[0], result)
        return float(score), result

    def save(self, path: Path) -> None:
        """Write the model's weights."""
        # Copies, because safetensors accepts no tensors that share memory.
        save_file({name: value.clone() for name, value in self.model.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Load weights that ``save`` wrote."""
        self.model.load_state_dict(load_file(path, device=str(self.device)))

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs) -> None:
        with self.folder.output(self.name) as path:
            self.save(path)
        self.curve.kept_epoch = epoch

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model: bool = True, model_file=None, show_progress: bool = False):
        if load_best_model:
            self.load(Path(model_file or self.saved_model_file))
        with progress_bar(shown=show_progress, total=len(eval_data), desc="evaluation") as self._bar:
            return super().evaluate(eval_data, load_best_model=False)

    def _full_sort_batch_eval(self, batched_data):
        self._bar.update()
        return super()._full_sort_batch_eval(batched_data)

    def _epoch_name(self, epoch: int) -> str:
        return f"epoch {epoch + 1} of {self.epochs}"


class _EpochEnd:
    """Replace the TensorBoard writer of RecBole's trainer, which is called after each epoch and each evaluation."""

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told

    def add_scalar(self, *values: Any) -> None:
        self._told()

    def add_hparams(self, *values: Any) -> None:
        """Do nothing: trackers log the whole configuration."""


@contextmanager
def _without_tensorboard() -> Iterator[None]:
    """Prevent RecBole from opening a writer in ./log_tensorboard, where all trainings would have the same names."""
    opened = trainer.get_tensorboard
    trainer.get_tensorboard = lambda logger: None
    try:
        yield
    finally:
        trainer.get_tensorboard = opened


def rate_share(step: int, warmup: int, total: int) -> float:
    """Return the share of the peak learning rate at an optimiser step: a linear rise, then a linear fall.

    Every step changes the weights: the share is above 0 at the first and the last one, and 1 at the end of the rise.

    Args:
        step: number of the step, from 0.
        warmup: steps of the rise; at most ``total`` are used.
        total: number of steps.
    """
    rise = max(1, min(warmup, total))
    return min((step + 1) / rise, (total - step) / (total + 1 - rise))
