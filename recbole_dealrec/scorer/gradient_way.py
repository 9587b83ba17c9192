"""The fastest way of computing per-sample gradients and norms that agrees with one backward pass per sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from logging import getLogger

import numpy as np
import torch
from torch import Tensor, nn

from recbole_dealrec.model.loss import sample_losses, widened
from recbole_dealrec.scorer.gradient_norm import eval_mode_with_grad, gradient_norms, gradient_uses
from recbole_dealrec.scorer.gradient_rule import Outer

Norms = Callable[[Mapping[str, Tensor]], np.ndarray]
Way = Callable[[nn.Module, Sequence[str] | None], AbstractContextManager[Norms]]
# Name of each parameter that affects the loss, and terms, dense [B, ...] or factored, whose sum is its gradients.
NamedGradients = Iterator[tuple[str, list[Tensor] | list[Outer]]]
GradientWay = Callable[
    [nn.Module, Sequence[str] | None], AbstractContextManager[Callable[[Mapping[str, Tensor]], NamedGradients]]
]

_TOLERANCE = 1e-3  # rounding errors are below 1e-5, real errors above 1e-2


@contextmanager
def batched_gradients(
    model: nn.Module, parameters: Sequence[str] | None = None, shares_prefix: bool = True
) -> Iterator[Callable[[Mapping[str, Tensor]], NamedGradients]]:
    """Yield a function of one batch that returns its ``NamedGradients``; arguments and errors of ``gradient_norms``."""
    with gradient_uses(model, parameters, shares_prefix) as (targets, uses_of):

        def gradients_of(batch: Mapping[str, Tensor]) -> NamedGradients:
            uses = uses_of(batch)
            for target in targets:
                if terms := target.gradients(uses, len(batch["labels"])):
                    yield target.name, terms

        yield gradients_of


@contextmanager
def gradients_alone(
    model: nn.Module, parameters: Sequence[str] | None = None
) -> Iterator[Callable[[Mapping[str, Tensor]], NamedGradients]]:
    """Yield a function of one batch that returns what that of ``batched_gradients`` does, by single backward passes."""
    with _rows_alone(model, parameters) as (names, rows_of):

        def gradients_of(batch: Mapping[str, Tensor]) -> NamedGradients:
            for name, rows in zip(names, zip(*rows_of(batch), strict=True), strict=True):
                used = [row for row in rows if row is not None]
                if used:
                    filled = [torch.zeros_like(used[0]) if row is None else row for row in rows]
                    yield name, [widened(torch.stack(filled))]

        yield gradients_of


@contextmanager
def gradient_norms_alone(model: nn.Module, parameters: Sequence[str] | None = None) -> Iterator[Norms]:
    """Yield a function of one batch that returns what ``gradient_norms`` does, by one backward pass per sample.

    It supports parameters of any module, but is slower.
    """
    with _rows_alone(model, parameters) as (_, rows_of):

        def norms_of(batch: Mapping[str, Tensor]) -> np.ndarray:
            squares = [
                sum(float(each.double().square().sum()) for each in row if each is not None) for row in rows_of(batch)
            ]
            return np.sqrt(squares)

        yield norms_of


@contextmanager
def _rows_alone(
    model: nn.Module, parameters: Sequence[str] | None
) -> Iterator[tuple[list[str], Callable[[Mapping[str, Tensor]], Iterator[tuple[Tensor | None, ...]]]]]:
    """Yield names and a function of one batch that yields each sample's gradients, None for an unused parameter."""
    named = dict(model.named_parameters(remove_duplicate=False))
    names = [name for name in named if named[name].requires_grad] if parameters is None else parameters
    chosen: dict[nn.Parameter, str] = {}
    for name in names:
        chosen.setdefault(named[name], name)

    def rows_of(batch: Mapping[str, Tensor]) -> Iterator[tuple[Tensor | None, ...]]:
        for row, mask in enumerate(batch["attention_mask"].bool()):
            alone = {name: values[row : row + 1, mask] for name, values in batch.items()}
            with torch.enable_grad():
                loss = sample_losses(model, alone).sum()
            yield torch.autograd.grad(loss, list(chosen), allow_unused=True)

    with eval_mode_with_grad(model, set(chosen)):
        yield list(chosen.values()), rows_of


def fastest_way(trial: tuple[nn.Module, Mapping[str, Tensor]] | None) -> Way:
    """Return ``gradient_norms``, without a shared prefix if necessary, or else ``gradient_norms_alone``.

    A way other than the first is logged.

    Args:
        trial: small network of the same class, and a batch; None if all ways are known to agree.
    """
    if trial is None:
        return gradient_norms
    expected = _norms(gradient_norms_alone, *trial)
    if _agrees(gradient_norms, trial, expected):
        return gradient_norms
    batched = partial(gradient_norms, shares_prefix=False)
    if _agrees(batched, trial, expected):
        getLogger().info("gradients through a shared prefix are not exact, so each sample uses its own")
        return batched
    getLogger().info("gradients of a batch are not exact, so each sample runs separately, which is slower")
    return gradient_norms_alone


def fastest_gradients(trial: tuple[nn.Module, Mapping[str, Tensor]] | None) -> GradientWay:
    """Return ``batched_gradients`` or ``gradients_alone``, as ``fastest_way`` does for norms."""
    way = fastest_way(trial)
    others = {gradient_norms: batched_gradients, gradient_norms_alone: gradients_alone}
    return others.get(way, partial(batched_gradients, shares_prefix=False))


def _agrees(way: Way, trial: tuple[nn.Module, Mapping[str, Tensor]], expected: np.ndarray) -> bool:
    try:
        return np.allclose(_norms(way, *trial), expected, rtol=_TOLERANCE, atol=0)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):  # what a model does not support
        return False


def _norms(way: Way, network: nn.Module, batch: Mapping[str, Tensor]) -> np.ndarray:
    with way(network, None) as norms_of:
        return norms_of(batch)
