"""The tokens that all samples of a batch begin with, such as the instruction, run once for the batch.

What a causal model makes of them does not depend on what follows, so the samples share their keys and values exactly.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from recbole_dealrec.distributed.fsdp import is_sharded
from recbole_dealrec.model.loss import IGNORED_LABEL, is_encoder_decoder, unwrapped

_ENTRIES = {"input_ids", "attention_mask", "position_ids", "labels"}
# A second, short pass through the model costs more than a prefix of a smaller share of the tokens saves.
_LEAST_SHARE = 1 / 8
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def longest_split(model: nn.Module) -> int:
    """Tokens of the longest batch whose prefix the model can run apart with the same result; 0 if it never can.

    The padding of shorter samples comes to lie between the prefix and the rest. That changes nothing where the model
    knows positions by ``position_ids`` alone and attends to all earlier tokens.
    """
    if is_sharded(model):  # some batches would take a pass more than others
        return 0
    model = unwrapped(model)
    # Code outside of transformers may keep keys and values, or count positions, in a way of its own.
    if not isinstance(model, PreTrainedModel) or not type(model).__module__.startswith("transformers."):
        return 0
    config, accepted = model.config, inspect.signature(model.forward).parameters
    causal = getattr(config, "is_causal", True) and not is_encoder_decoder(model)
    if not causal or not {"past_key_values", "position_ids"} <= accepted.keys():
        return 0
    layers = DynamicCache(config=config).layers
    if config._attn_implementation not in ("sdpa", "eager") or not all(type(layer) in _PLAIN for layer in layers):
        return 0
    return min((getattr(layer, "sliding_window", sys.maxsize) for layer in layers), default=0)


def split_prefix(batch: Mapping[str, Tensor], longest: int) -> tuple[dict[str, Tensor] | None, Mapping[str, Tensor]]:
    """Part a left-padded batch with ``position_ids`` into what all rows begin with and what differs.

    Args:
        batch: [B, T] tensors.
        longest: of ``longest_split``.

    Returns:
        The prefix, [1, P] tensors without labels, and the rest, [B, T - P] tensors but for an ``attention_mask`` of
        [B, T] that counts the prefix. No label belongs to a logit of the prefix. Without a prefix that is worth
        a pass of its own: None, and the batch.
    """
    size, width = batch["labels"].shape
    length = _shared_length(batch) if size > 1 and width <= longest and batch.keys() == _ENTRIES else 0
    if length < _LEAST_SHARE * width:
        return None, batch
    mask = batch["attention_mask"]
    starts = width - mask.sum(1, keepdim=True)
    columns = slice(int(starts[0]), int(starts[0]) + length)
    prefix = {name: batch[name][:1, columns] for name in _ENTRIES - {"labels"}}
    rest = {name: tensor[:, length:] for name, tensor in batch.items()}
    own = torch.arange(length, width, device=mask.device) >= starts + length
    rest["attention_mask"] = torch.cat([torch.ones_like(mask[:, :length]), own.to(mask.dtype)], dim=1)
    return prefix, rest


def _shared_length(batch: Mapping[str, Tensor]) -> int:
    mask, labels = batch["attention_mask"], batch["labels"]
    width = mask.shape[1]
    places, starts = torch.arange(width, device=mask.device), width - mask.sum(1, keepdim=True)
    if not torch.equal(mask, (places >= starts).to(mask.dtype)):
        return 0
    columns = starts + places[: width - int(starts.max())]
    first_labels = torch.where(labels == IGNORED_LABEL, width, places).amin(1, keepdim=True)
    shared = columns < first_labels - 1
    for name in ("input_ids", "position_ids"):
        found = batch[name].gather(1, columns)
        shared &= found == found[:1]
    return int(shared.all(0).cumprod(0).sum())


def prefix_states(model: nn.Module, prefix: Mapping[str, Tensor]) -> list[Tensor]:
    """Keys and values of every layer for a prefix, [1, heads, P, head size] each, in the ambient grad mode."""
    device, cache = next(model.parameters()).device, DynamicCache()
    inputs = {name: tensor.to(device) for name, tensor in prefix.items()}
    # The derivative of this form is made of matrix products, which one call can do for the gradients of all samples.
    with sdpa_kernel(SDPBackend.MATH):
        unwrapped(model).base_model(**inputs, past_key_values=cache, use_cache=True)
    return [state for layer in cache.layers for state in (layer.keys, layer.values)]


def prefix_cache(states: Sequence[Tensor]) -> Cache:
    """Keys and values of ``prefix_states``, expanded to [B, ...], as ``past`` of ``sample_losses``."""
    return Cache(layers=[_PrefixLayer(*pair) for pair in zip(states[::2], states[1::2], strict=True)])


class _PrefixLayer(DynamicLayer):
    """Puts the prefix before a batch's keys and values, which are not kept: nothing is generated after them."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
