"""Influence of each sample on the empirical risk, on a surrogate; DEALRec, arXiv 2401.17197."""

import math
from collections.abc import Sequence
from logging import getLogger

import numpy as np
import torch
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.scorer import solver
from recbole_dealrec.scorer.curvature import Curvature
from recbole_dealrec.scorer.derivative import DERIVATIVES, differentiable
from recbole_dealrec.scorer.problem import Problem
from recbole_dealrec.scorer.scorer import (
    SURROGATES,
    VALID_HISTORIES,
    VALID_TARGETS,
    Scorer,
    ScorerInputs,
    register_scorer,
)
from recbole_dealrec.store.console import progress_bar
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint

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
            solve = lambda: _solution(problem, samples, problem.mean_gradient(risk)).cpu().numpy()  # noqa: E731
            solution = checkpoint.compute_on_main(f"influence-solution-{number}", samples.rows, solve)
            x = torch.from_numpy(solution).to(problem.flat)
            batches = problem.batches(samples, "influence")
            return checkpoint.score(f"influence-{number}", samples.rows, batches, problem.derivative(x))


def tried_problem(surrogate: nn.Module, config: Config, samples: CandidateSamples) -> Problem:
    """Return the problem of a surrogate, with the first way of differentiation that works for it on a few samples.

    Raises:
        InputError: ``influence_parameters`` matches no parameter, or no way works.
    """
    for derivatives in DERIVATIVES:
        problem = Problem(surrogate, config, derivatives)
        try:
            if _agrees(problem, samples):
                return problem
            reason = "its directional derivatives are not those of its gradient, or not finite"
        except (RuntimeError, TypeError, NotImplementedError) as error:  # what a model's forward pass does not support
            reason = " ".join(str(error).split())
    raise InputError(f"surrogate_model '{config['surrogate_model']}' has no influence: {reason}; take another")


def _agrees(problem: Problem, samples: CandidateSamples) -> bool:
    """Return whether the losses' derivative along their gradient is its squared norm, and the curvature finite."""
    batches = [batch for _, batch in problem.batches(samples)]
    gradient = sum(solver.ravel(problem.gradient(problem.parameters, batch))[0] for batch in batches)
    if not gradient.isfinite().all():
        return True  # a surrogate that diverged, which the solver says
    along = sum(problem.derivative(gradient)(batch).sum() for batch in batches)
    expected = float(gradient.double().square().sum())
    curved = Curvature(problem, samples).product(gradient)
    return bool(curved.isfinite().all()) and math.isclose(along, expected, rel_tol=1e-3)


def _solution(problem: Problem, samples: CandidateSamples, v: Tensor) -> Tensor:
    """Return x = (H + delta I)^-1 v; double delta, with a warning, until the matrix is positive definite."""
    with progress_bar(shown=problem.config["show_progress"], desc="curvature", unit=" products") as progress:
        curvature = Curvature(problem, problem.curvature_samples(samples), progress)
        return _solve_with_enough_damping(curvature, problem.config, v)


def _solve_with_enough_damping(curvature: Curvature, config: Config, v: Tensor) -> Tensor:
    krylov = solver.Krylov(curvature.product, v)
    largest = krylov.largest_eigenvalue()
    if not (torch.isfinite(v).all() and math.isfinite(largest)):
        raise InputError(
            "influence: gradient and curvature of the surrogate's loss are not finite, as after a training that "
            "diverged; lower surrogate_learning_rate"
        )
    damping = config["hessian_damping"] * largest
    if config["hessian_solver"] == "lissa" and config["lissa_damping"] is not None:
        damping = config["lissa_damping"] * config["lissa_scale"]
    getLogger().info(f"largest eigenvalue of the curvature {largest:.3e}, damping {damping:.3e}")
    for _ in range(_MOST_DAMPING_DOUBLINGS):
        try:
            solution = _solve_with_damping(curvature, config, krylov, damping)
            break
        except solver.IndefiniteCurvatureError as error:
            getLogger().warning(f"the curvature is indefinite ({error}); the damping is doubled")
            damping *= 2
    else:
        raise ArithmeticError(f"the curvature stays indefinite up to damping {damping:.3e}; use gauss_newton")
    solver.report(solution, config["hessian_solver"])
    error = curvature.sampling_error(solution.x, damping)
    getLogger().info(f"sampling error of the curvature along the solution {error:.2e}")
    return solution.x


def _solve_with_damping(curvature: Curvature, config: Config, krylov: solver.Krylov, damping: float) -> solver.Solution:
    method = config["hessian_solver"]
    if method == "cg":
        return krylov.solve(damping, tolerance=1e-3, max_products=100)
    if method == "exact":
        return solver.dense_solve(curvature.product, krylov.v, damping)
    scale, depth, repeats = (config[f"lissa_{key}"] for key in ("scale", "depth", "repeats"))
    return solver.lissa(curvature.single_sample_product(), krylov.v, damping, scale, depth, repeats)
