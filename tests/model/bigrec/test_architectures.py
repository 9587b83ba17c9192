"""Small random models of many architectures: each is right end to end, or refused before anything is computed."""

import logging
import shutil

import numpy as np
import pytest
import torch
import transformers

from recbole_dealrec.compat import cache_name
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import BIGRec
from recbole_dealrec.scorer import EffortScorer

VOCABULARY = 334  # of the tokenizer
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
USUAL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}  # fmt: skip
GROUPED = {**USUAL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
# Before transformers 5.24 the cache of Mamba-2 had a name of its own, and was not read.
MAMBA_2_CACHE = cache_name(transformers.Mamba2ForCausalLM.forward)
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
MIXED_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA = {**HEADS, "sliding_window": 6, "query_pre_attn_scalar": 8}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
DEEPSEEK = {
    "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
QWEN3_NEXT = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "num_experts": 4, "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
JAMBA = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
}  # fmt: skip
GRANITE = {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 16}
BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 1024,
}  # fmt: skip
OPT = {
    "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 16,
    "max_position_embeddings": 1024, "do_layer_norm_before": False,
}  # fmt: skip
NEO = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
    "window_size": 6, "max_position_embeddings": 1024,
}  # fmt: skip

# Configuration, targets of LoRA, and how beams are computed, by what the model is.
RIGHT = {
    "Llama": ("LlamaConfig", GROUPED, ["q_proj"], "shared"),
    "Mistral, window": ("MistralConfig", {**GROUPED, "sliding_window": 6}, ["q_proj"], "shared"),
    "Qwen2": ("Qwen2Config", GROUPED, ["q_proj", "up_proj"], "shared"),
    "Qwen3": ("Qwen3Config", HEADS, ["q_proj"], "shared"),
    "Qwen3, experts": ("Qwen3MoeConfig", {**HEADS, **EXPERTS, "num_experts": 4}, ["o_proj"], "shared"),
    "Mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}, ["q_proj"], "shared"),
    "GPT-OSS": (
        "GptOssConfig", {**HEADS, **EXPERTS, "num_local_experts": 4, "sliding_window": 6}, ["q_proj"], "shared",
    ),
    "DeepSeek-V3": ("DeepseekV3Config", {**GROUPED, **EXPERTS, **DEEPSEEK}, ["o_proj"], "shared"),
    "GPT-2": ("GPT2Config", GPT, ["c_attn"], "shared"),
    "GPT-Neo, local attention": ("GPTNeoConfig", NEO, ["q_proj"], "copied"),
    "GPT-J": ("GPTJConfig", {**GPT, "rotary_dim": 4}, ["q_proj"], "shared"),
    "GPT-NeoX": ("GPTNeoXConfig", USUAL, ["query_key_value"], "shared"),
    "GPT-BigCode": ("GPTBigCodeConfig", GPT, ["c_attn"], "shared"),
    "GPT without cache": ("OpenAIGPTConfig", GPT, ["c_attn"], "recomputed"),
    "CTRL": ("CTRLConfig", {**GPT, "dff": 48}, ["Wq"], "shared"),
    "OPT with projections": ("OPTConfig", OPT, ["q_proj"], "shared"),
    "Bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, ["query_key_value"], "copied"),
    "MPT": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 1024}, ["Wqkv"], "copied"),
    "Falcon": ("FalconConfig", USUAL, ["query_key_value"], "shared"),
    "Falcon, ALiBi": ("FalconConfig", {**USUAL, "alibi": True}, ["query_key_value"], "copied"),
    "Phi": ("PhiConfig", USUAL, ["q_proj"], "shared"),
    "Phi-3": ("Phi3Config", {**GROUPED, "sliding_window": None}, ["qkv_proj"], "shared"),
    "StableLM": ("StableLmConfig", GROUPED, ["q_proj"], "shared"),
    "StarCoder2": ("Starcoder2Config", {**GROUPED, "sliding_window": 6}, ["q_proj"], "shared"),
    "Cohere": ("CohereConfig", GROUPED, ["q_proj"], "shared"),
    "OLMo-2": ("Olmo2Config", GROUPED, ["q_proj"], "shared"),
    "Gemma": ("GemmaConfig", HEADS, ["q_proj"], "shared"),
    "Gemma-2": ("Gemma2Config", GEMMA, ["q_proj"], "shared"),
    "Gemma-3 with images": (
        "Gemma3Config", {"text_config": {**GEMMA, "vocab_size": VOCABULARY}, "vision_config": VISION,
        "mm_tokens_per_image": 4}, ["q_proj"], "shared",
    ),
    "Llama-4": (
        "Llama4TextConfig", {**HEADS, "intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1,
        "attention_chunk_size": 6, "interleave_moe_layer_step": 1}, ["q_proj"], "shared",
    ),
    "BERT as a decoder": ("BertConfig", {**USUAL, "is_decoder": True}, ["query"], "shared"),
    "BioGPT": ("BioGptConfig", USUAL, ["q_proj"], "shared"),
    "Mamba": ("MambaConfig", MAMBA, ["in_proj"], "recomputed"),
    "Mamba-2": (
        "Mamba2Config", {**MAMBA, "state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8},
        ["in_proj"], "recomputed" if MAMBA_2_CACHE == "past_key_values" else "shared",
    ),
    "Falcon-H1": (
        "FalconH1Config", {**HEADS, **MIXED_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 32}, ["q_proj"], "shared",
    ),
    "Jamba": ("JambaConfig", {**GROUPED, **JAMBA}, ["q_proj"], "shared"),
    "Bamba": ("BambaConfig", {**GROUPED, **MIXED_MAMBA, "attn_layer_indices": [1]}, ["q_proj"], "shared"),
    "Granite, hybrid": (
        "GraniteMoeHybridConfig", {**GROUPED, **MIXED_MAMBA, **GRANITE, "layer_types": ["mamba", "attention"]},
        ["q_proj"], "shared",
    ),
    "Qwen3-Next": ("Qwen3NextConfig", {**HEADS, **EXPERTS, **QWEN3_NEXT}, ["q_proj"], "shared"),
    "LFM2": ("Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"]}, ["q_proj"], "shared"),
    "Recurrent Gemma": (
        "RecurrentGemmaConfig", {**GROUPED, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 6},
        ["q_proj"], "recomputed",
    ),
    "LoRA on the output head": ("LlamaConfig", GROUPED, ["lm_head"], "shared"),
    "LoRA on the embeddings": ("LlamaConfig", GROUPED, ["embed_tokens", "q_proj"], "shared"),
    "LoRA on a shared embedding and head": ("GemmaConfig", HEADS, ["embed_tokens", "lm_head"], "shared"),
    "LoRA on one layer": ("LlamaConfig", {**GROUPED, "num_hidden_layers": 4}, ["layers.3.self_attn.q_proj"], "shared"),
}  # fmt: skip
REFUSED = {
    "RoBERTa": ("RobertaConfig", USUAL, ["query"], "later tokens change earlier logits, it is no causal language"),
    "BERT": ("BertConfig", USUAL, ["query"], "later tokens change earlier logits"),
    "ELECTRA": ("ElectraConfig", USUAL, ["query"], "later tokens change earlier logits"),
    "XLNet": (
        "XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, ["layer_1"],
        "later tokens change earlier logits",
    ),
    "BART": ("BartConfig", BART, ["q_proj"], "padding on the left changes its logits"),
    "RWKV": (
        "RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 1024}, ["key"],
        "padding on the left changes its logits",
    ),
    "T5": (
        "T5Config", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, ["q"], "cannot be loaded",
    ),
    "wildcards": ("LlamaConfig", GROUPED, ["*_proj"], r"LlamaForCausalLM has no module '\*_proj'; usual for llama is"),
    "a block": ("LlamaConfig", GROUPED, ["self_attn"], "PEFT cannot adapt them: Target module LlamaAttention"),
    "experts": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}, ["experts"], "PEFT cannot adapt them: Target"),
    "a fused projection": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}, ["w1"], "has no module 'w1'"),
}  # fmt: skip
KEYS = {"grounding": "trie", "num_beams": 20, "prompt_instruction": "Next?", "max_history_titles": 3}


@pytest.fixture
def saved(checkpoint, ten, tmp_path):
    """``saved(kind, keys, targets)``: configuration with a saved random model as ``llm_path``."""

    def make(kind, keys, targets, **others):
        folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
        config = getattr(transformers, kind)(**{"vocab_size": VOCABULARY, **SPECIAL, **keys})
        auto = transformers.AutoModelForSeq2SeqLM if kind == "T5Config" else transformers.AutoModelForCausalLM
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = auto.from_config(config)
        for parameter in model.parameters():
            parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
        model.save_pretrained(folder)
        return ten(llm_path=str(folder), lora_target_modules=targets, **KEYS, **others)

    return make


def alone(network, tokens):
    """Logits of a row by itself."""
    with torch.no_grad():
        return network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def likelihood(model, prompt, response):
    logits = alone(model.network, [*prompt, *response])[len(prompt) - 1 : -1].log_softmax(-1)
    return logits[range(len(response)), response].sum().item()


def efforts(model, samples):
    """Norm of each sample's gradient, by a row and a backward pass of its own."""
    parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    for row in range(len(samples)):
        (prompt,), response = (
            model.encoder.prompts([samples.history(row)]),
            model.encoder.response(samples.item_id[row]),
        )
        logits = model.network(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(response))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        yield sum(float(each.square().sum()) for each in gradients if each is not None) ** 0.5


@pytest.mark.parametrize("name", RIGHT)
def test_a_model_that_passes_is_right_end_to_end(name, saved, randomise_adapter, tmp_path, caplog):
    kind, keys, targets, way = RIGHT[name]
    config = saved(kind, keys, targets)
    caplog.set_level(logging.INFO)
    BIGRec.check(config)
    said = {"copied": "each beam has a copy of the prompt's", "recomputed": "beam is recomputed", "shared": ""}[way]
    assert said in caplog.text and (said or "beams" not in caplog.text)
    splits = load_splits(config)
    model = BIGRec(config, splits.train).eval()
    randomise_adapter(model.network)
    samples = CandidateSamples.from_dataset(splits.valid)[[0, 1, 2]]
    scores = model.full_sort_predict(samples.interaction(config, np.arange(3)))
    prompts = model.encoder.prompts([samples.history(row) for row in range(3)])
    assert len({len(prompt) for prompt in prompts}) > 1
    expected = [
        [likelihood(model, prompt, model.encoder.response(item)) for item in range(1, model.n_items)]
        for prompt in prompts
    ]
    torch.testing.assert_close(scores[:, 1:], torch.tensor(expected), atol=2e-3, rtol=1e-4)
    np.testing.assert_allclose(EffortScorer(model, config).score(samples), [*efforts(model, samples)], rtol=1e-3)
    titles = model.encoder.titles
    assert model.item_embeddings.isfinite().all()
    assert model.item_embeddings.double().round(decimals=3).unique(dim=0).shape[0] == len(set(titles))
    torch.testing.assert_close(model.embed_titles(titles[3:4]), model.item_embeddings[3:4], atol=1e-4, rtol=1e-4)
    model.save(tmp_path / "adapter")
    restored = BIGRec.restored(config, splits.train, tmp_path / "adapter").eval()
    torch.testing.assert_close(alone(restored.network, prompts[0]), alone(model.network, prompts[0]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_do_what_is_asked_is_refused_at_the_start(name, saved):
    kind, keys, targets, message = REFUSED[name]
    config = saved(kind, keys, targets)
    with pytest.raises(InputError, match=message) as raised:
        BIGRec.check(config)
    assert "\n" not in str(raised.value)
