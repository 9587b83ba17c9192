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


class LastHidden(Logits):
    """Last hidden state, [B, d], and its full-softmax loss under fixed item embeddings.

    The gradient is the expected item embedding minus the target's, so logits are computed in chunks and not kept.
    """

    def forward(self, inputs: Interaction) -> Tensor:
        return self.surrogate(inputs[self.surrogate.ITEM_SEQ], inputs[self.surrogate.ITEM_SEQ_LEN])

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        items = self.surrogate.item_embedding.weight.detach()
        expected = [(chunk @ items.T).softmax(dim=-1) @ items for chunk in row_chunks(outputs, len(items))]
        return torch.cat(expected) - items[targets]


class _StopForward(Exception):
    """Ends a forward pass before its unneeded rest."""


class AfterAttention(LastHidden):
    """Last hidden state where only layers after SASRec's last attention are chosen; these need only the last position.

    Everything before them is computed once, without derivatives.
    """

    @property
    def _layer(self) -> TransformerLayer:
        return self.surrogate.trm_encoder.layer[-1]

    def inputs(self, batch: Interaction) -> tuple[Tensor, Tensor]:
        """Return the last attention's context and residual, [B, d] each."""
        seen = []

        def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0])
            if len(seen) == 2:
                raise _StopForward

        modules = self._layer, self._layer.multi_head_attention.dense
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
        attention = self._layer.multi_head_attention
        return self._layer.feed_forward(attention.LayerNorm(attention.dense(context) + residual))


def outputs_of(surrogate: nn.Module, chosen: Collection[str]) -> Logits:
    """Return the smallest part of the surrogate that contains the parameters named in ``chosen``."""
    if not isinstance(surrogate, EveryPosition) or "item_embedding.weight" in chosen:
        return Logits(surrogate)
    from recbole.model.sequential_recommender import SASRec  # Config has imported it, see compat.py

    if type(surrogate).forward is SASRec.forward:
        last_layer = f"trm_encoder.layer.{len(surrogate.trm_encoder.layer) - 1}."
        if all(name.startswith(tuple(last_layer + part for part in _AFTER_ATTENTION)) for name in chosen):
            return AfterAttention(surrogate)
    return LastHidden(surrogate)


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
