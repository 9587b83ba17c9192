"""Small models of large ones: the same class, each kind of layer, few parameters."""

import pytest
import torch
import transformers

from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.small import layers_of_each_kind, small_model

# Sizes as published, but for the vocabulary; layers that hold one of each kind.
LARGE = {
    "Llama-3-8B": (
        "LlamaConfig", {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8}, 2,
    ),
    "Qwen2.5-0.5B": (
        "Qwen2Config", {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2}, 2,
    ),
    "GPT-Neo": ("GPTNeoConfig", {}, 2),
    "Gemma-2": ("Gemma2Config", {}, 2),
    "Gemma-3": ("Gemma3TextConfig", {}, 6),
    "MPT": ("MptConfig", {}, 2),
    "Jamba": ("JambaConfig", {}, 5),
    "Qwen3-Next": ("Qwen3NextConfig", {}, 4),
    "DeepSeek-V3": ("DeepseekV3Config", {}, 4),
    "Mamba": ("MambaConfig", {}, 2),
}  # fmt: skip


def large(name):
    kind, sizes, layers = LARGE[name]
    with torch.device("meta"):
        config = getattr(transformers, kind)(**{"vocab_size": 512, "pad_token_id": 0, **sizes})
        return transformers.AutoModelForCausalLM.from_config(config), layers


@pytest.mark.parametrize("name", LARGE)
def test_a_small_model_has_each_kind_of_layer_and_few_parameters(name):
    base, layers = large(name)
    assert layers_of_each_kind(base) == layers
    state = torch.get_rng_state()
    small = small_model(base, window=6, longest=600)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(small) is type(base) and small.config.vocab_size == 512
    kinds, tried = ({type(module) for module in model.modules()} for model in (base, small))
    assert tried == kinds
    size, full = (sum(parameter.numel() for parameter in model.parameters()) for model in (small, base))
    assert size < min(60_000_000, full / 10)
    with torch.no_grad():
        assert small(input_ids=torch.arange(8)[None], use_cache=False).logits.isfinite().all()


def test_windows_are_met_if_the_run_meets_them():
    base, _ = large("Gemma-2")
    assert base.config.sliding_window == 4096
    assert small_model(base, window=6, longest=5000).config.sliding_window == 6
    assert small_model(base, window=6, longest=600).config.sliding_window == 4096


def test_a_model_that_cannot_be_built_small_is_said():
    base, _ = large("Mamba")

    class Mamba(type(base)):
        def __init__(self, config):
            raise ValueError("only\none size")

    base.__class__ = Mamba
    with pytest.raises(InputError, match="^no small Mamba can be built to test it: ValueError: only one size"):
        small_model(base, 6, 600)
