"""The loss of a causal language model, sample by sample."""

import inspect
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

IGNORED_LABEL = -100


def sample_losses(model: nn.Module, batch: Mapping[str, Tensor], past: Cache | None = None) -> Tensor:
    """Mean negative log-likelihood of every sample's labelled tokens; ``labels[:, t]`` belongs to the logits at t - 1.

    Args:
        model: Takes the entries of a batch but ``labels``; returns logits [B, T or fewer at the right end, V] or an
            object with ``.logits``. Its mode and the ambient grad mode are left alone.
        batch: [B, T] tensors on any device with ``labels`` (-100: not counted; at t = 0: never predicted).
        past: Keys and values of tokens that come before the batch's, see ``model/prefix.py``.

    Returns:
        [B], float32 (float64 for a float64 model), on the device of the logits.

    Raises:
        ValueError: A row of the batch has no labelled token.
    """
    device, labels = next(model.parameters()).device, batch["labels"]
    rows, positions = (labels[:, 1:] != IGNORED_LABEL).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(labels))
    if not counts.all():
        raise ValueError(f"row {int(counts.argmin())} of the batch has no labelled token")
    length = labels.shape[1]
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
    if past is not None:
        inputs["past_key_values"] = past
    logits = _logits(model, inputs, length - int(positions.min()))
    rows, positions, counts, labels = (x.to(logits.device) for x in (rows, positions, counts, labels))
    # However many logits the model returns, they end with the sequence.
    picked = widened(logits[rows, positions + logits.shape[1] - length])
    losses = F.cross_entropy(picked, labels[rows, positions + 1], reduction="none")
    return losses.new_zeros(len(counts)).index_add(0, rows, losses) / counts


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside PEFT's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _logits(model: nn.Module, inputs: dict[str, Tensor | Cache], keep: int) -> Tensor:
    accepted = inspect.signature(unwrapped(model).forward).parameters
    options = {"logits_to_keep": keep, "use_cache": False}
    output = model(**inputs, **{name: value for name, value in options.items() if name in accepted})
    return output if isinstance(output, Tensor) else output.logits


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
