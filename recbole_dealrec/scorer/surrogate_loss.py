"""What a surrogate's loss is a function of: the less of the model that is, the cheaper its derivatives."""

from collections.abc import Collection
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.layers import TransformerLayer
from torch import Tensor, nn

from recbole_dealrec.model.surrogate.softmax_loss import row_chunks
from recbole_dealrec.model.surrogate.surrogate import EveryPosition

_AFTER_ATTENTION = ("multi_head_attention.dense.", "multi_head_attention.LayerNorm.", "feed_forward.")


class Logits(nn.Module):
    """The full-softmax loss as a function of the logits of all items, [B, n_items]; holds for any RecBole model."""

    def __init__(self, surrogate: nn.Module) -> None:
        super().__init__()
        self.surrogate = surrogate

    def inputs(self, batch: Interaction) -> Any:
        """Return what ``forward`` takes: all that comes before the first chosen parameter."""
        return batch

    def forward(self, inputs: Any) -> Tensor:
        return self.surrogate.full_sort_predict(inputs)

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of each sample's loss by its outputs; differentiable in turn."""
        return outputs.softmax(dim=-1) - nn.functional.one_hot(targets, outputs.shape[-1])


class LastHidden(Logits):
    """The same loss as a function of the last hidden state, [B, d], where the item embeddings are held fixed.

    Its gradient is the expected item embedding minus the target's, so that no logit outlives its chunk.
    """

    def forward(self, inputs: Interaction) -> Tensor:
        return self.surrogate(inputs[self.surrogate.ITEM_SEQ], inputs[self.surrogate.ITEM_SEQ_LEN])

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        items = self.surrogate.item_embedding.weight.detach()
        expected = [(chunk @ items.T).softmax(dim=-1) @ items for chunk in row_chunks(outputs, len(items))]
        return torch.cat(expected) - items[targets]


class _Reached(Exception):
    """Ends a forward pass whose rest is not needed."""


class AfterAttention(LastHidden):
    """The same where only layers after SASRec's last attention are chosen: these see one position, the last.

    All before them is computed once and without derivatives.
    """

    @property
    def _layer(self) -> TransformerLayer:
        return self.surrogate.trm_encoder.layer[-1]

    def inputs(self, batch: Interaction) -> tuple[Tensor, Tensor]:
        """Return what the last attention read from the sequence and what it is added to, [B, d] each."""
        seen = []

        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0])
            if len(seen) == 2:
                raise _Reached

        modules = self._layer, self._layer.multi_head_attention.dense
        handles = [module.register_forward_pre_hook(keep) for module in modules]
        try:
            super().forward(batch)
        except _Reached:
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
    """Return the cheapest form that derivatives in the parameters named in ``chosen`` allow."""
    if not isinstance(surrogate, EveryPosition) or "item_embedding.weight" in chosen:
        return Logits(surrogate)
    from recbole.model.sequential_recommender import SASRec  # Config has imported it, see compat.py

    if type(surrogate).forward is SASRec.forward:
        last_layer = f"trm_encoder.layer.{len(surrogate.trm_encoder.layer) - 1}."
        if all(name.startswith(tuple(last_layer + part for part in _AFTER_ATTENTION)) for name in chosen):
            return AfterAttention(surrogate)
    return LastHidden(surrogate)
