"""Random projection of per-sample gradients to short vectors with about the same inner products."""

import hashlib
from collections.abc import Callable
from math import isqrt, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_dealrec.scorer.gradient_rule import Outer, dense_parts
from recbole_dealrec.scorer.gradient_way import NamedGradients

# The standard deviation of a cosine's error is then about 1/32; 100,000 samples take 400 MB.
SIZE = 1024


class GradientProjection:
    """Random projection of gradients, whose inner products are unbiased estimates of those of the whole gradients.

    TRAK (Park et al., ICML 2023) and LESS multiply the whole gradient by one random matrix. Here, as in LoGra (Choe et
    al., arXiv 2405.13954), the gradient G of a weight matrix is projected from both sides, P^T G Q, so that neither
    matrix is larger than an activation's width. Each parameter has its own P and Q, and the results of all parameters
    are added, not concatenated: the products of different parameters are 0 in expectation, and the error depends on
    the length of the vector, not on the number of parameters or on which of them has the large gradient.

    Entries of P and Q are random signs, scaled so that E[P P^T] is the unit matrix. A side that is not longer than its
    projection, such as LoRA's rank, keeps its values and only gets random signs, so that it adds no error. Biases and
    weights of norms are projected by one matrix of this kind.

    Args:
        model: the model whose gradients are projected.
        seed: seed of the signs, which otherwise depend only on the parameter's name.
        size: length d of the vectors.
    """

    def __init__(self, model: nn.Module, seed: int, size: int = SIZE) -> None:
        named = model.named_parameters(remove_duplicate=False)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in named}
        self._seed, self.size = seed, size
        self._matrices: dict[str, list[Tensor]] = {}

    def __call__(self, gradients: NamedGradients, direction: Callable[[str, Tensor], Tensor] | None = None) -> Tensor:
        """Return the projections of a batch's gradients, [B, d], float32 at least.

        Args:
            gradients: the gradients of each parameter.
            direction: returns what is projected in place of a parameter's gradients, from its name and the gradients
                [b, ...] of a few samples, which alone are then in memory; None for the gradients themselves.
        """
        total: Tensor | int = 0
        for name, terms in gradients:
            if direction:
                parts = dense_parts(terms, self._shapes[name])
                projected = [torch.cat([self._project(name, direction(name, part)) for part in parts])]
            else:
                projected = (self._project(name, term) for term in terms)
            for vectors in projected:
                total = total + vectors.to(getattr(total, "device", None))
        return total

    def _project(self, name: str, term: Tensor | Outer) -> Tensor:
        """Return the projection [B, d] of one parameter's gradients."""
        like = term.cols if isinstance(term, Outer) else term
        matrices = [matrix.to(like) for matrix in self._matrices_of(name, like.device)]
        if isinstance(term, Outer):
            projected = _project_outer(term, *matrices)
        elif len(matrices) == 2:
            projected = matrices[0].T @ term @ matrices[1]
        else:
            projected = term.flatten(1) @ matrices[0]
        projected = projected.flatten(1)
        return F.pad(projected, (0, self.size - projected.shape[1]))

    def _matrices_of(self, name: str, device: torch.device) -> list[Tensor]:
        """Return P and Q of a weight matrix, or P of another parameter, each [rows, projected rows]."""
        if name not in self._matrices:
            key = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=8).digest()
            # Drawn on the CPU, so that the projections are the same on every device.
            generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
            shape = self._shapes[name]
            sizes = _projected_sizes(shape, self.size) if len(shape) == 2 else [self.size]
            shape = shape if len(shape) == 2 else [prod(shape)]
            self._matrices[name] = [
                random_signs(rows, columns, generator).to(device) for rows, columns in zip(shape, sizes, strict=True)
            ]
        return self._matrices[name]


def random_signs(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix P with E[P P^T] = 1, float32 [rows, columns]; with enough columns, P P^T = 1."""
    if rows <= columns:
        return F.pad(torch.diag(_draw((rows,), generator)), (0, columns - rows))
    return _draw((rows, columns), generator) / columns**0.5


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).float() * 2 - 1


def _projected_sizes(shape: tuple[int, ...], size: int) -> list[int]:
    """Return to how many rows and columns a matrix is projected; their product is at most ``size``."""
    short = min(*shape, isqrt(size))
    return [short, size // short] if shape[0] <= shape[1] else [size // short, short]


def _project_outer(outer: Outer, left: Tensor, right: Tensor) -> Tensor:
    """Return ``left^T G right`` of factored gradients G, [B, r, c], without forming G."""
    rows, cols = outer
    if not rows.is_floating_point():
        return left[rows].mT @ (cols @ right)
    # The shorter side first, then the sum over tokens, so that the longer side is projected only once per sample.
    if left.shape[1] <= right.shape[1]:
        return ((rows @ left).mT @ cols) @ right
    return left.T @ (rows.mT @ (cols @ right))
