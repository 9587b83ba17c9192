"""Gradients, curvature and directional derivatives of a surrogate's losses."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.surrogate.surrogate import surrogate_batches
from recbole_dealrec.scorer import solver
from recbole_dealrec.scorer.derivative import DERIVATIVES, Derivatives
from recbole_dealrec.scorer.surrogate_loss import chosen_parameters, outputs_of
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress


class LossBatch(NamedTuple):
    """Inputs of the surrogate's differentiated part; targets, int64 [B]; losses' gradients by its outputs, if known."""

    inputs: Any
    targets: Tensor
    loss_gradient: Tensor | None


class Problem:
    """Gradient, curvature and directional derivatives of one surrogate's losses by the chosen parameters."""

    def __init__(self, surrogate: nn.Module, config: Config, derivatives: Derivatives = DERIVATIVES[0]) -> None:
        self.config, self.surrogate, self._derivatives = config, surrogate, derivatives
        chosen = chosen_parameters(surrogate, config["influence_parameters"])
        self.outputs = outputs_of(surrogate, chosen)
        self.parameters = {f"surrogate.{name}": parameter for name, parameter in chosen.items()}
        self.flat, self.unravel = solver.ravel(self.parameters)
        self._known: tuple[CandidateSamples, Tensor] | None = None  # samples and their losses' gradients, [n, d]

    def batches(self, samples: CandidateSamples, description: str = "") -> Iterator[tuple[np.ndarray, LossBatch]]:
        """Yield indices and batches of samples of similar length; show progress if there is a description."""
        hidden = not (description and self.config["show_progress"])
        batches = surrogate_batches(self.surrogate, samples, self.config)
        known = self._known[1] if self._known and self._known[0] is samples else None
        for index, batch in with_progress(batches, len(samples), description, hidden):
            loss_gradient = None if known is None else known[index].to(self.flat.device)
            yield index, LossBatch(self.outputs.inputs(batch), batch[self.surrogate.POS_ITEM_ID], loss_gradient)

    def mean_gradient(self, samples: CandidateSamples) -> Tensor:
        """Return the mean gradient of the samples' losses, flat.

        The losses' gradients by the outputs, most of the work, are kept for the scores of the same samples if they are
        small, [n, d].
        """
        total, known = torch.zeros_like(self.flat), None
        for index, batch in self.batches(samples, "Mean gradient"):
            loss_gradient, pull_back = self._loss_gradient(self.parameters, batch)
            total += solver.ravel(pull_back(loss_gradient)[0])[0]
            if self.outputs.small:
                if known is None:
                    known = loss_gradient.new_empty(len(samples), loss_gradient.shape[1], device="cpu")
                known[index] = loss_gradient.cpu()
        self._known = None if known is None else (samples, known)
        return total / len(samples)

    def directional_derivatives(self, samples: CandidateSamples, x: Tensor) -> np.ndarray:
        """Return the derivative of each sample's loss in direction x, float64 [n]."""
        return ScoreCheckpoint().score("", samples.rows, self.batches(samples, "influence"), self.derivative(x))

    def derivative(self, x: Tensor) -> Callable[[LossBatch], np.ndarray]:
        """Return a function that computes the derivatives of a batch's losses in direction x, float64 [B]."""
        direction = self.unravel(x)

        def derivatives(batch: LossBatch) -> np.ndarray:
            outputs, tangent = self._outputs_and_tangent(batch, direction)
            gradient = batch.loss_gradient
            if gradient is None:
                gradient = self.outputs.loss_gradient(outputs, batch.targets)
            return (gradient * tangent).sum(dim=-1).double().cpu().numpy()

        return derivatives

    def gradient(self, parameters: dict[str, Tensor], batch: LossBatch) -> dict[str, Tensor]:
        """Compute the gradient of the batch's summed loss."""
        loss_gradient, pull_back = self._loss_gradient(parameters, batch)
        return pull_back(loss_gradient)[0]

    def hessian_product(self, batch: LossBatch, direction: dict[str, Tensor]) -> Tensor:
        """Compute the Hessian of the batch's summed loss times a direction, flat; forward over reverse."""
        gradient = lambda parameters: self.gradient(parameters, batch)  # noqa: E731
        return solver.ravel(self._derivatives.jvp(gradient, (self.parameters,), (direction,))[1])[0]

    def gauss_newton_product(self, batch: LossBatch, direction: dict[str, Tensor]) -> Tensor:
        """Compute J^T L J times a direction, flat; J is the outputs' Jacobian, L the losses' Hessian by the outputs."""
        outputs, tangent = self._outputs_and_tangent(batch, direction)
        product = self.outputs.loss_curvature(outputs, tangent)
        pull_back = self._derivatives.vjp(lambda parameters: self._outputs(parameters, batch), self.parameters)[1]
        return solver.ravel(pull_back(product)[0])[0]

    def curvature_samples(self, samples: CandidateSamples) -> CandidateSamples:
        """Draw the ``hessian_samples`` samples on which the curvature is computed."""
        count = self.config["hessian_samples"]
        if count == 0 or count >= len(samples):
            return samples
        drawn = np.random.default_rng(self.config["seed"]).choice(len(samples), count, replace=False)
        return samples[np.sort(drawn)]

    def _outputs(self, parameters: dict[str, Tensor], batch: LossBatch) -> Tensor:
        return functional_call(self.outputs, parameters, (batch.inputs,))

    def _outputs_and_tangent(self, batch: LossBatch, direction: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the outputs and their derivative in a direction."""
        outputs = lambda parameters: self._outputs(parameters, batch)  # noqa: E731
        return self._derivatives.jvp(outputs, (self.parameters,), (direction,))

    def _loss_gradient(self, parameters: dict[str, Tensor], batch: LossBatch) -> tuple[Tensor, Callable]:
        """Return the losses' gradients by the outputs, and the function from these to those by the parameters."""
        outputs, pull_back = self._derivatives.vjp(lambda values: self._outputs(values, batch), parameters)
        return self.outputs.loss_gradient(outputs, batch.targets), pull_back
