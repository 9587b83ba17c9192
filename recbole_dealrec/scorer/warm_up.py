"""A short training of the language model, undone afterwards, and the Adam moments that it ends with."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.distributed.fsdp import full_tensor
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.model.memory import in_fitting_parts
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.effort import select_rows
from recbole_dealrec.scorer.gradient_norm import eval_mode_with_grad

EPOCHS, STEP_SAMPLES = 4, 16
_RATE = 1e-3


class AdamMoments:
    """The state of Adam (Kingma & Ba, ICLR 2015) after some steps.

    Args:
        optimizer: the optimiser, after at least one step; all its parameters have one group.
        parameters: its parameters by name.
    """

    def __init__(self, optimizer: Adam, parameters: dict[str, nn.Parameter]) -> None:
        (group,) = optimizer.param_groups
        self._betas, self._epsilon = group["betas"], group["eps"]
        states = {name: optimizer.state[parameter] for name, parameter in parameters.items()}
        self._next = 1 + int(next(iter(states.values()))["step"])
        self._moments = {
            name: (full_tensor(state["exp_avg"]), full_tensor(state["exp_avg_sq"])) for name, state in states.items()
        }

    def direction(self, name: str, gradients: Tensor) -> Tensor:
        """Return how Adam would change a parameter next, per unit of learning rate and with the sign of the gradient.

        Args:
            name: name of the parameter.
            gradients: a gradient of it for each sample, [B, ...]; each is the gradient of a step of its own.

        Returns:
            Moments with the sample's gradient added, bias corrected, one divided by the root of the other, [B, ...].
        """
        first, second = self._moments[name]
        beta1, beta2 = self._betas
        first = torch.lerp(gradients, first.to(gradients), beta1).div_(1 - beta1**self._next)
        second = torch.lerp(gradients.square(), second.to(gradients), beta2).div_(1 - beta2**self._next)
        return first.div_(second.sqrt_().add_(self._epsilon))


@contextmanager
def warmed_up(llm: LLMRecommender, samples: CandidateSamples) -> Iterator[AdamMoments]:
    """Train a recommender's language model on a few samples while the context is open, and yield Adam's moments.

    There are ``EPOCHS`` epochs in steps of ``STEP_SAMPLES`` samples, in an order drawn by ``seed``, at a constant
    learning rate of 0.001, without dropout. Every process does the same steps. The trained parameters are the old ones
    when the context is left.

    Raises:
        InputError: a loss is not finite.
    """
    parameters = {name: value for name, value in llm.network.named_parameters() if value.requires_grad}
    before = [value.detach().clone() for value in parameters.values()]
    try:
        yield AdamMoments(_train(llm, samples, list(parameters.values())), parameters)
    finally:
        with torch.no_grad():
            for value, old in zip(parameters.values(), before, strict=True):
                value.copy_(old)
                value.grad = None


def _train(llm: LLMRecommender, samples: CandidateSamples, parameters: list[nn.Parameter]) -> Adam:
    """Train the parameters; log the mean loss of the first and the last epoch."""
    optimizer, random, losses = Adam(parameters, _RATE), np.random.default_rng(llm.config["seed"]), []
    with eval_mode_with_grad(llm.network, set(parameters)):
        for _ in range(EPOCHS):
            order = random.permutation(len(samples))
            steps = np.array_split(order, ceil(len(order) / STEP_SAMPLES))
            losses.append(np.mean([_step(llm, samples[rows], optimizer, parameters) for rows in steps]))
    if not np.isfinite(losses).all():
        raise InputError("sampler LESS: the loss of the warm-up is not finite; set llm_dtype to float32 or bfloat16")
    getLogger().info(f"warm-up: {len(samples)} samples, mean loss {losses[0]:.4f}, {losses[-1]:.4f} in the last epoch")
    return optimizer


def _step(llm: LLMRecommender, samples: CandidateSamples, optimizer: Adam, parameters: list[nn.Parameter]) -> float:
    """Do one optimiser step; return the mean loss of the samples before it."""
    total, sums = 0.0, [torch.zeros_like(parameter) for parameter in parameters]

    @torch.enable_grad()
    def add(batch: dict[str, Tensor]) -> float:
        optimizer.zero_grad()
        losses = sample_losses(llm.network, batch)
        losses.sum().backward()
        for value, parameter in zip(sums, parameters, strict=True):
            if parameter.grad is not None:
                value.add_(parameter.grad)
        return float(losses.detach().sum())

    for _, batch in llm.batches(samples):
        total += in_fitting_parts(add, batch, len(batch["labels"]), select_rows, sum)
    for value, parameter in zip(sums, parameters, strict=True):
        parameter.grad = value / len(samples)
    optimizer.step()
    optimizer.zero_grad()
    return total / len(samples)
