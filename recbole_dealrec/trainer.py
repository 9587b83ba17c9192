"""RecBole trainers whose checkpoints are safetensors: one for surrogates, one that fine-tunes a language model."""

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from recbole_dealrec.config import Config  # first: it makes RecBole importable
from recbole_dealrec.data import Fields
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.run_folder import atomic_path

from recbole.data.interaction import Interaction  # isort: skip
from recbole.trainer import Trainer  # isort: skip
from recbole.utils import set_color  # isort: skip


class SafetensorsTrainer(Trainer):
    """RecBole's trainer, but the best weights are kept as safetensors and never pass through pickle.

    Args:
        config: configuration of the model.
        model: RecBole model.
        checkpoint: path of the best weights.
    """

    def __init__(self, config: Config, model: nn.Module, checkpoint: Path) -> None:
        super().__init__(config, model)
        self.saved_model_file = checkpoint

    def save(self, path: Path) -> None:
        """Write the model's weights."""
        save_file(self.model.state_dict(), path)

    def load(self, path: Path) -> None:
        """Read weights that :meth:`save` wrote into the model."""
        self.model.load_state_dict(load_file(path, device=str(self.device)))

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs) -> None:
        with atomic_path(self.saved_model_file) as path:
            self.save(path)

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model: bool = True, model_file=None, show_progress: bool = False):
        if load_best_model:
            self.load(Path(model_file or self.saved_model_file))
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)


class LLMTrainer(SafetensorsTrainer):
    """Few-shot fine-tuning; RecBole's loop, early stopping, collector and evaluator around accelerate.

    ``train_batch_size`` samples make one optimiser step, ``micro_batch_size`` one forward pass; the gradient is the
    mean over the step's samples however they are cut. The learning rate warms up over ``warmup_steps`` and falls
    linearly to zero. ``valid_metric: loss`` stops early by the validation loss (the paper), anything else by
    that metric.
    """

    def __init__(self, config: Config, model: LLMRecommender, checkpoint: Path) -> None:
        super().__init__(config, model, checkpoint)
        self.accelerator = Accelerator(mixed_precision=config["mixed_precision"], cpu=self.device.type == "cpu")
        model.network, self.optimizer = self.accelerator.prepare(model.network, self.optimizer)
        self.scheduler = None

    def save(self, path: Path) -> None:
        self.model.save(path)

    def load(self, path: Path) -> None:
        self.model.load(path)

    def fit(self, train_data, *args, **kwargs):
        total = max(self.epochs, 1) * len(train_data)
        self.scheduler = get_linear_schedule_with_warmup(self.optimizer, min(self.config["warmup_steps"], total), total)
        return super().fit(train_data, *args, **kwargs)

    def _build_optimizer(self, **kwargs):
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return super()._build_optimizer(params=trained, **kwargs)

    def _train_epoch(self, train_data, epoch_idx: int, loss_func=None, show_progress: bool = False) -> float:
        """One epoch; returns the mean loss of a sample."""
        self.model.train()
        total, count = 0.0, 0
        description = set_color(f"Train {epoch_idx:>5}", "pink")
        progress = tqdm(train_data, ncols=100, desc=description, disable=not show_progress)
        for interaction in progress:
            loss = self._step(interaction)
            total, count = total + loss * len(interaction), count + len(interaction)
            progress.set_postfix(loss=f"{loss:.4f}")
        return total / count

    def _step(self, interaction: Interaction) -> float:
        """One optimiser step; returns the mean loss of the samples before it."""
        size, step_loss = len(interaction), 0.0
        # Samples of similar length make a forward pass, so that little of it is padding; the gradient is the same.
        interaction = interaction[interaction[self.model.ITEM_SEQ_LEN].argsort(stable=True)]
        for start in range(0, size, self.config["micro_batch_size"]):
            part = interaction[start : start + self.config["micro_batch_size"]]
            loss = self.model.calculate_loss(part) * (len(part) / size)
            self._check_nan(loss)
            self.accelerator.backward(loss)
            step_loss += loss.item()
        if self.clip_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return step_loss

    def _valid_epoch(self, valid_data, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        if self.valid_metric != "loss":
            return super()._valid_epoch(valid_data, show_progress)
        loss = self._mean_loss(valid_data, show_progress)
        return loss, {"loss": loss}

    @torch.no_grad()
    def _mean_loss(self, valid_data, show_progress: bool) -> float:
        """Mean loss of all (query, positive item) pairs."""
        self.model.eval()
        total, count = 0.0, 0
        progress = tqdm(valid_data, ncols=100, desc=set_color("Validate   ", "pink"), disable=not show_progress)
        for queries, _, query, item in progress:
            rows = queries[query]
            rows.update(Interaction({Fields.of(self.config).item: item}))
            total, count = total + float(self.model.sample_losses(rows).sum()), count + len(rows)
        return total / count
