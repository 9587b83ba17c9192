"""Per-sample gradient norms of a T5, whose position biases a batch shares, against autograd, one sample at a time."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import gradient_rule
from recbole_dealrec.scorer.gradient_norm import per_sample_gradient_norms

VOCAB, SOURCE, TARGET = 29, 9, 4
SHAPE = {
    "vocab_size": VOCAB, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "decoder_start_token_id": 0,
}  # fmt: skip


def t5(kind=T5ForConditionalGeneration, config=T5Config, tied=True, **options):
    torch.manual_seed(0)
    model = kind(config(**{**SHAPE, **options}))
    if not tied:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


MODELS = {
    "relu": t5,
    "relu, eager": lambda: t5(attn_implementation="eager"),
    "relu, untied": lambda: t5(tied=False),
    "gated-gelu": lambda: t5(feed_forward_proj="gated-gelu"),
    "gated-gelu, untied": lambda: t5(tied=False, feed_forward_proj="gated-gelu"),
    "unscaled": lambda: t5(tie_word_embeddings=False),
    "mt5": lambda: t5(MT5ForConditionalGeneration, MT5Config),
}
BIASES = ["encoder", "decoder"]


def make_batch(size, labelled=TARGET, left=False):
    """Sources of different lengths, padded on one side; the last row has one label less."""
    ids = torch.randint(1, VOCAB, (size, SOURCE), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(SOURCE) < SOURCE - torch.arange(size)[:, None] * 2 % 7).long()
    mask = mask.flip(1) if left else mask
    labels = torch.randint(1, VOCAB, (size, TARGET), generator=torch.Generator().manual_seed(2))
    labels[:, labelled:] = -100
    labels[-1, labelled - 1] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def alone(batch, row):
    """One row without its padding."""
    seen = batch["attention_mask"][row] == 1
    source = {name: batch[name][row : row + 1, seen] for name in ("input_ids", "attention_mask")}
    return {**source, "labels": batch["labels"][row : row + 1]}


def norms_alone(model, batch, names):
    known = dict(model.named_parameters(remove_duplicate=False))
    chosen = [known[name] for name in names]
    norms = []
    for row in range(len(batch["labels"])):
        gradients = torch.autograd.grad(model(**alone(batch, row)).loss, chosen, allow_unused=True)
        norms.append(sum(g.double().square().sum() for g in gradients if g is not None).sqrt().item())
    return np.array(norms)


def names_of(model):
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_library(name):
    model, batch = MODELS[name](), make_batch(5)
    with torch.no_grad():
        expected = [model(**alone(batch, row)).loss.item() for row in range(5)]
        np.testing.assert_allclose(sample_losses(model, batch).tolist(), expected, rtol=1e-5)


def test_the_first_label_of_an_encoder_decoder_counts_and_a_row_without_labels_is_refused():
    model, batch = t5(), make_batch(3)
    before = sample_losses(model, batch)
    batch["labels"][:, 0] = batch["labels"][:, 0] % (VOCAB - 1) + 1
    assert (sample_losses(model, batch) - before).abs().min() > 1e-3
    batch["labels"][1] = -100
    with pytest.raises(ValueError, match="row 1 of the batch"):
        sample_losses(model, batch)


@pytest.mark.parametrize("size", [1, TARGET, SOURCE])
@pytest.mark.parametrize("name", MODELS)
def test_norms_of_all_parameters_are_those_of_autograd(name, size):
    # As many samples as queries or keys: nothing may take one for the other.
    model, batch = MODELS[name]().double(), make_batch(size)
    expected = norms_alone(model, batch, names_of(model))
    assert size == 1 or np.ptp(expected) > 0.01 * expected.max()
    np.testing.assert_allclose(per_sample_gradient_norms(model, [batch]), expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["relu", "gated-gelu, untied"])
def test_every_parameter_alone(name):
    model, batch = MODELS[name]().double(), make_batch(4)
    for parameter in names_of(model):
        norms = per_sample_gradient_norms(model, [batch], [parameter])
        assert norms.min() > 1e-9
        np.testing.assert_allclose(norms, norms_alone(model, batch, [parameter]), rtol=1e-8, err_msg=parameter)


@pytest.mark.parametrize("ghost", [True, False])
@pytest.mark.parametrize("stack", BIASES)
def test_position_biases_in_either_form(monkeypatch, stack, ghost):
    form = gradient_rule._one_hot_squares
    monkeypatch.setattr(gradient_rule, "_one_hot_squares", lambda outer, height: form(outer, height, ghost))
    model, batch = t5().double(), make_batch(5, left=True)
    names = [f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    np.testing.assert_allclose(
        per_sample_gradient_norms(model, [batch], names), norms_alone(model, batch, names), rtol=1e-8
    )


def test_the_model_is_left_as_it_was():
    model, batch = t5().train(), make_batch(3)
    attention = model.encoder.block[0].layer[0].SelfAttention
    expected = attention.compute_bias(5, 5)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    per_sample_gradient_norms(model, [batch])
    with pytest.raises(IndexError):
        per_sample_gradient_norms(model, [batch | {"input_ids": torch.full((3, SOURCE), VOCAB)}])
    assert "compute_bias" not in vars(attention) and model.training
    torch.testing.assert_close(attention.compute_bias(5, 5), expected, rtol=0, atol=0)
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_lora_on_a_t5():
    lora = LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False, task_type="SEQ_2_SEQ_LM")
    model, batch = get_peft_model(t5(), lora).double().eval(), make_batch(4)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in names)
    np.testing.assert_allclose(per_sample_gradient_norms(model, [batch]), norms_alone(model, batch, names), rtol=1e-8)


def test_bf16():
    model, batch = t5(), make_batch(5)
    expected = per_sample_gradient_norms(model, [batch])
    np.testing.assert_allclose(per_sample_gradient_norms(model.bfloat16(), [batch]), expected, rtol=0.1)
