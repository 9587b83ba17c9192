"""The loss of a language model, causal or encoder-decoder, sample by sample."""

import inspect
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED_LABEL = -100


def sample_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of every sample's labelled tokens.

    ``labels[:, t]`` belongs to the logits at t - 1 of a causal model, at t of an encoder-decoder, whose decoder is fed
    the labels one place later.

    Args:
        model: Takes the entries of a batch but ``labels``; returns logits [B, T or fewer at the right end, V] or an
            object with ``.logits``. Its mode and the ambient grad mode are left alone.
        batch: [B, T] tensors on any device with ``labels`` (-100: not counted; at t = 0 of a causal model: never
            predicted).

    Returns:
        [B], float32 (float64 for a float64 model), on the device of the logits.

    Raises:
        ValueError: A row of the batch has no labelled token.
    """
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs.pop("labels")
    unwrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_causal = not getattr(getattr(unwrapped, "config", None), "is_encoder_decoder", False)
    if not is_causal:
        inputs["decoder_input_ids"] = unwrapped.prepare_decoder_input_ids_from_labels(labels)
    first = int(is_causal)
    rows, positions = (labels[:, first:] != IGNORED_LABEL).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(labels))
    if not counts.all():
        raise ValueError(f"row {int(counts.argmin())} of the batch has no labelled token")
    length = labels.shape[1]
    logits = _logits(model, unwrapped.forward, inputs, length - int(positions.min()))
    rows, positions, counts, labels = (x.to(logits.device) for x in (rows, positions, counts, labels))
    # However many logits the model returns, they end with the sequence.
    picked = widened(logits[rows, positions + logits.shape[1] - length])
    losses = F.cross_entropy(picked, labels[rows, positions + first], reduction="none")
    return losses.new_zeros(len(counts)).index_add(0, rows, losses) / counts


def _logits(model: nn.Module, forward: Callable, inputs: dict[str, Tensor], keep: int) -> Tensor:
    accepted = inspect.signature(forward).parameters
    options = {"logits_to_keep": keep, "use_cache": False}
    output = model(**inputs, **{name: value for name, value in options.items() if name in accepted})
    return output if isinstance(output, Tensor) else output.logits


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
