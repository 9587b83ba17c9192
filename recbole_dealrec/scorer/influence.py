"""Influence of each sample on the empirical risk, on a surrogate; DEALRec, arXiv 2401.17197."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from logging import getLogger
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.surrogate import surrogate_batches
from recbole_dealrec.scorer import solver
from recbole_dealrec.scorer.derivative import DERIVATIVES, Derivatives, differentiable
from recbole_dealrec.scorer.scorer import (
    SURROGATES,
    VALID_HISTORIES,
    VALID_TARGETS,
    Scorer,
    ScorerInputs,
    register_scorer,
)
from recbole_dealrec.scorer.surrogate_loss import chosen_parameters, outputs_of
from recbole_dealrec.store.console import progress_bar
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress

_MOST_DAMPING_DOUBLINGS = 12


@register_scorer("influence")
class InfluenceScorer(Scorer):
    """I(s) = v^T (H + delta I)^-1 grad l(s): the increase of the empirical risk when s is removed, times n.

    Larger is more useful. v is the mean gradient over the risk's samples, H the Hessian (or Gauss-Newton matrix) of the
    mean loss of the candidates, l the full-softmax loss of the target given the history. One solution
    x = (H + delta I)^-1 v serves all samples: a score is the derivative of the sample's loss in direction x, which
    forward-mode differentiation computes for a batch in one pass. This is the paper's influence score, algorithm 1.

    Args:
        surrogate: trained RecBole sequential model, or several whose scores are averaged.
        config: reads ``hessian_solver``, ``hessian_damping``, ``hessian_samples``, ``curvature``,
            ``influence_parameters``, ``seed`` and the ``lissa_*`` keys.
        risk_samples: samples whose mean loss is the risk; the candidates themselves by default (the paper).
        checkpoint: stores each surrogate's solution x, and the scores while they are computed.
    """

    needs = (SURROGATES,)

    def __init__(
        self,
        surrogate: nn.Module | Sequence[nn.Module],
        config: Config,
        risk_samples: CandidateSamples | None = None,
        checkpoint: ScoreCheckpoint | None = None,
    ) -> None:
        self.surrogates = [surrogate] if isinstance(surrogate, nn.Module) else list(surrogate)
        self.config, self.risk_samples = config, risk_samples
        self.checkpoint = checkpoint or ScoreCheckpoint()

    @classmethod
    def seen(cls, config: Config) -> tuple[str, ...]:
        return (VALID_HISTORIES, VALID_TARGETS) if config["influence_on"] == "valid" else ()

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "InfluenceScorer":
        on_valid = inputs.config["influence_on"] == "valid"
        risk_samples = CandidateSamples.from_dataset(inputs.splits.valid) if on_valid else None
        return cls(inputs.surrogates, inputs.config, risk_samples, ScoreCheckpoint(inputs.folder))

    @classmethod
    def check(cls, surrogate: nn.Module, config: Config, samples: CandidateSamples) -> None:
        with differentiable(surrogate):
            tried_problem(surrogate, config, samples)

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the influence of each sample, float64 [n].

        Raises:
            InputError: ``influence_parameters`` matches no parameter, or a surrogate's loss has no finite curvature.
            ArithmeticError: the solution of the linear system is not finite, or no damping makes it positive definite.
        """
        risk = samples if self.risk_samples is None else self.risk_samples
        scores = [self._score(number, samples, risk) for number in range(len(self.surrogates))]
        return np.mean(scores, axis=0)

    def _score(self, number: int, samples: CandidateSamples, risk: CandidateSamples) -> np.ndarray:
        surrogate, checkpoint = self.surrogates[number], self.checkpoint
        with differentiable(surrogate):
            problem = tried_problem(surrogate, self.config, samples[:2])
            solve = lambda: problem.solve(samples, problem.mean_gradient(risk)).cpu().numpy()  # noqa: E731
            solution = checkpoint.compute_on_main(f"influence-solution-{number}", samples.rows, solve)
            x = torch.from_numpy(solution).to(problem.flat)
            batches = problem.batches(samples, "influence")
            return checkpoint.score(f"influence-{number}", samples.rows, batches, problem.derivative(x))


class _Batch(NamedTuple):
    """Inputs of the surrogate's differentiated part, and targets, int64 [B]."""

    inputs: Any
    targets: Tensor


class Problem:
    """Gradient, curvature and directional derivatives of one surrogate's losses by the chosen parameters."""

    def __init__(self, surrogate: nn.Module, config: Config, derivatives: Derivatives = DERIVATIVES[0]) -> None:
        self.config, self.surrogate, self._derivatives = config, surrogate, derivatives
        chosen = chosen_parameters(surrogate, config["influence_parameters"])
        self.outputs = outputs_of(surrogate, chosen)
        self.parameters = {f"surrogate.{name}": parameter for name, parameter in chosen.items()}
        self.flat, self.unravel = solver.ravel(self.parameters)

    def batches(self, samples: CandidateSamples, description: str = "") -> Iterator[tuple[np.ndarray, _Batch]]:
        """Yield indices and batches of samples of similar length; show progress if there is a description."""
        hidden = not (description and self.config["show_progress"])
        batches = surrogate_batches(self.surrogate, samples, self.config)
        for index, batch in with_progress(batches, len(samples), description, hidden):
            yield index, _Batch(self.outputs.inputs(batch), batch[self.surrogate.POS_ITEM_ID])

    def mean_gradient(self, samples: CandidateSamples) -> Tensor:
        """Return the mean gradient of the samples' losses, flat."""
        total = torch.zeros_like(self.flat)
        for _, batch in self.batches(samples, "Mean gradient"):
            total += solver.ravel(self._gradient(self.parameters, batch))[0]
        return total / len(samples)

    def directional_derivatives(self, samples: CandidateSamples, x: Tensor) -> np.ndarray:
        """Return the derivative of each sample's loss in direction x, float64 [n]."""
        return ScoreCheckpoint().score("", samples.rows, self.batches(samples, "influence"), self.derivative(x))

    def derivative(self, x: Tensor) -> Callable[[_Batch], np.ndarray]:
        """Return a function that computes the derivatives of a batch's losses in direction x, float64 [B]."""
        direction = self.unravel(x)

        def derivatives(batch: _Batch) -> np.ndarray:
            outputs, tangent = self._outputs_and_tangent(batch, direction)
            gradient = self.outputs.loss_gradient(outputs, batch.targets)
            return (gradient * tangent).sum(dim=-1).double().cpu().numpy()

        return derivatives

    def hessian_product(self, batch: _Batch, direction: dict[str, Tensor]) -> Tensor:
        """Compute the Hessian of the batch's summed loss times a direction, flat; forward over reverse."""
        gradient = lambda parameters: self._gradient(parameters, batch)  # noqa: E731
        return solver.ravel(self._derivatives.jvp(gradient, (self.parameters,), (direction,))[1])[0]

    def gauss_newton_product(self, batch: _Batch, direction: dict[str, Tensor]) -> Tensor:
        """Compute J^T L J times a direction, flat; J is the outputs' Jacobian, L the losses' Hessian by the outputs."""
        outputs, tangent = self._outputs_and_tangent(batch, direction)
        product = self.outputs.loss_curvature(outputs, tangent)
        pull_back = self._derivatives.vjp(lambda parameters: self._outputs(parameters, batch), self.parameters)[1]
        return solver.ravel(pull_back(product)[0])[0]

    def agrees(self, samples: CandidateSamples) -> bool:
        """Return whether the losses' derivative along their gradient is its squared norm, and the curvature finite."""
        batches = [batch for _, batch in self.batches(samples)]
        gradient = sum(solver.ravel(self._gradient(self.parameters, batch))[0] for batch in batches)
        if not gradient.isfinite().all():
            return True  # a surrogate that diverged, which the solver says
        along = sum(self.derivative(gradient)(batch).sum() for batch in batches)
        expected = float(gradient.double().square().sum())
        curved = Curvature(self, samples).product(gradient)
        return bool(curved.isfinite().all()) and math.isclose(along, expected, rel_tol=1e-3)

    def _outputs(self, parameters: dict[str, Tensor], batch: _Batch) -> Tensor:
        return functional_call(self.outputs, parameters, (batch.inputs,))

    def _outputs_and_tangent(self, batch: _Batch, direction: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the outputs and their derivative in a direction."""
        outputs = lambda parameters: self._outputs(parameters, batch)  # noqa: E731
        return self._derivatives.jvp(outputs, (self.parameters,), (direction,))

    def _gradient(self, parameters: dict[str, Tensor], batch: _Batch) -> dict[str, Tensor]:
        """Compute the gradient of the batch's summed loss."""
        outputs, pull_back = self._derivatives.vjp(lambda values: self._outputs(values, batch), parameters)
        return pull_back(self.outputs.loss_gradient(outputs, batch.targets))[0]

    def solve(self, samples: CandidateSamples, v: Tensor) -> Tensor:
        """Return x = (H + delta I)^-1 v; double delta, with a warning, until the matrix is positive definite."""
        with progress_bar(shown=self.config["show_progress"], desc="curvature", unit=" products") as progress:
            return self._solve_with_enough_damping(Curvature(self, self.curvature_samples(samples), progress), v)

    def _solve_with_enough_damping(self, curvature: "Curvature", v: Tensor) -> Tensor:
        krylov = solver.Krylov(curvature.product, v)
        largest = krylov.largest_eigenvalue()
        if not (torch.isfinite(v).all() and math.isfinite(largest)):
            raise InputError(
                "influence: gradient and curvature of the surrogate's loss are not finite, as after a training that "
                "diverged; lower surrogate_learning_rate"
            )
        damping = self.config["hessian_damping"] * largest
        if self.config["hessian_solver"] == "lissa" and self.config["lissa_damping"] is not None:
            damping = self.config["lissa_damping"] * self.config["lissa_scale"]
        getLogger().info(f"largest eigenvalue of the curvature {largest:.3e}, damping {damping:.3e}")
        for _ in range(_MOST_DAMPING_DOUBLINGS):
            try:
                solution = self._solve_with_damping(curvature, krylov, damping)
                break
            except solver.IndefiniteCurvatureError as error:
                getLogger().warning(f"the curvature is indefinite ({error}); the damping is doubled")
                damping *= 2
        else:
            raise ArithmeticError(f"the curvature stays indefinite up to damping {damping:.3e}; use gauss_newton")
        solver.report(solution, self.config["hessian_solver"])
        error = curvature.sampling_error(solution.x, damping)
        getLogger().info(f"sampling error of the curvature along the solution {error:.2e}")
        return solution.x

    def _solve_with_damping(self, curvature: "Curvature", krylov: solver.Krylov, damping: float) -> solver.Solution:
        method = self.config["hessian_solver"]
        if method == "cg":
            return krylov.solve(damping, tolerance=1e-3, max_products=100)
        if method == "exact":
            return solver.dense_solve(curvature.product, krylov.v, damping)
        scale, depth, repeats = (self.config[f"lissa_{key}"] for key in ("scale", "depth", "repeats"))
        return solver.lissa(curvature.single_sample_product(), krylov.v, damping, scale, depth, repeats)

    def curvature_samples(self, samples: CandidateSamples) -> CandidateSamples:
        """Draw the ``hessian_samples`` samples on which the curvature is computed."""
        count = self.config["hessian_samples"]
        if count == 0 or count >= len(samples):
            return samples
        drawn = np.random.default_rng(self.config["seed"]).choice(len(samples), count, replace=False)
        return samples[np.sort(drawn)]


def tried_problem(surrogate: nn.Module, config: Config, samples: CandidateSamples) -> Problem:
    """Return the problem of a surrogate, with the first way of differentiation that works for it on a few samples.

    Raises:
        InputError: ``influence_parameters`` matches no parameter, or no way works.
    """
    for derivatives in DERIVATIVES:
        problem = Problem(surrogate, config, derivatives)
        try:
            if problem.agrees(samples):
                return problem
            reason = "its directional derivatives are not those of its gradient, or not finite"
        except (RuntimeError, TypeError, NotImplementedError) as error:  # what a model's forward pass does not support
            reason = " ".join(str(error).split())
    raise InputError(f"surrogate_model '{config['surrogate_model']}' has no influence: {reason}; take another")


class Curvature:
    """Products with the Hessian or Gauss-Newton matrix of the mean loss of some samples."""

    def __init__(self, problem: Problem, samples: CandidateSamples, progress: tqdm | None = None) -> None:
        self.problem, self.samples = problem, samples
        self.progress = progress_bar(shown=False) if progress is None else progress
        self.batches = [batch for _, batch in problem.batches(samples)]
        products = {"hessian": problem.hessian_product, "gauss_newton": problem.gauss_newton_product}
        self._product = products[problem.config["curvature"]]

    def product(self, vector: Tensor) -> Tensor:
        """Compute the curvature of the mean loss times a flat vector."""
        return self._sum_products(self.batches, vector) / len(self.samples)

    def single_sample_product(self) -> solver.MatVec:
        """Return a function that multiplies by the curvature of one sample, drawn at random at each call."""
        draws = np.random.default_rng(self.problem.config["seed"])

        def product(vector: Tensor) -> Tensor:
            self.progress.update()
            drawn = self.samples[draws.integers(len(self.samples), size=1)]
            ((_, batch),) = self.problem.batches(drawn)
            return self._product(batch, self.problem.unravel(vector))

        return product

    def sampling_error(self, x: Tensor, damping: float) -> float:
        """Estimate the relative standard error of (H + delta I) x due to sampling H, from two interleaved halves."""
        if len(self.samples) < 2:
            return 0.0
        halves = []
        for start in (0, 1):
            part = self.samples[np.arange(start, len(self.samples), 2)]
            batches = (batch for _, batch in self.problem.batches(part))
            halves.append(self._sum_products(batches, x) / len(part))
        mean = (halves[0] + halves[1]) / 2 + damping * x
        return float((halves[0] - halves[1]).norm() / (2 * mean.norm()))

    def _sum_products(self, batches: Iterable[_Batch], vector: Tensor) -> Tensor:
        """Compute the curvature of the summed loss of the batches times a flat vector."""
        direction = self.problem.unravel(vector)
        total = torch.zeros_like(vector)
        self.progress.update()
        for batch in batches:
            total += self._product(batch, direction)
        return total
