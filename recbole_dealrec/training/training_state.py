"""The state of training between two epochs, for resuming it: the loss curve and the random generators."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class TrainingCurve:
    """Losses and validation results of a training, as plain values.

    Attributes:
        train_loss: mean training loss of each epoch, from epoch 0 on.
        valid_epoch: epochs that ended with an evaluation.
        valid_result: the values of each metric at these evaluations.
        kept_epoch: epoch whose weights were saved last, None before.
    """

    train_loss: list[float] = field(default_factory=list)
    valid_epoch: list[int] = field(default_factory=list)
    valid_result: dict[str, list[float]] = field(default_factory=dict)
    kept_epoch: int | None = None

    def add_loss(self, loss: float) -> None:
        """Add the next epoch's mean training loss."""
        self.train_loss.append(float(loss))

    def add_result(self, epoch: int, result: Mapping[str, float]) -> None:
        """Add the evaluation after an epoch."""
        self.valid_epoch.append(epoch)
        for metric, value in result.items():
            self.valid_result.setdefault(metric, []).append(value)


def random_state(loader_generator: torch.Generator) -> dict[str, Any]:
    """Return the states of all random generators that training draws from, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": loader_generator.get_state(),
    }


def set_random_state(state: dict[str, Any], loader_generator: torch.Generator) -> None:
    """Set the generators to a state that ``random_state`` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([values.cpu() for values in state["cuda"]])
    loader_generator.set_state(state["loader"].cpu())
