"""The shared prefix: what is split off, when, and that the losses stay what they were."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.decoding.prefix import longest_split, prefix_cache, prefix_states, split_prefix
from recbole_dealrec.model.loss import sample_losses

PREFIX = [7, 3, 9, 9, 5, 1, 8, 2]


def batch_of(prompts, on_inputs=False):
    return collate([[*PREFIX, *prompt] for prompt in prompts], [[4, 6, 0]] * len(prompts), 0, on_inputs)


def expanded(states, size):
    return prefix_cache([state.expand(size, -1, -1, -1) for state in states])


prompts_of_batches = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=2, max_size=5)


@given(prompts_of_batches)
def test_prefix_and_rest_are_the_batch(prompts):
    batch = batch_of(prompts)
    prefix, rest = split_prefix(batch, 100)
    length = prefix["input_ids"].shape[1]
    assert length >= len(PREFIX) and prefix["position_ids"][0].tolist() == list(range(length))
    width = batch["labels"].shape[1]
    assert rest["attention_mask"].shape == batch["labels"].shape and rest["labels"].shape[1] == width - length
    for row, prompt in enumerate(prompts):
        seen = rest["attention_mask"][row].bool()
        assert seen[:length].all()
        own = seen[length:]
        ids = [*prefix["input_ids"][0].tolist(), *rest["input_ids"][row, own].tolist()]
        assert ids == [*PREFIX, *prompt, 4, 6, 0]
        assert rest["position_ids"][row, own].tolist() == list(range(length, len(ids)))
        # Each label is predicted by a token of the rest.
        assert rest["labels"][row, own].tolist()[1:][-3:] == [4, 6, 0]
        assert (rest["labels"][row] != -100).sum() == 3


def test_the_prefix_ends_where_rows_differ_or_labels_begin():
    assert split_prefix(batch_of([[1, 2], [1, 3, 2]]), 100)[0]["input_ids"].tolist() == [[*PREFIX, 1]]
    prefix, rest = split_prefix(batch_of([[1, 2], [1, 2]]), 100)
    assert prefix["input_ids"].tolist() == [[*PREFIX, 1]] and rest["input_ids"][0].tolist() == [2, 4, 6, 0]


def without_positions():
    return {name: tensor for name, tensor in batch_of([[1], [2]]).items() if name != "position_ids"}


def padded_on_the_right():
    batch = {name: tensor.clone() for name, tensor in batch_of([[1], [2]]).items()}
    batch["attention_mask"][0, -1] = 0
    return batch


def at_other_positions():
    batch = {name: tensor.clone() for name, tensor in batch_of([[1], [2]]).items()}
    batch["position_ids"][0] += 1
    return batch


@pytest.mark.parametrize(
    "batch",
    [batch_of([[1]]), batch_of([[1], [2]], on_inputs=True), batch_of([[1] * 70, [2] * 70]),
     collate([[1, 2, 3], [2, 2, 3]], [[4], [4]], 0), without_positions(), padded_on_the_right(), at_other_positions()],
    ids=["one row", "labels on the prefix", "short prefix", "no prefix", "no positions", "padding on the right",
         "other positions"],
)  # fmt: skip
def test_batches_that_are_not_split(batch):
    prefix, rest = split_prefix(batch, 100)
    assert prefix is None and rest is batch


def test_batches_that_are_too_long_for_the_model_are_not_split():
    batch = batch_of([[1], [2]])
    assert split_prefix(batch, 12)[0] is not None
    assert split_prefix(batch, 11)[0] is None


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gpt2"])
def test_losses_with_a_shared_prefix(bigrec, randomise_adapter, kind):
    model, splits = bigrec(kind)
    randomise_adapter(model.network)
    network = model.network.eval()
    samples = CandidateSamples.from_dataset(splits.train)
    batch = model.batch([samples.history(row) for row in range(len(samples))], samples.item_id)
    prefix, rest = split_prefix(batch, longest_split(network))
    assert prefix["input_ids"].shape[1] > batch["labels"].shape[1] / 2
    assert (rest["attention_mask"] == 0).any()
    with torch.no_grad():
        past = expanded(prefix_states(network, prefix), len(samples))
        found, expected = sample_losses(network, rest, past), sample_losses(network, batch)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)


def test_states_of_a_prefix_do_not_grow_with_what_follows(checkpoint):
    network = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).eval()
    prefix, rest = split_prefix(batch_of([[1], [2]]), 100)
    with torch.no_grad():
        past = expanded(prefix_states(network, prefix), 2)
        first, second = sample_losses(network, rest, past), sample_losses(network, rest, past)
    assert past.get_seq_length() == len(PREFIX)
    assert torch.equal(first, second)


def test_models_whose_prefix_can_run_apart(checkpoint):
    def network(kind, **options):
        return AutoModelForCausalLM.from_pretrained(checkpoint(kind), **options)

    class Own(LlamaForCausalLM):
        """Code that is not the library's."""

    assert min(longest_split(network(kind)) for kind in ("llama", "qwen2", "gpt2")) > 10**6
    assert longest_split(network("mistral", sliding_window=9)) == 9
    assert longest_split(Own(network("llama").config)) == 0
    both_ways = network("llama")
    both_ways.config.is_causal = False
    assert longest_split(both_ways) == 0
    assert longest_split(nn.Linear(2, 2)) == 0
