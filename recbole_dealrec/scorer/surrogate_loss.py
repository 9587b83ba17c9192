"""Differentiable parts of surrogates; derivatives of a smaller part are cheaper."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.layers import TransformerLayer
from torch import Tensor, nn

from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.softmax_loss import row_chunks
from recbole_dealrec.model.surrogate.surrogate import EveryPosition

_AFTER_ATTENTION = ("multi_head_attention.dense.", "multi_head_attention.LayerNorm.", "feed_forward.")


class Logits(nn.Module):
    """Logits of all items, [B, n_items], and their full-softmax loss; for any RecBole model."""

    small = False  # whether the outputs of all samples may be kept in memory

    def __init__(self, surrogate: nn.Module) -> None:
        super().__init__()
        self.surrogate = surrogate

    def inputs(self, batch: Interaction) -> Any:
        """Return the inputs of ``forward``, which do not depend on the chosen parameters."""
        return batch

    def forward(self, inputs: Any) -> Tensor:
        return self.surrogate.full_sort_predict(inputs)

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of each sample's loss by its outputs; it can be differentiated again."""
        return outputs.softmax(dim=-1) - nn.functional.one_hot(targets, outputs.shape[-1])

    def loss_curvature(self, outputs: Tensor, direction: Tensor) -> Tensor:
        """Return the Hessian of each sample's loss by its outputs, diag(p) - p p^T, times a direction, [B, n_items]."""
        return _softmax_curvature(outputs, direction)


class LastHidden(Logits):
    """Last hidden state, [B, d], and its full-softmax loss under fixed item embeddings.

    The gradient is the expected item embedding minus the target's, so logits are computed in chunks and not kept.
    """

    small = True

    def forward(self, inputs: Interaction) -> Tensor:
        return self.surrogate(inputs[self.surrogate.ITEM_SEQ], inputs[self.surrogate.ITEM_SEQ_LEN])

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        items = self.surrogate.item_embedding.weight.detach()
        expected = [(chunk @ items.T).softmax(dim=-1) @ items for chunk in row_chunks(outputs, len(items))]
        return torch.cat(expected) - items[targets]

    def loss_curvature(self, outputs: Tensor, direction: Tensor) -> Tensor:
        """Return the Hessian of each sample's loss by its outputs times a direction, both [B, d].

        It is E^T (diag(p) - p p^T) E, with E the item embeddings; logits are computed in chunks and not kept.
        """
        items = self.surrogate.item_embedding.weight.detach()
        chunks = zip(row_chunks(outputs, len(items)), row_chunks(direction, len(items)), strict=True)
        return torch.cat([_softmax_curvature(chunk @ items.T, along @ items.T) @ items for chunk, along in chunks])


class _StopForward(Exception):
    """Ends a forward pass before its unneeded rest."""


class LastPosition(LastHidden):
    """Last hidden state of SASRec; the last layer, whose other outputs are not used, computes it alone.

    Keys and values need all positions. Query, attention's output and feed-forward layer need the last one.
    """

    def forward(self, inputs: Interaction) -> Tensor:
        layer = _last_layer(self.surrogate)
        attention, last = layer.multi_head_attention, inputs[self.surrogate.ITEM_SEQ_LEN] - 1
        at_last = lambda values: self.surrogate.gather_indexes(values, last)[:, None]  # noqa: E731
        mask_at_last = lambda mask: mask[torch.arange(len(mask), device=mask.device), :, last, None]  # noqa: E731
        expanded = lambda output: output.expand(-1, inputs[self.surrogate.ITEM_SEQ].shape[1], -1)  # noqa: E731
        handles = [
            layer.register_forward_pre_hook(lambda _, given: (given[0], mask_at_last(given[1]))),
            attention.query.register_forward_pre_hook(lambda _, given: (at_last(given[0]),)),
            attention.LayerNorm.register_forward_pre_hook(lambda _, given: (at_last(given[0]),)),
            layer.register_forward_hook(lambda _, given, output: expanded(output)),  # the model gathers the last one
        ]
        try:
            return super().forward(inputs)
        finally:
            for handle in handles:
                handle.remove()


class AfterAttention(LastHidden):
    """Last hidden state where only layers after SASRec's last attention are chosen; these need only the last position.

    Everything before them is computed once, without derivatives.
    """

    def inputs(self, batch: Interaction) -> tuple[Tensor, Tensor]:
        """Return the last attention's context and residual, [B, d] each."""
        seen = []

        def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0])
            if len(seen) == 2:
                raise _StopForward

        layer = _last_layer(self.surrogate)
        modules = layer, layer.multi_head_attention.dense
        handles = [module.register_forward_pre_hook(record) for module in modules]
        try:
            super().forward(batch)
        except _StopForward:
            residual, context = seen
        finally:
            for handle in handles:
                handle.remove()
        last = batch[self.surrogate.ITEM_SEQ_LEN] - 1
        return self.surrogate.gather_indexes(context, last), self.surrogate.gather_indexes(residual, last)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        context, residual = inputs
        layer = _last_layer(self.surrogate)
        attention = layer.multi_head_attention
        return layer.feed_forward(attention.LayerNorm(attention.dense(context) + residual))


def outputs_of(surrogate: nn.Module, chosen: Collection[str]) -> Logits:
    """Return the smallest part of the surrogate that contains the parameters named in ``chosen``."""
    if not isinstance(surrogate, EveryPosition) or "item_embedding.weight" in chosen:
        return Logits(surrogate)
    from recbole.model.sequential_recommender import SASRec  # Config has imported it, see compat.py

    if type(surrogate).forward is SASRec.forward:
        last_layer = f"trm_encoder.layer.{len(surrogate.trm_encoder.layer) - 1}."
        if all(name.startswith(tuple(last_layer + part for part in _AFTER_ATTENTION)) for name in chosen):
            return AfterAttention(surrogate)
        return LastPosition(surrogate)
    return LastHidden(surrogate)


def _softmax_curvature(logits: Tensor, direction: Tensor) -> Tensor:
    probabilities = logits.softmax(dim=-1)
    return probabilities * (direction - (probabilities * direction).sum(dim=-1, keepdim=True))


def _last_layer(surrogate: nn.Module) -> TransformerLayer:
    return surrogate.trm_encoder.layer[-1]


def chosen_parameters(surrogate: nn.Module, patterns: Sequence[str] | None) -> dict[str, Tensor]:
    """Return detached parameters by name: those that match ``influence_parameters``, or, for None, all but embeddings.

    Raises:
        InputError: there are none.
    """
    embeddings = {id(m.weight) for m in surrogate.modules() if isinstance(m, nn.Embedding)}
    chosen = {}
    for name, parameter in surrogate.named_parameters():
        wanted = id(parameter) not in embeddings
        if patterns is not None:
            wanted = any(fnmatchcase(name, pattern) for pattern in patterns)
        if wanted:
            chosen[name] = parameter.detach()
    if not chosen:
        names = ", ".join(name for name, _ in surrogate.named_parameters())
        wanted = "(all but embeddings)" if patterns is None else patterns
        raise InputError(f"influence_parameters {wanted} match no parameter of the surrogate, which has {names}")
    return chosen
