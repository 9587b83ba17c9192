"""Per-sample gradient norms against autograd, one sample at a time."""

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from recbole_dealrec.compat import cache_name
from recbole_dealrec.model.decoding.prefix import prefix_states
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import gradient_norm, gradient_rule
from recbole_dealrec.scorer.gradient_norm import per_sample_gradient_norms

VOCAB, LENGTH = 37, 11
DECODER = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}


def decoder(model_class=LlamaForCausalLM, config_class=LlamaConfig, **options):
    torch.manual_seed(0)
    return model_class(config_class(**DECODER | options))


def gpt2(**options):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**GPT2 | options))


def with_lora(model, targets=("q_proj", "v_proj"), nonzero=True, **options):
    model = get_peft_model(model, LoraConfig(r=3, target_modules=list(targets), task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and nonzero:
            nn.init.normal_(parameter, std=0.3)
    return model


def shaken(model):
    """Move norm weights and biases away from their special start values."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.requires_grad_(True)
    return model


def make_batch(size, seed=0, response=None, positions=True, length=LENGTH):
    """Left-padded rows of different lengths; ``response`` labels at the right end, or a label on every token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (size, length), generator=generator)
    padding = torch.arange(size) * 2 % (length - 5)
    mask = (torch.arange(length) >= padding[:, None]).long()
    ids = ids * mask
    labels = ids.masked_fill(mask == 0, -100)
    if response is not None:
        labels[:, : length - response] = -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if positions:
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    return batch


def rows_of(batch, *rows):
    return {name: tensor[list(rows)] for name, tensor in batch.items()}


def without_padding(row):
    return {name: tensor[:, row["attention_mask"][0] == 1] for name, tensor in row.items()}


def loss_alone(model, row):
    output = model(**{name: tensor for name, tensor in row.items() if name != "labels"})
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits[0, :-1], row["labels"][0, 1:], ignore_index=-100)


def norms_alone(model, batch, names=None, strip=False):
    """One forward and one backward pass per sample, in eval mode, gradients of all weights formed."""
    parameters = dict(model.named_parameters())
    chosen = [p for name, p in parameters.items() if (p.requires_grad if names is None else name in names)]
    flags = [p.requires_grad for p in chosen]
    training = model.training
    model.eval()
    for parameter in chosen:
        parameter.requires_grad_(True)
    norms = []
    for index in range(len(batch["labels"])):
        row = rows_of(batch, index)
        loss = loss_alone(model, without_padding(row) if strip else row)
        gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
        norms.append(sum(g.double().square().sum() for g in gradients if g is not None).sqrt().item())
    for parameter, flag in zip(chosen, flags, strict=True):
        parameter.requires_grad_(flag)
    model.train(training)
    return np.array(norms)


def assert_exact(model, batch, names=None, rtol=1e-4, strip=False):
    norms = per_sample_gradient_norms(model, [batch], names)
    expected = norms_alone(model, batch, names, strip)
    assert norms.dtype == np.float64 and norms.shape == (len(batch["labels"]),)
    assert expected.min() > 1e-3 and np.ptp(expected) > 0.01 * expected.max()
    np.testing.assert_allclose(norms, expected, rtol=rtol)


LORA_MODELS = {
    "llama": lambda: with_lora(decoder()),
    "llama zero B": lambda: with_lora(decoder(), nonzero=False),
    "llama bias": lambda: with_lora(decoder(attention_bias=True, mlp_bias=True), ("q_proj", "up_proj"), bias="all"),
    "qwen2": lambda: with_lora(decoder(Qwen2ForCausalLM, Qwen2Config)),
    "mistral": lambda: with_lora(decoder(MistralForCausalLM, MistralConfig, sliding_window=4)),
    "gpt2": lambda: with_lora(gpt2(), ["c_attn"], fan_in_fan_out=True),
}
FULL_MODELS = {
    "gpt2": lambda: shaken(gpt2()),
    "llama": lambda: shaken(decoder(pad_token_id=0)),
    "llama tied": lambda: shaken(decoder(pad_token_id=0, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("response", [None, 3])
@pytest.mark.parametrize("name", LORA_MODELS)
def test_lora_norms_are_those_of_autograd(name, response):
    assert_exact(LORA_MODELS[name](), make_batch(4, response=response))


def test_gradient_of_a_is_zero_only_while_b_is_zero():
    batch = make_batch(2, response=3)
    for nonzero in (False, True):
        model = with_lora(decoder(), nonzero=nonzero)
        norms = per_sample_gradient_norms(model, [batch], [n for n, _ in model.named_parameters() if "lora_A" in n])
        assert (norms > 0).all() == nonzero


def test_dora_matrices():
    # DoRA also calls its matrices on the unit matrix; 16 samples are as many as that has rows.
    model = with_lora(decoder(), use_dora=True)
    names = [name for name, _ in model.named_parameters() if name.endswith(("_A.default.weight", "_B.default.weight"))]
    assert len(names) == 8
    assert_exact(model, make_batch(16, response=3), names)
    with pytest.raises(TypeError, match="magnitude"):
        per_sample_gradient_norms(model, [make_batch(2)])


def test_named_parameters_of_the_last_layer_only():
    model = with_lora(decoder())
    names = [name for name, _ in model.named_parameters() if ".layers.1." in name and "lora" in name]
    batch = make_batch(4, response=3)
    assert len(names) == 4
    assert_exact(model, batch, names)
    assert (per_sample_gradient_norms(model, [batch], names) < per_sample_gradient_norms(model, [batch])).all()


def test_a_frozen_parameter_may_be_chosen():
    assert_exact(with_lora(decoder()), make_batch(3), ["base_model.model.model.layers.0.mlp.down_proj.weight"])


@pytest.mark.parametrize("response", [None, 3])
@pytest.mark.parametrize("name", FULL_MODELS)
def test_norms_of_all_parameters_are_those_of_autograd(name, response):
    assert_exact(FULL_MODELS[name](), make_batch(4, response=response))


@pytest.mark.parametrize("name", FULL_MODELS)
def test_every_parameter_alone(name):
    model = FULL_MODELS[name]().double()
    batch = make_batch(3, response=4)
    for parameter, _ in model.named_parameters():
        norms = per_sample_gradient_norms(model, [batch], [parameter])
        np.testing.assert_allclose(norms, norms_alone(model, batch, [parameter]), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("positions", [True, False])
def test_positions_shared_by_the_batch(positions):
    # Without position_ids GPT-2 looks its positions up once for all samples.
    batch = make_batch(3, positions=positions)
    assert_exact(shaken(gpt2()).double(), batch, ["transformer.wpe.weight"], rtol=1e-8)


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gpt2"])
def test_left_padding_does_not_count(name):
    assert_exact(LORA_MODELS[name](), make_batch(4, response=3), strip=True)


@pytest.mark.parametrize("build", [LORA_MODELS["llama"], FULL_MODELS["gpt2"]])
def test_batch_composition_does_not_matter(build):
    model, batch = build().double(), make_batch(7, response=3)
    batch["labels"][2, -5:] = batch["input_ids"][2, -5:]
    norms = {
        size: per_sample_gradient_norms(model, [rows_of(batch, *range(i, min(i + size, 7))) for i in range(0, 7, size)])
        for size in (1, 3, 7)
    }
    assert norms[1].shape == (7,)
    np.testing.assert_allclose(norms[3], norms[1], rtol=1e-8)
    np.testing.assert_allclose(norms[7], norms[1], rtol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_in_both_modes(training):
    model = with_lora(gpt2(attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5), ["c_attn"], True, lora_dropout=0.5)
    assert_exact(model.train(training), make_batch(3, response=3))


@pytest.mark.parametrize("ambient", [torch.no_grad, torch.enable_grad])
def test_model_is_left_as_it_was(ambient):
    model = with_lora(decoder()).train()
    model.base_model.model.model.layers[0].eval()
    before = state_of(model)
    with ambient():
        per_sample_gradient_norms(model, [make_batch(2)], ["base_model.model.model.norm.weight"])
        assert torch.is_grad_enabled() == (ambient is torch.enable_grad)
    assert state_of(model) == before


def test_model_is_left_as_it_was_after_an_error():
    model = with_lora(decoder()).train()
    before = state_of(model)

    def broken():
        yield make_batch(2)
        raise KeyError("from the generator")

    with pytest.raises(KeyError, match="from the generator"):
        per_sample_gradient_norms(model, broken(), ["base_model.model.model.norm.weight"])
    assert state_of(model) == before
    with pytest.raises(IndexError):
        per_sample_gradient_norms(model, [make_batch(2) | {"input_ids": torch.full((2, LENGTH), VOCAB)}])
    assert state_of(model) == before


def with_prefix(batch, prefix=3):
    """The batch with the same tokens at the start of all rows."""
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    starts = (mask == 0).sum(1)
    for row, start in enumerate(starts):
        ids[row, start : start + prefix] = torch.arange(1, prefix + 1)
    return batch | {"input_ids": ids}


@pytest.fixture
def shared(monkeypatch):
    """Lengths of the prefixes that were run apart."""
    lengths = []

    def states(model, prefix):
        lengths.append(prefix["input_ids"].shape[1])
        return prefix_states(model, prefix)

    monkeypatch.setattr(gradient_norm, "prefix_states", states)
    return lengths


PREFIX_MODELS = {
    **{name: LORA_MODELS[name] for name in ("llama", "llama bias", "qwen2", "gpt2")},
    "mistral": lambda: with_lora(decoder(MistralForCausalLM, MistralConfig, sliding_window=LENGTH)),
    "eager": lambda: with_lora(decoder(attn_implementation="eager")),
    "full gpt2": FULL_MODELS["gpt2"],
    "full llama": FULL_MODELS["llama"],
    "full llama tied": FULL_MODELS["llama tied"],
}


@pytest.mark.parametrize("name", PREFIX_MODELS)
def test_a_shared_prefix_changes_no_norm(name, shared):
    assert_exact(PREFIX_MODELS[name](), with_prefix(make_batch(4, response=3)))
    assert shared == [3]


@pytest.mark.parametrize("name", ["llama", "full gpt2"])
def test_a_shared_prefix_is_exact(name, shared):
    model, batch = PREFIX_MODELS[name]().double(), with_prefix(make_batch(4, response=3))
    together = per_sample_gradient_norms(model, [batch])
    alone = per_sample_gradient_norms(model, [rows_of(batch, row) for row in range(4)])
    assert shared == [3]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_named_parameters_with_a_shared_prefix(shared):
    model, batch = with_lora(decoder()), with_prefix(make_batch(4, response=3))
    for part in (".layers.1.", ".layers.0.self_attn.v_proj.lora_B", ".layers.1.self_attn.q_proj"):
        assert_exact(model, batch, [name for name, _ in model.named_parameters() if part in name and "lora" in name])
    assert shared == [3, 3, 3]


def test_a_window_shorter_than_the_batch_keeps_the_prefix_in_it(shared):
    assert_exact(LORA_MODELS["mistral"](), with_prefix(make_batch(4, response=3)))
    assert shared == []


def test_a_shared_prefix_is_run_for_one_row(shared):
    model, sizes = with_lora(decoder()), []
    layer = model.base_model.model.model.layers[0]
    layer.register_forward_hook(lambda module, args, output: sizes.append(tuple(args[0].shape[:2])))
    per_sample_gradient_norms(model, [with_prefix(make_batch(5, response=3))])
    assert sizes == [(1, 3), (5, LENGTH - 3)]


def test_a_weight_used_outside_its_module_is_refused_in_the_prefix_too(shared):
    model = decoder()
    rest = model.model.layers[1].mlp.forward

    def first_token_again(x):
        return rest(x) + (F.linear(x, model.model.layers[0].self_attn.o_proj.weight) if x.shape[1] == 3 else 0)

    model.model.layers[0].mlp.forward = first_token_again
    with pytest.raises(TypeError, match="used outside the forward of its module Linear"):
        per_sample_gradient_norms(
            model, [with_prefix(make_batch(4, response=3))], ["model.layers.0.self_attn.o_proj.weight"]
        )
    assert shared == [3]


def state_of(model):
    flags = {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}
    hooks = {name: (m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    return flags, hooks, model.config.use_cache


def test_batches_are_read_one_at_a_time_and_let_go():
    model, alive = with_lora(decoder()), []

    def batches():
        for seed in range(4):
            batch = make_batch(2, seed)
            gc.collect()
            # The batch before may still be a loop variable; those before it may not be alive.
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(batch["input_ids"]))
            yield batch
            del batch

    norms = per_sample_gradient_norms(model, batches())
    expected = np.concatenate([norms_alone(model, make_batch(2, seed)) for seed in range(4)])
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    assert per_sample_gradient_norms(model, iter([])).shape == (0,)


def test_losses_are_those_of_the_library_and_need_few_logits():
    model, batch, widths, caches = with_lora(decoder()), make_batch(4, response=3), [], []
    batch["labels"][1, -5:] = batch["input_ids"][1, -5:]
    head = model.base_model.model.lm_head.register_forward_hook(lambda m, a, output: widths.append(output.shape[1]))
    whole = model.base_model.model.register_forward_hook(
        lambda m, a, output: caches.append(getattr(output, cache_name(m.forward)))
    )
    losses = sample_losses(model, batch)
    head.remove()
    whole.remove()
    assert widths == [14] and caches == [None] and model.config.use_cache
    for index, loss in enumerate(losses):
        assert loss.item() == pytest.approx(model(**rows_of(batch, index)).loss.item(), rel=1e-5)


def test_losses_are_float32_for_a_bf16_model():
    losses = sample_losses(decoder().bfloat16(), make_batch(3))
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses.tolist(), sample_losses(decoder(), make_batch(3)).tolist(), rtol=2e-2)


def test_a_label_on_the_first_token_is_never_predicted():
    model, batch = decoder(), make_batch(2, response=2)
    expected = sample_losses(model, batch)
    batch["labels"][:, 0] = 5
    torch.testing.assert_close(sample_losses(model, batch), expected)
    batch["labels"][1, 1:] = -100
    with pytest.raises(ValueError, match="row 1 of the batch"):
        sample_losses(model, batch)
    with pytest.raises(ValueError, match="row 1 of the batch"):
        per_sample_gradient_norms(shaken(model), [batch])


BF16_MODELS = {
    "lora": (LORA_MODELS["llama"], lambda: LORA_MODELS["llama"]().bfloat16()),
    "float32 lora": (LORA_MODELS["llama"], lambda: with_lora(decoder().bfloat16())),
    "gpt2": (FULL_MODELS["gpt2"], lambda: FULL_MODELS["gpt2"]().bfloat16()),
    "llama": (FULL_MODELS["llama"], lambda: FULL_MODELS["llama"]().bfloat16()),
}


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("name", BF16_MODELS)
def test_bf16_norms_are_those_of_the_rounded_weights(name, prefix, shared):
    rough, batch = BF16_MODELS[name][1](), with_prefix(make_batch(6, response=4), prefix)
    norms = per_sample_gradient_norms(rough, [batch])
    assert len(shared) == (prefix > 0)
    # The weights of both models are the same numbers; bf16 has eight bits.
    np.testing.assert_allclose(norms, norms_alone(rough.float(), batch), rtol=5e-2)


@pytest.mark.parametrize("name", BF16_MODELS)
def test_bf16_models(name):
    (exact, rough), batch = (build() for build in BF16_MODELS[name]), make_batch(6, response=4)
    assert torch.bfloat16 in {parameter.dtype for parameter in rough.parameters()}
    assert_exact(rough, batch, rtol=2e-2)
    norms = [per_sample_gradient_norms(model, [batch]) for model in (exact, rough)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-1)


def test_bf16_gradients_are_added_in_float32():
    # 600 equal terms: a bf16 sum stops growing at 256 of them.
    ones = torch.ones(1, 600, 1, dtype=torch.bfloat16)
    for kind in (nn.Linear, Conv1D):
        rules = gradient_rule._RULES[kind.forward]
        outer = rules["weight"](None, ones, ones)
        assert [gradient_rule._dense_squares(outer, ghost).item() for ghost in (True, False)] == [600**2] * 2
        assert rules["bias"](kind(1, 1), ones, ones).item() == 600


class Bespoke(nn.Module):
    """Everything a decoder of the library does not do."""

    def __init__(self, body):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 6, padding_idx=0)
        self.body = body
        self.head = nn.Linear(6, VOCAB)

    def forward(self, input_ids, attention_mask):
        return self.head(self.body(self.embed(input_ids)))


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class Heads(nn.Module):
    """Four dimensions, a call by keyword, an in-place operation on its output, and a call without time axis."""

    def __init__(self):
        super().__init__()
        self.proj, self.pool = nn.Linear(3, 3, bias=False), nn.Linear(6, 6)

    def forward(self, x):
        heads = self.proj(input=x.unflatten(-1, (2, 3)))
        heads.mul_(heads.detach().clone()).add_(1.0)
        return heads.flatten(2) + torch.tanh(self.pool(x.mean(1)))[:, None]


class NormedHeads(nn.Module):
    """Norms over two dimensions, and over one of four dimensions."""

    def __init__(self):
        super().__init__()
        self.both, self.last = nn.LayerNorm((2, 3)), nn.RMSNorm(3, eps=1e-2)

    def forward(self, x):
        return self.last(self.both(x.unflatten(-1, (2, 3)))).flatten(2)


class Dropped(Twice):
    """Calls whose outputs take no part in the gradient, on inputs that are no batch."""

    def forward(self, x):
        unit = torch.eye(6, dtype=x.dtype)
        with torch.no_grad():
            scale = self.inner(unit).norm()
        return self.inner(x) * scale * self.inner(unit).detach().norm()


class BiasedRMSNorm(nn.RMSNorm):
    def __init__(self):
        super().__init__(6)
        self.bias = nn.Parameter(torch.zeros(6))


class InPlace(Twice):
    def forward(self, x):
        y = self.inner(x)
        y[:, 1] = 0
        return y.mul_(y.detach().clone())


class TextInputScaledRMSNorm(nn.Module):
    """An RMS norm whose weight gradient is not the normalised input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 0.5, 6))

    def forward(self, x):
        return F.rms_norm(x * (1.0 + self.weight), (6,))


class MyLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class TiedByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 6)

    def forward(self, input_ids, attention_mask):
        return F.linear(self.embed(input_ids), self.embed.weight)


def bespoke(body):
    torch.manual_seed(0)
    return Bespoke(body).double()


def plain_batch(size=3, **options):
    return make_batch(size, positions=False, **options)


@pytest.mark.parametrize(
    "body",
    [Twice(nn.Linear(6, 6)), Twice(Conv1D(6, 6)), Heads(), nn.RMSNorm(6), Twice(nn.LayerNorm(6)),
     NormedHeads(), Dropped(nn.Linear(6, 6)),
     InPlace(nn.Linear(6, 6)), InPlace(nn.Linear(6, 6, bias=False)), InPlace(Conv1D(6, 6)), InPlace(nn.LayerNorm(6)),
     TextInputScaledRMSNorm(), nn.Sequential(nn.Linear(6, 40, bias=False), nn.GELU(), nn.Linear(40, 6))],
    ids=["linear twice", "conv1d twice", "heads", "rms norm", "layer norm twice", "normed heads", "dropped",
         "linear in place", "linear without bias in place", "conv1d in place", "layer norm in place",
         "other rms norm", "mlp"],
)  # fmt: skip
@pytest.mark.parametrize("response", [None, 3])
def test_modules_of_other_models(body, response):
    model, batch = bespoke(body), plain_batch(response=response)
    assert_exact(model, batch, rtol=1e-8)
    alone = per_sample_gradient_norms(model, [rows_of(batch, index) for index in range(3)])
    np.testing.assert_allclose(alone, norms_alone(model, batch), rtol=1e-8)


def test_parameters_and_modules_shared_between_places():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = bespoke(nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), first))
    assert_exact(model, plain_batch(), rtol=1e-8)
    both = per_sample_gradient_norms(model, [plain_batch()], ["body.0.weight", "body.2.weight"])
    np.testing.assert_array_equal(both, per_sample_gradient_norms(model, [plain_batch()], ["body.0.weight"]))


def test_a_square_that_rounding_made_negative_gives_zero(monkeypatch):
    monkeypatch.setattr(gradient_norm, "_squares", lambda target, uses, size: torch.full((size,), -1e-9))
    assert per_sample_gradient_norms(bespoke(nn.Tanh()), [plain_batch()]).tolist() == [0, 0, 0]


def test_repeated_and_padding_tokens_of_an_embedding():
    batch = plain_batch(4)
    batch["input_ids"] = batch["input_ids"] % 3
    assert (batch["input_ids"] == 0).any()
    assert_exact(bespoke(nn.Tanh()), batch, ["embed.weight"], rtol=1e-8)


def test_the_graph_starts_at_the_chosen_parameters():
    model, seen = with_lora(decoder()), []
    model.enable_input_require_grads()
    layers = model.base_model.model.model.layers
    layers[0].register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    layers[1].register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    names = [name for name, _ in model.named_parameters() if ".layers.1." in name and "lora" in name]
    assert_exact(model, make_batch(2), names)
    assert seen[:2] == [False, True]


def test_no_weight_gradient_is_formed():
    model = with_lora(decoder())
    calls = []
    handles = [p.register_hook(lambda gradient: calls.append(gradient)) for p in model.parameters() if p.requires_grad]
    per_sample_gradient_norms(model, [make_batch(2)])
    assert not calls
    norms_alone(model, make_batch(1))
    assert len(calls) == len(handles)


def test_gradient_checkpointing():
    plain, checkpointed = with_lora(decoder()), with_lora(decoder()).train()
    checkpointed.gradient_checkpointing_enable()
    batch = make_batch(3, response=3)
    np.testing.assert_allclose(
        per_sample_gradient_norms(checkpointed, [batch]), per_sample_gradient_norms(plain, [batch]), rtol=1e-5
    )


def test_checkpointing_inside_a_model():
    class Checkpointed(Twice):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    assert_exact(bespoke(Checkpointed(nn.Linear(6, 6))), plain_batch(), rtol=1e-8)


@pytest.mark.parametrize("names", [["lm_head.weight", "nowhere.weight", "nor.here"], "lm_head.weight"])
def test_unknown_names(names):
    first = "nowhere.weight" if isinstance(names, list) else "l"
    with pytest.raises(ValueError, match=rf"no parameter {first}$"):
        per_sample_gradient_norms(decoder(), [make_batch(1)], names)


def test_nothing_chosen():
    model = decoder().requires_grad_(False)
    for names in ([], None):
        with pytest.raises(ValueError, match="no parameter"):
            per_sample_gradient_norms(model, [], names)


def test_a_parameter_that_the_loss_does_not_depend_on():
    model = bespoke(nn.Tanh())
    model.spare = nn.Linear(2, 2).double()
    with pytest.raises(ValueError, match="spare.weight"):
        per_sample_gradient_norms(model, [plain_batch()], ["spare.weight"])
    assert_exact(model, plain_batch(), rtol=1e-8)


@pytest.mark.parametrize(
    ("body", "name", "kind"),
    [(nn.Conv1d(6, 6, 1), "body.weight", "Conv1d"), (MyLayerNorm(6), "body.weight", "MyLayerNorm"),
     (BiasedRMSNorm(), "body.weight", "BiasedRMSNorm"),
     (nn.ParameterList([nn.Parameter(torch.ones(2))]), "body.0", "ParameterList"),
     (nn.Embedding(3, 2, scale_grad_by_freq=True), "body.weight", "Embedding")],
)  # fmt: skip
def test_modules_that_are_not_understood(body, name, kind):
    with pytest.raises(TypeError, match=rf"^parameter {name}: .*\b{kind}$"):
        per_sample_gradient_norms(bespoke(body), [plain_batch()], [name])


def test_a_weight_used_outside_its_module_is_refused():
    with pytest.raises(TypeError, match="embed.weight: used outside the forward of its module Embedding"):
        per_sample_gradient_norms(TiedByHand(), [plain_batch()])


@pytest.mark.parametrize("flatten", [lambda x: x.flatten(0, 1), lambda x: x.transpose(0, 1)])
def test_a_module_that_does_not_see_the_batch_first_is_refused(flatten):
    class Routed(Twice):
        def forward(self, x):
            return x + self.inner(flatten(x)).sum()

    with pytest.raises(TypeError, match=r"body.inner.weight: Linear called on \["):
        per_sample_gradient_norms(bespoke(Routed(nn.Linear(6, 6))), [plain_batch()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("build", [LORA_MODELS["llama"], FULL_MODELS["gpt2"], FULL_MODELS["llama tied"]])
def test_batches_are_moved_to_the_model(build):
    batch = make_batch(4, response=3)
    norms = per_sample_gradient_norms(build().double().cuda(), [batch])
    np.testing.assert_allclose(norms, per_sample_gradient_norms(build().double(), [batch]), rtol=1e-6)


def random_outer(size, tokens, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = (size, tokens, height), (size, tokens, width)
    return gradient_rule.Outer(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


SIZES = [st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(*SIZES)
def test_both_forms_of_a_linear_norm_are_the_loop(size, tokens, height, width, seed):
    outer = random_outer(size, tokens, height, width, seed)
    sums = [sum(map(torch.outer, rows, cols)) for rows, cols in zip(*outer, strict=True)]
    loop = torch.stack(sums).square().sum((1, 2))
    for ghost in (True, False, None):
        torch.testing.assert_close(gradient_rule._dense_squares(outer, ghost), loop, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(*SIZES)
def test_one_hot_rows_are_written_out_one_hot_rows(size, tokens, height, width, seed):
    used = random_outer(size, tokens, height, width, seed)
    looked_up = random_outer(size, tokens + 1, height, width, seed + 1)
    ids = torch.randint(height, (size, tokens + 1), generator=torch.Generator().manual_seed(seed))
    short = gradient_rule.Outer(ids, looked_up.cols)
    long = gradient_rule.Outer(F.one_hot(ids, height).double(), looked_up.cols)
    expected = (long.rows.mT @ long.cols + used.rows.mT @ used.cols).square().sum((1, 2))
    torch.testing.assert_close(gradient_rule._outer_squares([used, short], height), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(*SIZES)
def test_both_forms_of_an_embedding_norm_are_the_loop(size, tokens, height, width, seed):
    cols = random_outer(size, tokens, height, width, seed).cols
    ids = torch.randint(height, (size, tokens), generator=torch.Generator().manual_seed(seed))
    expected = (F.one_hot(ids, height).double().mT @ cols).square().sum((1, 2))
    for ghost in (True, False, None):
        found = gradient_rule._one_hot_squares(gradient_rule.Outer(ids, cols), height, ghost)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ghost", [True, False])
def test_either_form_serves_a_whole_model(monkeypatch, ghost):
    form = gradient_rule._dense_squares
    monkeypatch.setattr(gradient_rule, "_dense_squares", lambda outer: form(outer, ghost))
    assert_exact(shaken(gpt2()), make_batch(3))


def test_the_cheaper_form_is_taken(monkeypatch):
    taken = []
    monkeypatch.setattr(gradient_rule, "_inner", lambda left, right: taken.append(left))
    for tokens, height in ((2, 64), (64, 2)):
        gradient_rule._dense_squares(random_outer(1, tokens, height, 64, 0))
    assert [outer.rows.shape[1] for outer in taken] == [2]
