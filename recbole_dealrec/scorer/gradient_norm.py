"""Exact per-sample gradient norms of a causal language model from one backward pass per batch.

The backward pass stops at the outputs of the modules that own the chosen parameters; the per-sample weight gradients
follow from those modules' inputs and output gradients.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, vjp, vmap
from transformers.pytorch_utils import Conv1D

from recbole_dealrec.model.loss import sample_losses, widened
from recbole_dealrec.scorer.position_bias import biases_of_samples


class _Outer(NamedTuple):
    """Matrix gradients ``sum_t rows[b, t] (x) cols[b, t]``; rows are [B, T, R], or int64 [B, T] for one-hot rows."""

    rows: Tensor
    cols: Tensor


_Rule = Callable[[nn.Module, Tensor, Tensor], Tensor | _Outer]
_Call = tuple[nn.Module, Tensor, GradientEdge]


class _Target(NamedTuple):
    """A chosen parameter, with a rule for every module that holds it."""

    name: str
    parameter: nn.Parameter
    rules: dict[nn.Module, _Rule]


def per_sample_gradient_norms(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], parameters: Sequence[str] | None = None
) -> np.ndarray:
    """L2 norm of every sample's gradient of its own loss, without a backward pass per sample.

    This is the effort score ``||grad_phi L_LLM(s)||_2`` of DEALRec (Lin et al., SIGIR 2024, arXiv 2401.17197), computed
    by the "ghost norm" (Goodfellow 2015, arXiv 1510.01799). The model runs in eval mode; its modes and
    ``requires_grad`` flags are as before when the function returns or raises.

    Args:
        model: Causal language model or encoder-decoder, see ``sample_losses`` of ``model/loss.py``; any float dtype,
            with or without PEFT.
        batches: Mappings of [B, T] tensors with ``input_ids``, ``attention_mask`` and ``labels``; read one at a time.
        parameters: Names out of ``model.named_parameters()``; None means all that require grad. They may belong to
            linear (also GPT-2's Conv1D), embedding, LayerNorm and RMSNorm modules, T5's relative position biases among
            them.

    Returns:
        float64 [n], in the order of the samples; accumulated in float32 at least.

    Raises:
        ValueError: No parameter is chosen, a name is unknown, no chosen parameter takes part in the loss, or a sample
            has no labelled token.
        TypeError: A parameter belongs to another kind of module, is also used outside its module's forward, or its
            module is not called on inputs that start with the batch dimension.
    """
    targets = _find_targets(model, parameters)
    norms = [np.empty(0)]
    with _prepared(model, {target.parameter for target in targets}):
        for number, batch in enumerate(batches):
            norms.append(_batch_norms(model, batch, targets, check=number == 0))
    return np.concatenate(norms)


def _find_targets(model: nn.Module, names: Sequence[str] | None) -> list[_Target]:
    known = dict(model.named_parameters(remove_duplicate=False))
    if names is None:
        names = [name for name, parameter in known.items() if parameter.requires_grad]
    for name in names:
        if name not in known:
            raise ValueError(f"the model has no parameter {name}")
    if not names:
        raise ValueError("no parameter to take gradients of: none is named, or none requires grad")
    targets = {known[name]: _Target(name, known[name], {}) for name in names}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter in targets:
                targets[parameter].rules[module] = _rule(module, attribute, targets[parameter].name)
    return list(targets.values())


def _rule(module: nn.Module, attribute: str, name: str) -> _Rule:
    kind = type(module).__name__
    # Keyed by the forward: a subclass that computes something else must not pass for its base.
    rules = _RULES.get(type(module).forward, {})
    if kind.endswith(("RMSNorm", "T5LayerNorm")):
        rules = {"weight": _norm_weight} if len(list(module.parameters())) == 1 else {}
    if attribute not in rules or getattr(module, "scale_grad_by_freq", False):
        raise TypeError(f"parameter {name}: no per-sample gradient for module {kind}")
    return rules[attribute]


@contextmanager
def _prepared(model: nn.Module, chosen: set[nn.Parameter]) -> Iterator[None]:
    """Eval mode, and grad for the chosen parameters only, so that the graph starts at the first of them."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(parameter in chosen)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _recorded(model: nn.Module, owners: set[nn.Module], batch_size: int) -> Iterator[list[_Call]]:
    """Collect the calls of ``owners`` while the context is open."""
    calls: list[_Call] = []

    def record(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        inputs = (args[0] if args else next(iter(kwargs.values()))).detach()
        # An in-place operation on a view takes the view's own node out of the graph; on any other tensor the node stays
        # and keeps its meaning, which is why the edge is recorded and not the tensor.
        if output._is_view():
            output = torch.ops.aten._unsafe_view(output, output.shape)
        if output.shape[0] == 1 < batch_size:
            # Shared by all samples, like GPT-2's default positions: its gradient would be summed over them.
            inputs, output = (x.expand(batch_size, *x.shape[1:]) for x in (inputs, output))
        calls.append((module, inputs, get_gradient_edge(output)))
        return output

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in owners]
    for module in model.modules():
        # enable_input_require_grads() lets the graph start at a frozen embedding.
        if type(module).forward is nn.Embedding.forward and module not in owners:
            handles.append(module.register_forward_hook(lambda _module, _args, output: output.detach()))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def _batch_norms(model: nn.Module, batch: Mapping[str, Tensor], targets: list[_Target], check: bool) -> np.ndarray:
    size = len(batch["labels"])
    owners = {module for target in targets for module in target.rules}
    with _recorded(model, owners, size) as calls, biases_of_samples(model, owners, size):
        losses = sample_losses(model, batch)
    if not calls or not losses.requires_grad:
        raise ValueError(f"no chosen parameter takes part in the loss, {targets[0].name} for one")
    if check:
        _check_uses(losses, targets, calls)
    gradients = torch.autograd.grad(losses.sum(), [edge for _, _, edge in calls], allow_unused=True)
    uses = defaultdict(list)
    for (module, inputs, _), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            uses[module].append((inputs, gradient))
    squares = torch.stack([_squares(target, uses, size).to(losses.device) for target in targets])
    return squares.cpu().double().sum(0).clamp_min(0).sqrt().numpy()


def _check_uses(losses: Tensor, targets: list[_Target], calls: list[_Call]) -> None:
    """Refuse a parameter that the graph uses more often than its modules were called: the rest would be missed."""
    edges, stack, seen = Counter(), [losses.grad_fn], set()
    while stack:
        for node, _ in stack.pop().next_functions:
            if hasattr(node, "variable"):
                edges[node.variable] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    called = Counter(module for module, _, _ in calls)
    for name, parameter, rules in targets:
        if edges[parameter] > sum(called[module] for module in rules):
            kind = type(next(iter(rules))).__name__
            raise TypeError(f"parameter {name}: used outside the forward of its module {kind}")


def _squares(target: _Target, uses: Mapping[nn.Module, list[tuple[Tensor, Tensor]]], size: int) -> Tensor:
    """Squared norms [B] of one parameter's gradients, which are the sums over all its uses."""
    parts = []
    for module, rule in target.rules.items():
        for inputs, gradient in uses[module]:
            if inputs.dim() < 2 or len(gradient) != size:
                called = f"{type(module).__name__} called on {list(inputs.shape)}"
                raise TypeError(f"parameter {target.name}: {called}, not on a batch of {size} samples")
            parts.append(rule(module, inputs, gradient))
    if not parts:
        return torch.zeros(size)
    if isinstance(parts[0], Tensor):
        return sum(parts[1:], parts[0]).flatten(1).square().sum(1)
    return _outer_squares(parts, len(target.parameter))


def _outer_squares(parts: list[_Outer], height: int) -> Tensor:
    """Squared norms [B] of the sums of ``parts``, whose rows are ``height`` wide when written out."""
    dense = _joined([part for part in parts if part.rows.is_floating_point()])
    one_hot = _joined([part for part in parts if not part.rows.is_floating_point()])
    if one_hot is None:
        return _dense_squares(dense)
    squares = _one_hot_squares(one_hot, height)
    return squares if dense is None else squares + _dense_squares(dense) + 2 * _inner(one_hot, dense)


def _joined(parts: list[_Outer]) -> _Outer | None:
    """Several uses as one use with more tokens."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return _Outer(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


def _dense_squares(outer: _Outer, ghost: bool | None = None) -> Tensor:
    """Squared norms [B] in the form of fewer flops, which also never takes more memory than ``outer`` itself."""
    (_, tokens, height), width = outer.rows.shape, outer.cols.shape[2]
    if ghost is None:
        ghost = tokens * (height + width) < height * width
    if ghost:
        return _inner(outer, outer)
    # bmm is several times slower with the long side first.
    short, long = sorted(outer, key=lambda factor: factor.shape[2])
    return (short.mT @ long).square().sum((1, 2))


def _one_hot_squares(outer: _Outer, height: int, ghost: bool | None = None) -> Tensor:
    """Squared norms [B] in the form that takes less memory."""
    size, tokens, width = outer.cols.shape
    if ghost is None:
        ghost = tokens * tokens < height * width
    if ghost:
        return _inner(outer, outer)
    sums = outer.cols.new_zeros(size, height, width)
    return sums.scatter_add_(1, outer.rows[:, :, None].expand(-1, -1, width), outer.cols).square().sum((1, 2))


def _inner(left: _Outer, right: _Outer) -> Tensor:
    """Inner products [B] of the samples' gradients, without forming them; ``right`` is one-hot only if ``left`` is."""
    if left.rows.is_floating_point():
        rows = left.rows @ right.rows.mT
    elif right.rows.is_floating_point():
        rows = right.rows.mT.gather(1, left.rows[:, :, None].expand(-1, -1, right.rows.shape[1]))
    else:
        rows = left.rows[:, :, None] == right.rows[:, None, :]
    return (rows * (left.cols @ right.cols.mT)).sum((1, 2))


def _tokens(tensor: Tensor) -> Tensor:
    """[B, ..., n] as [B, T, n], float32 at least."""
    return widened(tensor).reshape(len(tensor), -1, tensor.shape[-1])


def _bias(module: nn.Module, _inputs: Tensor, gradient: Tensor) -> Tensor:
    return widened(gradient).reshape(len(gradient), -1, *module.bias.shape).sum(1)


def _embedding_weight(module: nn.Module, inputs: Tensor, gradient: Tensor) -> _Outer:
    ids, cols = inputs.flatten(1), _tokens(gradient)
    if module.padding_idx is not None:
        cols = cols.masked_fill((ids == module.padding_idx)[:, :, None], 0.0)
    return _Outer(ids, cols)


def _norm_weight(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Reruns the module in float32 instead of a formula: RMS norms differ in epsilon, offset and order."""
    state = {name: widened(parameter.detach()) for name, parameter in module.named_parameters()}

    def one_sample(x: Tensor, d: Tensor) -> Tensor:
        return vjp(lambda weight: functional_call(module, state | {"weight": weight}, x), state["weight"])[1](d)[0]

    return vmap(one_sample)(widened(inputs), widened(gradient))


_RULES: dict[Callable, dict[str, _Rule]] = {
    nn.Linear.forward: {"weight": lambda _, x, d: _Outer(_tokens(d), _tokens(x)), "bias": _bias},
    Conv1D.forward: {"weight": lambda _, x, d: _Outer(_tokens(x), _tokens(d)), "bias": _bias},
    nn.Embedding.forward: {"weight": _embedding_weight},
    nn.LayerNorm.forward: {"weight": _norm_weight, "bias": _bias},
}
