"""The names that transformers gives its cache, seen on a real model."""

import warnings

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from recbole_dealrec.compat import cache_name


def test_the_cache_is_named_as_the_function_that_takes_it_names_it():
    def before(input_ids, past_key_values=None): ...
    def since(input_ids, cache=None): ...

    assert cache_name(before) == "past_key_values" and cache_name(since) == "cache"


def test_a_model_takes_and_returns_its_cache_under_that_name_without_a_warning():
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
    name, tokens = cache_name(model.forward), torch.tensor([[1, 2, 3]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        cache = getattr(model(tokens[:, :2], **{name: DynamicCache()}, use_cache=True), name)
        last = model(tokens[:, 2:], **{name: cache}, use_cache=True).logits[0, -1]
        torch.testing.assert_close(last, model(tokens).logits[0, -1])
