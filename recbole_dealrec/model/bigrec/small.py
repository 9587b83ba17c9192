"""A small language model of the same class as a large one, with random weights."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from recbole_dealrec.errors import InputError

_WIDTHS = re.compile(
    r"(hidden|intermediate|embedding)_size|(^|_)(dim|width|rank|d_head|d_ssm)$|(^|_)(head|ffn|proj)_dim|"
    r"^(d_model|d_ff|d_kv|d_inner|dff|n_embd|n_inner|emb_dim|lru_width)$|^intermediate_size_mlp$"
)
_DEPTHS = re.compile(r"^(num_hidden_layers|num_layers|n_layers?|depth|num_blocks|(num_)?(en|de)coder_layers)$")
_WINDOWS = re.compile(r"^(sliding_window|window_size|attention_window|attention_window_size|attention_chunk_size)$")
_EXPERTS = re.compile(r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$")
_MOST_PARAMETERS = 300_000_000
_GAIN = 4.0  # random weights hardly prefer any token; larger weights make errors visible


def small_model(base: PreTrainedModel, window: int, longest: int) -> PreTrainedModel:
    """Return a model of the same class as ``base`` with random weights, float32 on the CPU, in evaluation mode.

    It has the first layers, at least one of each kind, and narrower ones if the class allows it; the vocabulary is the
    same. PyTorch's default generator is not changed.

    Args:
        base: model on any device; no weights are read.
        window: new length of attention windows that are shorter than ``longest``.
        longest: tokens of the longest row of a run.

    Raises:
        InputError: a model with fewer than 300 million parameters cannot be built.
    """
    kind, config = type(base), base.config
    reason = "it is too large"
    for settings in _candidates(config, layers_of_each_kind(base), window, longest):
        try:
            small = type(config).from_dict(settings)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in kind(small).parameters())
            if size <= _MOST_PARAMETERS:
                return _built(kind, small)
        except Exception as error:  # only trying shows what a configuration allows
            reason = f"{type(error).__name__}: {error}"
    raise InputError(f"no small {kind.__name__} can be built to test it: {' '.join(reason.split())}")


def layers_of_each_kind(base: PreTrainedModel) -> int:
    """Return how many of the first layers are needed to have one of each kind, at least 2."""
    total = base.config.get_text_config(decoder=True).num_hidden_layers
    stacks = [each for each in base.modules() if isinstance(each, nn.ModuleList) and len(each) == total]
    firsts = [{_kind(layer): number for number, layer in reversed(list(enumerate(stack)))} for stack in stacks]
    return max([2, *(1 + number for first in firsts for number in first.values())])


def _kind(layer: nn.Module) -> tuple:
    """Return the modules in a layer, by class and by settings that are switched on or off."""
    return tuple(
        (name, type(module).__name__, *sorted(_switches(module).items())) for name, module in layer.named_modules()
    )


def _switches(module: nn.Module) -> dict[str, str]:
    return {name: str(value) for name, value in vars(module).items() if isinstance(value, bool | str | None)}


def _candidates(config: PretrainedConfig, depth: int, window: int, longest: int) -> Iterator[dict[str, Any]]:
    """Yield settings of smaller models, the smallest first."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None) or 1
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    most = max(1, min(head // 8, text.hidden_size // 32))
    divisors = [2**power for power in range(most.bit_length() - 1, -1, -1)]
    settings = {name: value for name, value in config.to_dict().items() if name != "quantization_config"}
    for divisor in divisors:
        for layers in (depth, text.num_hidden_layers):
            yield _smaller(settings, divisor, layers, text.num_hidden_layers, window, longest)


def _smaller(settings: Any, divisor: int, depth: int, total: int, window: int, longest: int) -> Any:
    """Return settings with widths divided, and with fewer layers and shorter windows, including nested settings."""
    changed = {}
    for name, value in settings.items():
        number = type(value) is int
        if isinstance(value, dict):
            value = _smaller(value, divisor, depth, total, window, longest)
        elif isinstance(value, list) and len(value) == total and total > 2:
            value = value[:depth]
        elif number and _DEPTHS.match(name):
            value = min(value, depth)
        elif number and _WINDOWS.match(name) and value < longest:
            value = min(value, window)
        elif number and _EXPERTS.match(name) and value >= 64:
            value //= 8
        elif number and _WIDTHS.search(name) and value >= divisor:
            value = value // divisor if value % divisor == 0 else value
        changed[name] = value
    return changed


def _built(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).float().eval()
    for parameter in model.parameters():
        parameter.data.mul_(_GAIN if parameter.dim() > 1 else 1.0)
    return model
