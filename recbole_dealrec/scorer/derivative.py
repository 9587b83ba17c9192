"""Directional derivatives and gradients of functions of named tensors, in two ways.

The transforms of ``torch.func`` wrap every tensor, so they fail if the forward pass uses NumPy, for example in a graph
network that builds its graphs there. PyTorch's own dual numbers and graphs wrap no tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import jvp, vjp
from torch.utils._pytree import tree_map

Named = dict[str, Tensor]


@contextmanager
def differentiable(surrogate: nn.Module) -> Iterator[None]:
    """Set evaluation mode, in which forward-mode and second derivatives can be computed."""
    was_training = surrogate.training
    surrogate.eval()
    try:
        # cuDNN's recurrent kernels have no second derivative.
        recurrent = any(isinstance(module, nn.RNNBase) for module in surrogate.modules())
        # No graph is needed outside the transforms of torch.func, which differentiate under no_grad, too.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=not recurrent):
            yield
    finally:
        surrogate.train(was_training)


class Derivatives(NamedTuple):
    """A way of differentiation.

    Attributes:
        jvp: as ``torch.func.jvp``, of one argument.
        vjp: as ``torch.func.vjp``, of one argument.
    """

    jvp: Callable[..., tuple[Any, Any]]
    vjp: Callable[..., tuple[Tensor, Callable[[Tensor], tuple[Named]]]]


def _dual_jvp(function: Callable, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    with forward_ad.dual_level():
        outputs = function(tree_map(forward_ad.make_dual, primals[0], tangents[0]))
        return tree_map(lambda dual: forward_ad.unpack_dual(dual).primal, outputs), tree_map(_tangent, outputs)


def _tangent(dual: Tensor) -> Tensor:
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent


def _graph_vjp(function: Callable, values: Named) -> tuple[Tensor, Callable[[Tensor], tuple[Named]]]:
    # Views without a graph keep the tangents of dual numbers.
    with torch.no_grad():
        variables = {name: value.view_as(value) for name, value in values.items()}
    with torch.enable_grad():
        outputs = function({name: value.requires_grad_() for name, value in variables.items()})

    def pull_back(gradient: Tensor) -> tuple[Named]:
        found = torch.autograd.grad(outputs, list(variables.values()), gradient, allow_unused=True, retain_graph=True)
        pairs = zip(variables.items(), found, strict=True)
        return ({name: torch.zeros_like(value) if each is None else each for (name, value), each in pairs},)

    with torch.no_grad():
        return outputs.view_as(outputs), pull_back


DERIVATIVES = (Derivatives(jvp, vjp), Derivatives(_dual_jvp, _graph_vjp))
