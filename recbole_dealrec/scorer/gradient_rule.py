"""Per-sample gradients from the modules' inputs and output gradients, and their squared norms."""

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from transformers.pytorch_utils import Conv1D

from recbole_dealrec.model.loss import widened

_PART = {"cpu": 2**18, "gpu": 2**26}  # numbers of gradients that are dense at a time


class Outer(NamedTuple):
    """Matrix gradients ``sum_t rows[b, t] (x) cols[b, t]``; rows are [B, T, R], or int64 [B, T] for one-hot rows."""

    rows: Tensor
    cols: Tensor


# Computes a parameter's gradients, dense [B, ...] or factored, from the module, its inputs and its output gradients.
Rule = Callable[[nn.Module, Tensor, Tensor], Tensor | Outer]


def find_rule(module: nn.Module, attribute: str, name: str) -> Rule:
    """Return the rule for the parameter ``module.attribute``, which is called ``name`` in the model.

    Raises:
        TypeError: there is no rule for such a module.
    """
    kind = type(module).__name__
    # Keyed by the forward, so that a subclass with another forward does not get the rule of its base.
    rules = _RULES.get(type(module).forward, {})
    if kind.endswith(("RMSNorm", "T5LayerNorm")):
        rules = {"weight": _norm_weight} if len(list(module.parameters())) == 1 else {}
    if attribute not in rules or getattr(module, "scale_grad_by_freq", False):
        raise TypeError(f"parameter {name}: no per-sample gradient for module {kind}")
    return rules[attribute]


def squared_norms(parts: list[Tensor] | list[Outer], height: int) -> Tensor:
    """Return the squared norms [B] of the sums of a rule's results over all uses of a parameter of ``height`` rows."""
    if isinstance(parts[0], Tensor):
        return sum(parts[1:], parts[0]).flatten(1).square().sum(1)
    return _outer_squares(parts, height)


def dense_gradients(terms: list[Tensor] | list[Outer], shape: tuple[int, ...]) -> Tensor:
    """Return the gradients [B, *shape] that are the sums of a rule's results over all uses of a parameter."""
    first, *others = (_dense(term, shape[0]) if isinstance(term, Outer) else term.reshape(-1, *shape) for term in terms)
    return sum(others, first)


def dense_parts(terms: list[Tensor] | list[Outer], shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield ``dense_gradients`` of a few samples after another, which stay in the cache or need little memory."""
    first = terms[0].cols if isinstance(terms[0], Outer) else terms[0]
    size = max(_PART["cpu" if first.device.type == "cpu" else "gpu"] // prod(shape), 1)
    for start in range(0, len(first), size):
        yield dense_gradients([_rows(term, slice(start, start + size)) for term in terms], shape)


def _rows(term: Tensor | Outer, rows: slice) -> Tensor | Outer:
    return Outer(*(factor[rows] for factor in term)) if isinstance(term, Outer) else term[rows]


def _dense(outer: Outer, height: int) -> Tensor:
    """Return the matrices [B, height, C]."""
    if outer.rows.is_floating_point():
        return outer.rows.mT @ outer.cols
    size, _, width = outer.cols.shape
    sums = outer.cols.new_zeros(size, height, width)
    return sums.scatter_add_(1, outer.rows[:, :, None].expand(-1, -1, width), outer.cols)


def _outer_squares(parts: list[Outer], height: int) -> Tensor:
    """Return the squared norms [B] of the sums of ``parts``, whose dense rows have width ``height``."""
    dense = _concatenate_uses([part for part in parts if part.rows.is_floating_point()])
    one_hot = _concatenate_uses([part for part in parts if not part.rows.is_floating_point()])
    if one_hot is None:
        return _dense_squares(dense)
    squares = _one_hot_squares(one_hot, height)
    return squares if dense is None else squares + _dense_squares(dense) + 2 * _inner(one_hot, dense)


def _concatenate_uses(parts: list[Outer]) -> Outer | None:
    """Concatenate several uses to one use with more tokens; None for no use."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return Outer(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


def _dense_squares(outer: Outer, ghost: bool | None = None) -> Tensor:
    """Compute squared norms [B] in the form with fewer flops, which needs at most the memory of ``outer``."""
    (_, tokens, height), width = outer.rows.shape, outer.cols.shape[2]
    if ghost is None:
        ghost = tokens * (height + width) < height * width
    if ghost:
        return _inner(outer, outer)
    # bmm is several times slower with the wider factor first.
    short, long = sorted(outer, key=lambda factor: factor.shape[2])
    return (short.mT @ long).square().sum((1, 2))


def _one_hot_squares(outer: Outer, height: int, ghost: bool | None = None) -> Tensor:
    """Compute squared norms [B] in the form that needs less memory."""
    _, tokens, width = outer.cols.shape
    if ghost is None:
        ghost = tokens * tokens < height * width
    return _inner(outer, outer) if ghost else _dense(outer, height).square().sum((1, 2))


def _inner(left: Outer, right: Outer) -> Tensor:
    """Compute inner products [B] of gradients without forming these; ``right`` is one-hot only if ``left`` is."""
    if left.rows.is_floating_point():
        rows = left.rows @ right.rows.mT
    elif right.rows.is_floating_point():
        rows = right.rows.mT.gather(1, left.rows[:, :, None].expand(-1, -1, right.rows.shape[1]))
    else:
        rows = left.rows[:, :, None] == right.rows[:, None, :]
    return (rows * (left.cols @ right.cols.mT)).sum((1, 2))


def _by_token(tensor: Tensor) -> Tensor:
    """Reshape [B, ..., n] to [B, T, n], float32 at least."""
    return widened(tensor).reshape(len(tensor), -1, tensor.shape[-1])


def _bias(module: nn.Module, _inputs: Tensor, gradient: Tensor) -> Tensor:
    return widened(gradient).reshape(len(gradient), -1, *module.bias.shape).sum(1)


def _embedding_weight(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Outer:
    ids, cols = inputs.flatten(1), _by_token(gradient)
    if module.padding_idx is not None:
        cols = cols.masked_fill((ids == module.padding_idx)[:, :, None], 0.0)
    return Outer(ids, cols)


def _norm_weight(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Differentiate the module itself in float32, as RMS norms differ in epsilon, offset and order."""
    state = {name: widened(parameter.detach()) for name, parameter in module.named_parameters()}

    def one_sample(x: Tensor, d: Tensor) -> Tensor:
        return vjp(lambda weight: functional_call(module, state | {"weight": weight}, x), state["weight"])[1](d)[0]

    return vmap(one_sample)(widened(inputs), widened(gradient))


_RULES: dict[Callable, dict[str, Rule]] = {
    nn.Linear.forward: {"weight": lambda _, x, d: Outer(_by_token(d), _by_token(x)), "bias": _bias},
    Conv1D.forward: {"weight": lambda _, x, d: Outer(_by_token(x), _by_token(d)), "bias": _bias},
    nn.Embedding.forward: {"weight": _embedding_weight},
    nn.LayerNorm.forward: {"weight": _norm_weight, "bias": _bias},
}
