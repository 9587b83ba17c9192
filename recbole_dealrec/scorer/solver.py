"""Solvers of (H + damping * I) x = v by Hessian-vector products: conjugate gradients, LiSSA, dense matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import getLogger
from math import isfinite
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor
from torch.func import grad, jvp
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

MatVec = Callable[[Tensor], Tensor]
EXACT_LIMIT = 5000


class IndefiniteCurvatureError(ArithmeticError):
    """H + damping * I is not positive definite, so more damping is needed."""


@dataclass(frozen=True)
class Solution:
    """Solution of a damped system.

    Attributes:
        x: flat vector.
        residual: relative residual ||(H + damping I) x - v|| / ||v||.
        iterations: number of matrix-vector products.
        converged: whether the residual reached the tolerance (LiSSA: whether the recursion settled).
    """

    x: Tensor
    residual: float
    iterations: int
    converged: bool


def ravel(tree: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return a flat vector of all tensors of a nested structure, and the inverse function."""
    leaves, spec = tree_flatten(tree)
    sizes = [leaf.numel() for leaf in leaves]

    def unravel(vector: Tensor) -> Any:
        parts = vector.split(sizes)
        return tree_unflatten([part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], spec)

    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves]), unravel


def hessian_vector_product(loss: Callable[[Any], Tensor], parameters: Any, direction: Any) -> Any:
    """Compute the Hessian of a scalar function times a direction, forward over reverse; structure of ``parameters``."""
    return jvp(grad(loss), (parameters,), (direction,))[1]


def inverse_hvp(
    loss_fn: Callable[..., Tensor],
    parameters: Any,
    v: Any,
    method: str = "cg",
    *,
    damping: float,
    batches: Sequence[Any] | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    recursion_depth: int = 5000,
    scale: float = 25.0,
    repeats: int = 1,
    seed: int = 0,
) -> Any:
    """Compute x = (H + damping * I)^-1 v, with H the Hessian of a mean loss; LiSSA is the paper's algorithm 1.

    Args:
        loss_fn: ``loss_fn(parameters)`` returns the scalar mean loss; with ``batches``,
            ``loss_fn(parameters, batch)``, and the Hessian is the mean over the batches, which have equal weight.
        parameters: tensor, or nested lists, tuples and dicts of tensors.
        v: same structure as ``parameters``.
        method: ``cg`` (deterministic), ``lissa`` (draws one batch per iteration), ``exact`` (dense, at most 5,000
            parameters).
        damping: delta itself. LiSSA's own damping is ``damping / scale``.
        batches: see ``loss_fn``.
        tolerance: relative residual at which ``cg`` stops.
        max_iterations: most products of ``cg``, which keeps a vector of the size of v for each.
        recursion_depth: iterations of a LiSSA recursion.
        scale: LiSSA's scale; it diverges below half the largest eigenvalue of a single batch's Hessian.
        repeats: number of LiSSA recursions to average.
        seed: seed of LiSSA's draws of batches.

    Returns:
        x, same structure as ``v``. If it has not converged, a warning with the residual is logged.

    Raises:
        IndefiniteCurvatureError: H + damping * I has a direction of negative curvature.
        ArithmeticError: the solution is not finite.
        ValueError: unknown method, ``exact`` with too many parameters, or ``v`` is not structured like ``parameters``.
    """
    v = tree_map(lambda _, part: part, parameters, v)  # mappings in the order of ``parameters``
    flat_v, unravel = ravel(v)

    def product(batch: Any, vector: Tensor) -> Tensor:
        loss = loss_fn if batches is None else lambda tree: loss_fn(tree, batch)
        return ravel(hessian_vector_product(loss, parameters, unravel(vector)))[0]

    parts = [None] if batches is None else list(batches)

    def matvec(vector: Tensor) -> Tensor:
        return sum(product(part, vector) for part in parts) / len(parts)

    if method == "cg":
        solution = Krylov(matvec, flat_v).solve(damping, tolerance, max_iterations)
    elif method == "exact":
        solution = dense_solve(matvec, flat_v, damping)
    elif method == "lissa":
        draws = np.random.default_rng(seed)
        stochastic = lambda vector: product(parts[draws.integers(len(parts))], vector)  # noqa: E731
        solution = lissa(stochastic, flat_v, damping, scale, recursion_depth, repeats)
    else:
        raise ValueError(f"method has to be cg, lissa or exact, not {method!r}")
    report(solution, method)
    return unravel(solution.x)


def report(solution: Solution, method: str) -> None:
    """Log a solution, as a warning if it has not converged.

    Raises:
        ArithmeticError: the solution is not finite.
    """
    if not (torch.isfinite(solution.x).all() and isfinite(solution.residual)):
        raise ArithmeticError(f"{method}: the solution is not finite; raise the damping (lissa: the scale)")
    text = f"{method}: {solution.iterations} Hessian-vector products, relative residual {solution.residual:.2e}"
    if solution.converged:
        getLogger().info(text)
    else:
        getLogger().warning(f"{text}: not converged; raise the damping or the number of iterations")


class Krylov:
    """The space of v, H v, H² v, ..., in which conjugate gradients solve; it grows by one product with H at a time.

    Lanczos' process keeps an orthonormal basis, [products + 1, P], and H in this basis, a tridiagonal matrix. The
    largest eigenvalue and the solutions for all dampings come from the same products.
    """

    def __init__(self, matvec: MatVec, v: Tensor) -> None:
        self.v = v
        self._matvec, self._norm = matvec, float(v.norm())
        self._basis = v[None] / (self._norm or 1.0)
        self._diagonal: list[float] = []
        self._beside: list[float] = []  # one more than the matrix has: it leads out of the space

    def largest_eigenvalue(self, tolerance: float = 1e-2, max_products: int = 30) -> float:
        """Return the largest absolute eigenvalue of H that v has a part in, 0 for v = 0, and nan if not finite.

        Args:
            tolerance: of the eigenvector's residual, relative to the eigenvalue; that of the eigenvalue is its square.
            max_products: products with H after which the space does not grow.
        """
        while True:
            values, vectors = self._eigen()
            top = np.abs(values).argmax()
            largest, residual = abs(values[top]), self._beside[-1] * abs(vectors[-1, top])
            if not residual > tolerance * largest or len(self._diagonal) >= max_products:
                return float(largest)
            self._grow()

    def solve(self, damping: float, tolerance: float, max_products: int) -> Solution:
        """Solve (H + damping * I) x = v to a relative residual of ``tolerance``, as conjugate gradients do from zero.

        Raises:
            IndefiniteCurvatureError: H + damping * I is not positive definite.
        """
        while True:
            values, vectors = self._eigen()
            if values[0] + damping <= 0 < self._norm:
                raise IndefiniteCurvatureError(f"smallest eigenvalue {values[0]:.3e} with damping {damping:.3e}")
            place = vectors @ (vectors[0] / (values + damping)) if self._norm else vectors[0] * 0
            residual = self._beside[-1] * abs(place[-1])
            if not residual > tolerance or len(self._diagonal) >= max_products:
                break
            self._grow()
        x = torch.from_numpy(place * self._norm).to(self._basis) @ self._basis[: len(place)]
        return Solution(x, float(residual), len(self._diagonal), bool(residual <= tolerance))

    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the eigenvalues of H in the basis, ascending, and its eigenvectors; nan if H is not finite."""
        if not self._diagonal:
            self._grow()
        if not np.isfinite([*self._diagonal, *self._beside]).all():
            return np.full(1, np.nan), np.full((1, 1), np.nan)
        return eigh_tridiagonal(self._diagonal, self._beside[:-1])

    def _grow(self) -> None:
        last = self._basis[-1]
        product = self._matvec(last)
        self._diagonal.append(float(last @ product))
        for _ in range(2):  # a second time, since rounding makes the first one inexact
            product = product - (self._basis @ product) @ self._basis
        rest = float(product.norm())
        if rest <= 10 * torch.finfo(product.dtype).eps * max(map(abs, self._diagonal)):
            rest = 0.0  # the space is closed under H
        self._beside.append(rest)
        self._basis = torch.cat([self._basis, product[None] / (rest or 1.0)])


def lissa(stochastic: MatVec, v: Tensor, damping: float, scale: float, depth: int, repeats: int) -> Solution:
    """Solve by the paper's recursion h <- v + (1 - damping / scale) h - H_t h / scale; x = mean(h) / scale.

    ``stochastic`` multiplies by the Hessian of a sample drawn at random at each call. As the mean Hessian is unknown,
    the residual is estimated from the drift of h over the last tenth of the recursion: the drift per iteration, or the
    drift relative to h if that is greater, as h is noise then.
    """
    total, residual = torch.zeros_like(v), 0.0
    tail = max(depth // 10, 1)
    for _ in range(repeats):
        h = v.clone()
        for step in range(depth):
            if step == depth - tail:
                before = h
            h = v + (1 - damping / scale) * h - stochastic(h) / scale
        drift = (h - before).norm()
        residual += max(_relative_norm(drift / tail, v), _relative_norm(drift, h)) / repeats
        total += h / (scale * repeats)
    return Solution(total, residual, depth * repeats, residual <= 0.1)


def dense_solve(matvec: MatVec, v: Tensor, damping: float) -> Solution:
    """Compute H column by column and solve by Cholesky.

    Raises:
        IndefiniteCurvatureError: H + damping * I is not positive definite.
        ArithmeticError: H is not finite.
        ValueError: more than 5,000 parameters.
    """
    n = v.numel()
    if n > EXACT_LIMIT:
        raise ValueError(f"exact solver: {n} parameters, at most {EXACT_LIMIT}; narrow influence_parameters or use cg")
    matrix = torch.stack([matvec(column) for column in torch.eye(n, dtype=v.dtype, device=v.device)])
    matrix = (matrix + matrix.T) / 2 + damping * torch.eye(n, dtype=v.dtype, device=v.device)
    if not torch.isfinite(matrix).all():
        raise ArithmeticError("exact solver: the curvature is not finite")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise IndefiniteCurvatureError(f"smallest eigenvalue {float(torch.linalg.eigvalsh(matrix)[0]):.3e}")
    x = torch.cholesky_solve(v[:, None], factor)[:, 0]
    residual = _relative_norm((matrix @ x - v).norm(), v)
    return Solution(x, residual, n, residual <= 1e-2)


def _relative_norm(size: Tensor, reference: Tensor) -> float:
    """Return a norm divided by the norm of a reference vector; 0 if that is 0."""
    norm = float(reference.norm())
    return 0.0 if norm == 0 else float(size) / norm
