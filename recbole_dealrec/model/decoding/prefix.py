"""The common prefix of a batch's samples, such as the instruction, computed once for the batch.

Keys and values of a causal model do not depend on later tokens, so sharing them is exact.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from recbole_dealrec.compat import cache_name
from recbole_dealrec.distributed.fsdp import is_sharded
from recbole_dealrec.model.loss import IGNORED_LABEL, is_encoder_decoder, unwrapped

_BATCH_KEYS = {"input_ids", "attention_mask", "position_ids", "labels"}
# With a shorter prefix, the additional pass through the model costs more than it saves.
_MIN_SHARE = 1 / 8
_SUPPORTED_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def longest_split(model: nn.Module) -> int:
    """Return the longest row, in tokens, of which a model can compute the prefix separately; 0 if it cannot.

    Separating the prefix moves padding between the prefix and the rest. The result is the same if the model
    reads positions only from ``position_ids`` and attends to all earlier tokens.
    """
    if is_sharded(model):  # the number of passes would differ between processes
        return 0
    model = unwrapped(model)
    # Code outside of transformers may handle keys, values or positions differently.
    if not isinstance(model, PreTrainedModel) or not type(model).__module__.startswith("transformers."):
        return 0
    config, accepted = model.config, inspect.signature(model.forward).parameters
    causal = getattr(config, "is_causal", True) and not is_encoder_decoder(model)
    if not causal or not {cache_name(model.forward), "position_ids"} <= accepted.keys():
        return 0
    layers = DynamicCache(config=config).layers
    supported = all(type(layer) in _SUPPORTED_LAYERS for layer in layers)
    if config._attn_implementation not in ("sdpa", "eager") or not supported:
        return 0
    return min((getattr(layer, "sliding_window", sys.maxsize) for layer in layers), default=0)


def split_prefix(batch: Mapping[str, Tensor], longest: int) -> tuple[dict[str, Tensor] | None, Mapping[str, Tensor]]:
    """Split a left-padded batch with ``position_ids`` into the common prefix of its rows and the rest.

    Args:
        batch: [B, T] tensors.
        longest: ``longest_split`` of the model.

    Returns:
        The prefix, [1, P] tensors without labels, and the rest, [B, T - P] tensors with an ``attention_mask`` of
        [B, T] that includes the prefix. No label belongs to a logit of the prefix. If the prefix is too short to save
        time: None and the batch.
    """
    size, width = batch["labels"].shape
    length = _shared_length(batch) if size > 1 and width <= longest and batch.keys() == _BATCH_KEYS else 0
    if length < _MIN_SHARE * width:
        return None, batch
    mask = batch["attention_mask"]
    starts = width - mask.sum(1, keepdim=True)
    columns = slice(int(starts[0]), int(starts[0]) + length)
    prefix = {name: batch[name][:1, columns] for name in _BATCH_KEYS - {"labels"}}
    rest = {name: tensor[:, length:] for name, tensor in batch.items()}
    suffix = torch.arange(length, width, device=mask.device) >= starts + length
    rest["attention_mask"] = torch.cat([torch.ones_like(mask[:, :length]), suffix.to(mask.dtype)], dim=1)
    return prefix, rest


def _shared_length(batch: Mapping[str, Tensor]) -> int:
    """Return the length of the prefix that all rows share and that predicts no label."""
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
    """Return keys and values of every layer for a prefix, [1, heads, P, head size] each, in the current grad mode."""
    device, cache = next(model.parameters()).device, DynamicCache()
    inputs = {name: tensor.to(device) for name, tensor in prefix.items()}
    # The derivative of this kernel consists of matrix products, which are batched over all samples' gradients.
    with sdpa_kernel(SDPBackend.MATH):
        base = unwrapped(model).base_model
        base(**inputs, **{cache_name(base.forward): cache}, use_cache=True)
    return [state for layer in cache.layers for state in (layer.keys, layer.values)]


def prefix_cache(states: Sequence[Tensor]) -> Cache:
    """Return ``prefix_states``, expanded to [B, ...], as the argument ``past`` of ``sample_losses``."""
    return Cache(layers=[_PrefixLayer(*pair) for pair in zip(states[::2], states[1::2], strict=True)])


class _PrefixLayer(DynamicLayer):
    """Prepend the prefix to a batch's keys and values without storing them, since no token is generated after them."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
