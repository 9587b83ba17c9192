"""Projected gradients against autograd, one sample at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

from recbole_dealrec.model.decoding.prefix import prefix_states
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import gradient_norm, gradient_rule
from recbole_dealrec.scorer.gradient_projection import GradientProjection, random_signs
from recbole_dealrec.scorer.gradient_rule import Outer, dense_gradients
from recbole_dealrec.scorer.gradient_way import batched_gradients, gradients_alone

VOCAB, LENGTH = 23, 10


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **sizes))
    model = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.double()


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=12, n_layer=1, n_head=2, n_positions=16)).double()


def t5():
    torch.manual_seed(0)
    sizes = {"d_model": 12, "d_kv": 6, "d_ff": 20, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=VOCAB, decoder_start_token_id=0, pad_token_id=0, eos_token_id=None, **sizes)
    model = T5ForConditionalGeneration(config).double()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


MODELS = {"llama": llama, "gpt2": gpt2, "t5": t5}


def batch_for(model, size=3, prefix=0):
    """Rows of different lengths, padded as the model's kind is, with the same ``prefix`` tokens at their start."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCAB, (size, LENGTH), generator=generator)
    padding = torch.arange(size) * 2
    if isinstance(model, T5ForConditionalGeneration):
        mask = (torch.arange(LENGTH) < LENGTH - padding[:, None]).long()
        labels = torch.randint(1, VOCAB, (size, 3), generator=generator)
        return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}
    mask = (torch.arange(LENGTH) >= padding[:, None]).long()
    for row, start in enumerate(padding):
        ids[row, start : start + prefix] = torch.arange(1, prefix + 1)
    labels = (ids * mask).masked_fill(torch.arange(LENGTH) < LENGTH - 3, -100)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "position_ids": positions}


def one_by_one(model, batch):
    """Gradients of each parameter for each sample by a backward pass of its own, [B, ...] by name."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.eval()
    rows = []
    for row in range(len(batch["labels"])):
        alone = {name: values[row : row + 1] for name, values in batch.items()}
        loss = sample_losses(model, alone).sum()
        rows.append(torch.autograd.grad(loss, list(named.values()), materialize_grads=True))
    return {name: torch.stack(each) for name, each in zip(named, zip(*rows, strict=True), strict=True)}


def projected(model, batch, way=batched_gradients, names=None, seed=0, size=1024, direction=None):
    with way(model, names) as gradients_of:
        return GradientProjection(model, seed, size)(gradients_of(batch), direction)


def gram(vectors):
    vectors = vectors.flatten(1)
    return vectors @ vectors.T


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("name", MODELS)
def test_dense_gradients_are_those_of_autograd(name, prefix, monkeypatch):
    shared = []
    monkeypatch.setattr(gradient_norm, "prefix_states", lambda *args: shared.append(args) or prefix_states(*args))
    model = MODELS[name]()
    batch = batch_for(model, prefix=prefix)
    expected, shapes = one_by_one(model, batch), {name: tuple(p.shape) for name, p in model.named_parameters()}
    with batched_gradients(model) as gradients_of:
        found = {name: dense_gradients(terms, shapes[name]) for name, terms in gradients_of(batch)}
    assert bool(shared) == (prefix > 0 and name != "t5")
    assert found.keys() <= expected.keys()
    for name, gradients in expected.items():
        torch.testing.assert_close(found.get(name, torch.zeros_like(gradients)), gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_long_enough_vector_keeps_each_parameters_inner_products(name, prefix):
    model = MODELS[name]()
    batch = batch_for(model, prefix=prefix)
    for name, gradients in one_by_one(model, batch).items():
        if gradients.any():  # both sides keep their values
            longest = max(gradients.shape[1:])
            vectors = projected(model, batch, names=[name], size=longest**2)
            assert vectors.shape == (3, longest**2)
            torch.testing.assert_close(gram(vectors), gram(gradients), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_over_seeds_is_the_inner_product_of_all_gradients(name):
    model = MODELS[name]()
    batch = batch_for(model)
    whole = gram(torch.cat([gradients.flatten(1) for gradients in one_by_one(model, batch).values()], dim=1))
    with batched_gradients(model) as gradients_of:
        terms = list(gradients_of(batch))
        found = torch.stack([gram(GradientProjection(model, seed, 64)(terms)) for seed in range(400)])
    lengths = whole.diagonal().sqrt()
    scale = lengths[:, None] * lengths
    # The error of one seed is the spread; the mean over 400 seeds has a twentieth of it, and no bias.
    errors = (found - whole) / scale
    assert (errors.std(0) < 0.4).all()
    assert (errors.mean(0).abs() < 4 * errors.std(0) / 20).all()


def test_a_longer_vector_has_a_smaller_error():
    model = t5()
    batch = batch_for(model)
    whole = gram(torch.cat([gradients.flatten(1) for gradients in one_by_one(model, batch).values()], dim=1))
    with batched_gradients(model) as gradients_of:
        terms = list(gradients_of(batch))
        differences = {
            size: [gram(GradientProjection(model, seed, size)(terms)) - whole for seed in range(60)]
            for size in (16, 64, 256)
        }
    error = {size: np.mean([float(each.norm()) for each in found]) for size, found in differences.items()}
    assert error[256] < 0.7 * error[64] < 0.5 * error[16]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_samples_alone_are_projected_as_in_a_batch(name):
    model = MODELS[name]()
    batch = batch_for(model)
    torch.testing.assert_close(projected(model, batch, gradients_alone), projected(model, batch), rtol=1e-8, atol=1e-12)


def test_a_direction_is_projected_in_place_of_the_gradients():
    model = gpt2()
    batch = batch_for(model)
    asked = []

    def doubled(name, gradients):
        asked.append((name, tuple(gradients.shape)))
        return 2 * gradients

    torch.testing.assert_close(projected(model, batch, direction=doubled), 2 * projected(model, batch))
    assert dict(asked) == {name: (3, *parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_a_direction_is_of_a_few_samples_at_a_time(name, monkeypatch):
    model = MODELS[name]()
    batch = batch_for(model)
    whole = projected(model, batch, direction=lambda name, gradients: gradients.tanh())
    largest = max(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    monkeypatch.setitem(gradient_rule._PART, "cpu", 2 * largest)
    seen = {}

    def direction(name, gradients):
        seen.setdefault(name, []).append(gradients)
        return gradients.tanh()

    torch.testing.assert_close(projected(model, batch, direction=direction), whole, rtol=1e-8, atol=1e-12)
    assert max(part.numel() for parts in seen.values() for part in parts) <= 2 * largest
    assert max(len(parts) for parts in seen.values()) == 2
    expected = one_by_one(model, batch)
    for name, parts in seen.items():
        torch.testing.assert_close(torch.cat(parts), expected[name], rtol=1e-8, atol=1e-12)


def test_the_seed_and_the_name_alone_decide_the_signs():
    model, batch = llama(), batch_for(llama())
    torch.testing.assert_close(projected(model, batch), projected(model, batch), rtol=0, atol=0)
    assert not torch.allclose(projected(model, batch, seed=1), projected(model, batch))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = [projected(model, batch, names=part) for part in (names[:3], names[3:])]
    torch.testing.assert_close(sum(parts), projected(model, batch), rtol=1e-8, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_factored_and_dense_matrices_have_the_same_projection(size, tokens, height, width, one_hot, seed):
    generator = torch.Generator().manual_seed(seed)
    cols = torch.randn(size, tokens, width, generator=generator, dtype=torch.float64)
    rows = torch.randn(size, tokens, height, generator=generator, dtype=torch.float64)
    if one_hot:
        rows = torch.randint(height, (size, tokens), generator=generator)
    outer = Outer(rows, cols)
    projection = GradientProjection(nn.ParameterDict({"weight": nn.Parameter(torch.empty(height, width))}), seed, 50)
    dense = dense_gradients([outer], (height, width))
    torch.testing.assert_close(projection([("weight", [outer])]), projection([("weight", [dense])]))


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 8), (40, 8)])
def test_signs_are_a_unit_matrix_on_average(rows, columns):
    drawn = [random_signs(rows, columns, torch.Generator().manual_seed(seed)) for seed in range(500)]
    assert drawn[0].shape == (rows, columns)
    products = torch.stack([each @ each.T for each in drawn])
    torch.testing.assert_close(products.diagonal(dim1=1, dim2=2), torch.ones(500, rows))
    if rows <= columns:
        torch.testing.assert_close(products[0], torch.eye(rows))
    torch.testing.assert_close(products.mean(0), torch.eye(rows), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.stack(drawn).mean(0), torch.zeros(rows, columns), atol=0.2, rtol=0)


def test_conv1d_and_biases_of_any_length():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv, self.head = nn.Embedding(VOCAB, 7), Conv1D(30, 7), nn.Linear(30, VOCAB)

        def forward(self, input_ids, attention_mask):
            return self.head(torch.tanh(self.conv(self.embed(input_ids))))

    torch.manual_seed(0)
    model = Two().double()
    batch = {name: values for name, values in batch_for(model).items() if name != "position_ids"}
    for name, gradients in one_by_one(model, batch).items():
        vectors = projected(model, batch, names=[name], size=900)
        torch.testing.assert_close(gram(vectors), gram(gradients), rtol=1e-8, atol=1e-12)
    assert projected(model, batch, names=["conv.bias"], size=4).shape == (3, 4)
