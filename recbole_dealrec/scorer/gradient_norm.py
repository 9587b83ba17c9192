"""Exact per-sample gradients of a language model from one backward pass per batch, and their norms.

The backward pass stops at the outputs of the modules that own the chosen parameters; the per-sample weight gradients
follow from those modules' inputs and output gradients. The prefix that all samples of a batch share runs forward once,
and backward once per sample.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from recbole_dealrec.model.decoding.prefix import longest_split, prefix_cache, prefix_states, split_prefix
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer.gradient_rule import Outer, Rule, find_rule, squared_norms
from recbole_dealrec.scorer.position_bias import biases_of_samples

_Call = tuple[nn.Module, Tensor, GradientEdge]
# Inputs and output gradients of each call of the modules that own the chosen parameters.
Uses = Mapping[nn.Module, list[tuple[Tensor, Tensor]]]


class Target(NamedTuple):
    """A chosen parameter, with a rule for every module that owns it."""

    name: str
    parameter: nn.Parameter
    rules: dict[nn.Module, Rule]

    def gradients(self, uses: Uses, size: int) -> list[Tensor] | list[Outer]:
        """Return terms, dense [B, ...] or factored, whose sum is the gradient of each of ``size`` samples.

        Raises:
            TypeError: a module is not called on inputs that start with the batch dimension.
        """
        terms = []
        for module, rule in self.rules.items():
            for inputs, gradient in uses[module]:
                if inputs.dim() < 2 or len(gradient) != size:
                    called = f"{type(module).__name__} called on {list(inputs.shape)}"
                    raise TypeError(f"parameter {self.name}: {called}, not on a batch of {size} samples")
                terms.append(rule(module, inputs, gradient))
        return terms


def per_sample_gradient_norms(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], parameters: Sequence[str] | None = None
) -> np.ndarray:
    """Return the L2 norm of each sample's gradient of its own loss, without a backward pass per sample.

    This is the effort score ``||grad_phi L_LLM(s)||_2`` of DEALRec (Lin et al., SIGIR 2024, arXiv 2401.17197), computed
    by the "ghost norm" (Goodfellow 2015, arXiv 1510.01799). The model runs in eval mode; its modes and
    ``requires_grad`` flags are restored when the function returns or raises. If ``model/decoding/prefix.py`` can split
    off the prefix that the samples of a batch share, it runs once; that is exact for any choice of parameters.

    Args:
        model: Causal language model or encoder-decoder, see ``sample_losses`` of ``model/loss.py``; any float dtype,
            with or without PEFT.
        batches: Mappings of [B, T] tensors with ``input_ids``, ``attention_mask`` and ``labels``, also ``position_ids``
            for a shared prefix; read one at a time.
        parameters: Names in ``model.named_parameters()``; None means all that require grad. They may belong to
            linear (also GPT-2's Conv1D), embedding, LayerNorm and RMSNorm modules, including T5's relative position
            biases.

    Returns:
        float64 [n], in the order of the samples; accumulated in float32 at least.

    Raises:
        ValueError: No parameter is chosen, a name is unknown, no chosen parameter affects the loss, or a sample
            has no labelled token.
        TypeError: A parameter belongs to another kind of module, is also used outside its module's forward, or its
            module is not called on inputs that start with the batch dimension.
    """
    with gradient_norms(model, parameters) as norms_of:
        return np.concatenate([np.empty(0), *map(norms_of, batches)])


@contextmanager
def gradient_norms(
    model: nn.Module, parameters: Sequence[str] | None = None, shares_prefix: bool = True
) -> Iterator[Callable[[Mapping[str, Tensor]], np.ndarray]]:
    """Yield a function of one batch that returns what ``per_sample_gradient_norms`` does, for use inside the context.

    Arguments and errors are those of ``gradient_uses``.
    """
    with gradient_uses(model, parameters, shares_prefix) as (targets, uses_of):
        device = targets[0].parameter.device

        def norms_of(batch: Mapping[str, Tensor]) -> np.ndarray:
            uses, size = uses_of(batch), len(batch["labels"])
            squares = torch.stack([_squares(target, uses, size).to(device) for target in targets])
            return squares.cpu().double().sum(0).clamp_min(0).sqrt().numpy()

        yield norms_of


@contextmanager
def gradient_uses(
    model: nn.Module, parameters: Sequence[str] | None = None, shares_prefix: bool = True
) -> Iterator[tuple[list[Target], Callable[[Mapping[str, Tensor]], Uses]]]:
    """Yield the chosen parameters and a function of one batch, for use inside the context.

    The function does the backward pass and returns all that ``Target.gradients`` needs.

    Args:
        model: As in ``per_sample_gradient_norms``.
        parameters: As in ``per_sample_gradient_norms``.
        shares_prefix: Whether the prefix that samples share may run once.

    Raises:
        ValueError: as ``per_sample_gradient_norms``.
        TypeError: as ``per_sample_gradient_norms``.
    """
    targets = _find_targets(model, parameters)
    longest = longest_split(model) if shares_prefix else 0
    checked = False

    def uses_of(batch: Mapping[str, Tensor]) -> Uses:
        nonlocal checked
        uses = _batch_uses(model, batch, targets, longest, check=not checked)
        checked = True
        return uses

    with eval_mode_with_grad(model, {target.parameter for target in targets}):
        yield targets, uses_of


def _find_targets(model: nn.Module, names: Sequence[str] | None) -> list[Target]:
    """Return the named parameters (None: all that require grad) with their rules, or raise as the callers do."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if names is None:
        names = [name for name, parameter in known.items() if parameter.requires_grad]
    for name in names:
        if name not in known:
            raise ValueError(f"the model has no parameter {name}")
    if not names:
        raise ValueError("no parameter to compute gradients of: none is named, or none requires grad")
    targets: dict[nn.Parameter, Target] = {}
    for name in names:
        targets.setdefault(known[name], Target(name, known[name], {}))  # tied parameters have several names
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter in targets:
                targets[parameter].rules[module] = find_rule(module, attribute, targets[parameter].name)
    return list(targets.values())


@contextmanager
def eval_mode_with_grad(model: nn.Module, chosen: set[nn.Parameter]) -> Iterator[None]:
    """Set eval mode, and grad for the chosen parameters only, so that the graph starts at the first of them."""
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
def _record_calls(model: nn.Module, owners: set[nn.Module], batch_size: int) -> Iterator[list[_Call]]:
    """Yield a list that collects the calls of ``owners`` while the context is open."""
    calls: list[_Call] = []

    def record(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        inputs = (args[0] if args else next(iter(kwargs.values()))).detach()
        # An in-place operation removes the node of a view from the graph, but keeps the node of any other tensor valid;
        # therefore the edge is recorded, not the tensor.
        if output._is_view():
            output = torch.ops.aten._unsafe_view(output, output.shape)
        if output.shape[0] == 1 < batch_size:
            # An output shared by all samples, like GPT-2's default positions, would get the sum of their gradients.
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
def _batch_uses(
    model: nn.Module, batch: Mapping[str, Tensor], targets: list[Target], longest: int, check: bool
) -> Uses:
    """Return the uses in a batch, with gradients for each sample; with ``check``, check first that none is missed."""
    size = len(batch["labels"])
    owners = {module for target in targets for module in target.rules}
    prefix, rest = split_prefix(batch, longest)
    with _record_calls(model, owners, 1) as prefix_calls:
        states = [] if prefix is None else prefix_states(model, prefix)
    copies = [state.detach().expand(size, *state.shape[1:]).requires_grad_(state.requires_grad) for state in states]
    with _record_calls(model, owners, size) as calls, biases_of_samples(model, owners, size):
        losses = sample_losses(model, rest, prefix_cache(copies) if copies else None)
    if not calls or not losses.requires_grad:
        raise ValueError(f"parameter {targets[0].name} and all others chosen do not affect the loss")
    states, copies = ([tensor for tensor in tensors if tensor.requires_grad] for tensors in (states, copies))
    if check:
        _check_uses([losses, *states], targets, [*prefix_calls, *calls])
    edges = [edge for _, _, edge in calls]
    gradients = torch.autograd.grad(losses.sum(), [*edges, *copies], allow_unused=True)
    uses = defaultdict(list)
    for (module, inputs, _), gradient in zip(calls, gradients[: len(calls)], strict=True):
        if gradient is not None:
            uses[module].append((inputs, gradient))
    for module, inputs, gradient in _prefix_uses(prefix_calls, states, gradients[len(calls) :]):
        uses[module].append((inputs, gradient))
    return uses


def _prefix_uses(
    calls: list[_Call], states: list[Tensor], gradients: Sequence[Tensor]
) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Yield the module, inputs and output gradients per sample of each call on the prefix.

    Args:
        calls: calls with one row for all samples.
        states: tensors of the prefix that the samples use, [1, ...].
        gradients: the samples' gradients with respect to the states, [B, ...].
    """
    if states:
        edges, upstream = [edge for _, _, edge in calls], [gradient[:, None] for gradient in gradients]
        found = torch.autograd.grad(states, edges, upstream, allow_unused=True, is_grads_batched=True)
        for (module, inputs, _), gradient in zip(calls, found, strict=True):
            if gradient is not None:
                rows = len(gradient) if len(inputs) == 1 else -1
                yield module, inputs.expand(rows, *inputs.shape[1:]), gradient.flatten(0, 1)


def _check_uses(roots: list[Tensor], targets: list[Target], calls: list[_Call]) -> None:
    """Raise TypeError if the graph uses a parameter more often than its modules were called."""
    edges, stack, seen = Counter(), [root.grad_fn for root in roots], set()
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


def _squares(target: Target, uses: Uses, size: int) -> Tensor:
    """Return the squared norms [B] of one parameter's gradients, each summed over all uses of the parameter."""
    terms = target.gradients(uses, size)
    return squared_norms(terms, len(target.parameter)) if terms else torch.zeros(size)
