"""The fastest way of computing gradient norms that agrees with one backward pass per sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from logging import getLogger

import numpy as np
import torch
from torch import Tensor, nn

from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer.gradient_norm import eval_mode_with_grad, gradient_norms

Norms = Callable[[Mapping[str, Tensor]], np.ndarray]
Way = Callable[[nn.Module, Sequence[str] | None], AbstractContextManager[Norms]]

_TOLERANCE = 1e-3  # rounding errors are below 1e-5, real errors above 1e-2


@contextmanager
def gradient_norms_alone(model: nn.Module, parameters: Sequence[str] | None = None) -> Iterator[Norms]:
    """Yield a function of one batch that returns what ``gradient_norms`` does, by one backward pass per sample.

    It supports parameters of any module, but is slower.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    names = [name for name in named if named[name].requires_grad] if parameters is None else parameters
    chosen = {named[name] for name in names}

    @torch.enable_grad()
    def norms_of(batch: Mapping[str, Tensor]) -> np.ndarray:
        norms = []
        for row, mask in enumerate(batch["attention_mask"].bool()):
            alone = {name: values[row : row + 1, mask] for name, values in batch.items()}
            gradients = torch.autograd.grad(sample_losses(model, alone).sum(), list(chosen), allow_unused=True)
            norms.append(sum(float(each.double().square().sum()) for each in gradients if each is not None) ** 0.5)
        return np.array(norms)

    with eval_mode_with_grad(model, chosen):
        yield norms_of


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
        getLogger().info("effort: gradients through a shared prefix are not exact, so each sample uses its own")
        return batched
    getLogger().info("effort: gradients of a batch are not exact, so each sample runs separately, which is slower")
    return gradient_norms_alone


def _agrees(way: Way, trial: tuple[nn.Module, Mapping[str, Tensor]], expected: np.ndarray) -> bool:
    try:
        return np.allclose(_norms(way, *trial), expected, rtol=_TOLERANCE, atol=0)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):  # what a model does not support
        return False


def _norms(way: Way, network: nn.Module, batch: Mapping[str, Tensor]) -> np.ndarray:
    with way(network, None) as norms_of:
        return norms_of(batch)
