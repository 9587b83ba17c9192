"""The loss of a language model, causal or encoder-decoder, sample by sample."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from recbole_dealrec.compat import cache_name

IGNORED_LABEL = -100


def sample_losses(model: nn.Module, batch: Mapping[str, Tensor], past: Cache | None = None) -> Tensor:
    """Return the mean negative log-likelihood of each sample's labelled tokens.

    ``labels[:, t]`` belongs to the logits at t - 1 of a causal model, and at t of an encoder-decoder, whose decoder
    reads the labels shifted right by one.

    Args:
        model: receives the entries of a batch except ``labels``; returns logits [B, T or the last of T, V] or an object
            with ``.logits``. Its training mode and the grad mode are not changed.
        batch: [B, T] tensors on any device, with ``labels`` (-100: ignored; a causal model does not predict t = 0).
        past: keys and values of the tokens before a causal model's batch, see ``decoding/prefix.py``.

    Returns:
        [B], float32 (float64 for a float64 model), on the device of the logits.

    Raises:
        ValueError: a row has no labelled token.
    """
    device, labels = next(model.parameters()).device, batch["labels"]
    encoder_decoder = is_encoder_decoder(model)
    first = 0 if encoder_decoder else 1
    rows, positions = (labels[:, first:] != IGNORED_LABEL).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(labels))
    if not counts.all():
        raise ValueError(f"row {int(counts.argmin())} of the batch has no labelled token")
    length = labels.shape[1]
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
    if encoder_decoder:
        inputs["decoder_input_ids"] = unwrapped(model).prepare_decoder_input_ids_from_labels(labels.to(device))
    if past is not None:
        inputs[cache_name(unwrapped(model).forward)] = past
    logits = widened(_logits(model, inputs, rows, positions, length))
    rows, positions, counts, labels = (x.to(logits.device) for x in (rows, positions, counts, labels))
    losses = F.cross_entropy(logits, labels[rows, positions + first], reduction="none")
    return losses.new_zeros(len(counts)).index_add(0, rows, losses) / counts


def last_hidden_states(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the input of a causal model's output head, [B, T, d]; the whole model runs, as FSDP requires."""
    seen = []

    def first_of(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden[:1, -1:]  # the logits are not used

    with head_reads(model, first_of):
        model(**accepted_inputs(model, inputs), **accepted_options(model, use_cache=False))
    return seen[0]


@contextmanager
def head_reads(model: nn.Module, part: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Iterator[None]:
    """Pass only ``part`` of the hidden states, contiguous in memory, to the output head.

    For hidden states with gaps, such as the last ones of each row, PyTorch computes a batched product, and some of its
    kernels copy the weights once per row.
    """
    head = output_head(model)
    hook = head and head.register_forward_pre_hook(lambda _module, args: part(args[0]).contiguous())
    try:
        yield
    finally:
        if hook:
            hook.remove()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the base model of a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_encoder_decoder(model: nn.Module) -> bool:
    """Return whether a model has both an encoder and a decoder."""
    return getattr(getattr(unwrapped(model), "config", None), "is_encoder_decoder", False)


def vocabulary_size(model: nn.Module) -> int:
    """Return the number of tokens that a language model both reads and writes."""
    model = unwrapped(model)
    return min(module.weight.shape[0] for module in (model.get_input_embeddings(), model.get_output_embeddings()))


def hidden_size(model: nn.Module) -> int:
    """Return the size d of ``last_hidden_states``."""
    return output_head(model).weight.shape[1]


def _logits(
    model: nn.Module, inputs: Mapping[str, Tensor | Cache], rows: Tensor, positions: Tensor, length: int
) -> Tensor:
    """Return the logits [N, V] at N positions of a batch of rows of ``length`` tokens."""
    options = accepted_options(model, logits_to_keep=length - int(positions.min()), use_cache=False)
    inputs = accepted_inputs(model, inputs) | options

    def pick(tensor: Tensor) -> Tensor:
        # The model may return the last positions only.
        return tensor[rows.to(tensor.device), positions.to(tensor.device) + tensor.shape[1] - length]

    if not _has_frozen_head(model):
        output = model(**inputs)
        return pick(output if isinstance(output, Tensor) else output.logits)
    with head_reads(model, lambda hidden: pick(hidden)[None]):
        return model(**inputs).logits.squeeze(0)


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs, without ``position_ids`` if the model's ``forward`` computes them itself."""
    accepted = inspect.signature(unwrapped(model).forward).parameters
    if "position_ids" in accepted or any(each.kind is each.VAR_KEYWORD for each in accepted.values()):
        return dict(inputs)
    return {name: tensor for name, tensor in inputs.items() if name != "position_ids"}


def accepted_options(model: nn.Module, **options: int) -> dict[str, int]:
    """Return the options that the model's ``forward`` accepts."""
    accepted = inspect.signature(unwrapped(model).forward).parameters
    return {name: value for name, value in options.items() if name in accepted}


def output_head(model: nn.Module) -> nn.Module | None:
    """Return the module that computes logits from hidden states, None if the model has no such module."""
    model = unwrapped(model)
    return model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None


def _has_frozen_head(model: nn.Module) -> bool:
    """Return whether the output head has no trainable parameters, so that no per-sample gradients of it are needed."""
    head = output_head(model)
    return head is not None and not any(parameter.requires_grad for parameter in head.parameters())


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
