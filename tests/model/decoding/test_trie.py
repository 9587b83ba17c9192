"""The trie against a set of prefixes; the beam search against scoring every title, and against plain generate."""

import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MistralConfig,
    Qwen2Config,
)

from recbole_dealrec.model.decoding.beam_search import beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie

# generate fills up with the end token if the padding token is 0.
PAD, BOS, EOS, VOCAB = 3, 1, 2, 40
SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4, **SPECIAL,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, window": MistralConfig(**SHAPE, sliding_window=6),
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.4, **SPECIAL
    ),
}
# A title that begins another one, two equal ones, and a common beginning.
TITLES = [
    [5, 6, EOS], [5, 6, 7, EOS], [8, EOS], [5, 9, 9, 9, EOS], [8, EOS], [10, 11, 12, EOS], [10, 11, 13, 5, EOS], [EOS],
]  # fmt: skip
LENGTHS = (3, 9, 6)


def save_and_load(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    return {
        name: save_and_load(AutoModelForCausalLM.from_config(config), tmp_path_factory.mktemp("model"))
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def adapted(models, tmp_path_factory):
    torch.manual_seed(1)
    folder, base = tmp_path_factory.mktemp("llama"), models["llama"]
    base.save_pretrained(folder)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapter = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora).save_pretrained(adapter)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter).eval()


@pytest.fixture
def prompts():
    random = np.random.default_rng(0)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in zip(ids, LENGTHS, strict=True):
        row[-length:] = torch.from_numpy(random.integers(4, VOCAB, length))
    return ids, (ids != PAD).long()


def search(model, prompts, num_beams, trie=None, max_new_tokens=5):
    return beam_search(
        model, *prompts, num_beams=num_beams, max_new_tokens=max_new_tokens,
        eos_token_id=EOS, pad_token_id=PAD, trie=trie,
    )  # fmt: skip


def text(tokens):
    """Tokens up to the end token; everything behind it has to be padding."""
    tokens = tokens.tolist()
    end = tokens.index(EOS) + 1 if EOS in tokens else len(tokens)
    assert set(tokens[end:]) <= {PAD}
    return tuple(tokens[:end])


@torch.no_grad()
def score(model, prompt, title):
    """Summed log-likelihood of a title behind an unpadded prompt, by teacher forcing."""
    ids = torch.cat([prompt, torch.tensor(title)]).unsqueeze(0)
    log_probabilities = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return log_probabilities[range(len(title)), title].sum().item()


def ranking(model, prompts, titles):
    """Distinct titles with their scores for every prompt, best first."""
    for ids, mask in zip(*prompts, strict=True):
        scores = {tuple(title): score(model, ids[mask.bool()], title) for title in titles}
        yield sorted(scores.items(), key=lambda item: -item[1])


def random_titles(count, seed=0):
    random = np.random.default_rng(seed)
    return [[*random.integers(4, 10, random.integers(1, 5)).tolist(), EOS] for _ in range(count)]


def allowed(trie, nodes):
    tokens, _, exists = trie.successors(nodes)
    mask = torch.zeros(len(nodes), trie.vocab_size, dtype=torch.bool)
    mask[exists.nonzero()[:, 0], tokens[exists]] = True
    return mask


class Confined(LogitsProcessor):
    """Confines generate of transformers to a trie."""

    def __init__(self, trie, prompt_length):
        self.trie, self.prompt_length = trie, prompt_length

    def __call__(self, input_ids, scores):
        nodes = torch.full_like(input_ids[:, 0], self.trie.root)
        for tokens in input_ids[:, self.prompt_length :].unbind(1):
            nodes = self.trie.step(nodes, tokens)
        mask = allowed(self.trie, nodes)
        mask[~mask.any(1), PAD] = True  # a row of nothing but -inf would be NaN once normalised
        return scores.masked_fill(~mask, -torch.inf)


def plain_generate(model, prompts, num_beams, trie=None, max_new_tokens=5):
    ids, mask = prompts
    config = GenerationConfig(
        num_beams=num_beams, num_return_sequences=num_beams, length_penalty=0.0, early_stopping=False, do_sample=False,
        max_new_tokens=max_new_tokens, return_dict_in_generate=True, output_scores=True, **SPECIAL,
    )  # fmt: skip
    confine = [Confined(trie, ids.shape[1])] if trie else []
    output = model.generate(
        ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList(confine)
    )
    shape = len(ids), num_beams, -1
    return output.sequences[:, ids.shape[1] :].view(shape), output.sequences_scores.view(shape[:2])


def test_trie_agrees_with_the_set_of_prefixes():
    titles = random_titles(60) + TITLES
    trie = TokenTrie(titles, VOCAB)
    prefixes = {tuple(title[:end]) for title in titles for end in range(len(title) + 1)}
    for prefix in prefixes:
        node = torch.tensor([trie.root])
        for token in prefix:
            node = trie.step(node, torch.tensor([token]))
        onwards = [token for token in range(VOCAB) if (*prefix, token) in prefixes]
        assert allowed(trie, node)[0].nonzero().flatten().tolist() == onwards
        unknown = torch.tensor([token for token in range(-VOCAB, 2 * VOCAB) if token not in onwards])
        assert (trie.step(node.expand_as(unknown), unknown) == trie.dead).all()
        assert trie.leaf(node).item() == (titles.index(list(prefix)) if list(prefix) in titles else -1)


def test_nothing_leads_out_of_the_dead_state():
    trie = TokenTrie(TITLES, VOCAB)
    dead = torch.full((VOCAB,), trie.dead)
    assert (trie.step(dead, torch.arange(VOCAB)) == trie.dead).all()
    assert not allowed(trie, dead).any()
    assert (trie.leaf(dead) == -1).all()


def test_trie_takes_nodes_of_different_depths_at_once():
    trie = TokenTrie(TITLES, VOCAB)
    five = trie.step(torch.tensor([trie.root]), torch.tensor([5])).item()
    nodes = torch.tensor([trie.root, five, trie.dead, five])
    found = [row.nonzero().flatten().tolist() for row in allowed(trie, nodes)]
    assert found == [[EOS, 5, 8, 10], [6, 9], [], [6, 9]]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one sequence"),
        ([[5, EOS], []], "at least its end token"),
        ([[5, EOS], [5, 6, 7]], "same token"),
        ([[5, EOS, 6, EOS], [7, EOS]], "nowhere else"),
        ([[VOCAB, EOS]], r"\[0, 40\)"),
        ([[-1, EOS]], r"\[0, 40\)"),
    ],
)
def test_trie_refuses_what_is_no_title(sequences, message):
    with pytest.raises(ValueError, match=message):
        TokenTrie(sequences, VOCAB)


def test_sequences_of_one_length_need_no_end_token():
    trie = TokenTrie([[5, 6, 7], [5, 6, 8], [9, 6, 7]], VOCAB)
    assert trie.end_token is None and trie.depth == 3
    nodes = torch.full((3,), trie.root)
    for tokens in torch.tensor([[5, 5, 9], [6, 6, 6], [7, 8, 7]]):
        nodes = trie.step(nodes, tokens)
    assert trie.leaf(nodes).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", CONFIGS)
def test_beam_search_ranks_all_titles_as_scoring_each_does(models, prompts, name):
    distinct = len({*map(tuple, TITLES)})
    sequences, scores = search(models[name], prompts, distinct, TokenTrie(TITLES, VOCAB))
    for found, found_scores, expected in zip(sequences, scores, ranking(models[name], prompts, TITLES), strict=True):
        assert [text(tokens) for tokens in found] == [title for title, _ in expected]
        np.testing.assert_allclose(found_scores, [value for _, value in expected], atol=1e-4)


def test_beam_search_ranks_all_titles_by_an_adapted_model(adapted, models, prompts):
    sequences, scores = search(adapted, prompts, 7, TokenTrie(TITLES, VOCAB))
    for found, found_scores, expected in zip(sequences, scores, ranking(adapted, prompts, TITLES), strict=True):
        assert [text(tokens) for tokens in found] == [title for title, _ in expected]
        np.testing.assert_allclose(found_scores, [value for _, value in expected], atol=1e-4)
    assert not torch.allclose(scores, search(models["llama"], prompts, 7, TokenTrie(TITLES, VOCAB))[1], atol=0.1)


@pytest.mark.parametrize("confined", [True, False], ids=["trie", "free"])
@pytest.mark.parametrize("num_beams", [2, 7])
@pytest.mark.parametrize("name", CONFIGS)
def test_beam_search_finds_what_plain_generate_finds(models, prompts, name, num_beams, confined):
    trie = TokenTrie(random_titles(200), VOCAB) if confined else None
    sequences, scores = search(models[name], prompts, num_beams, trie)
    expected, expected_scores = plain_generate(models[name], prompts, num_beams, trie)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    assert [[text(tokens) for tokens in row] for row in sequences] == [
        [text(tokens) for tokens in row] for row in expected
    ]


def test_adapted_model_finds_what_its_plain_generate_finds(adapted, prompts):
    trie = TokenTrie(random_titles(200), VOCAB)
    sequences, scores = search(adapted, prompts, 4, trie)
    expected, expected_scores = plain_generate(adapted, prompts, 4, trie)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    assert [text(tokens) for tokens in sequences.flatten(0, 1)] == [text(tokens) for tokens in expected.flatten(0, 1)]


def test_eager_attention_gives_the_same(models, prompts):
    trie, model = TokenTrie(TITLES, VOCAB), models["llama"]
    expected, expected_scores = search(model, prompts, 5, trie)
    model.set_attn_implementation("eager")
    try:
        sequences, scores = search(model, prompts, 5, trie)
    finally:
        model.set_attn_implementation("sdpa")
    assert torch.equal(sequences, expected)
    torch.testing.assert_close(scores, expected_scores)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_and_neighbours_change_nothing(models, prompts, name):
    trie = TokenTrie(random_titles(200), VOCAB)
    sequences, scores = search(models[name], prompts, 4, trie)
    for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
        alone = ids[mask.bool()].unsqueeze(0)
        expected, expected_scores = search(models[name], (alone, torch.ones_like(alone)), 4, trie)
        assert [text(tokens) for tokens in sequences[row]] == [text(tokens) for tokens in expected[0]]
        torch.testing.assert_close(scores[row], expected_scores[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mistral, window"])
@pytest.mark.parametrize("titles", [[[EOS]], [[5, 6, EOS], [5, 6, EOS]], TITLES])
def test_beams_without_a_title_are_padding_and_score_minus_infinity(models, prompts, name, titles):
    distinct = len({*map(tuple, titles)})
    sequences, scores = search(models[name], prompts, 12, TokenTrie(titles, VOCAB))
    assert sequences.dtype == torch.int64 and sequences.shape[:2] == (3, 12)
    assert scores.dtype == torch.float32 and scores.shape == (3, 12)
    assert scores[:, :distinct].isfinite().all() and scores[:, distinct:].isneginf().all()
    assert (sequences[:, distinct:] == PAD).all()
    for found in sequences:
        assert {text(tokens) for tokens in found[:distinct]} == {*map(tuple, titles)}


def test_titles_longer_than_allowed_are_not_found(models, prompts):
    sequences, scores = search(models["llama"], prompts, 7, TokenTrie(TITLES, VOCAB), max_new_tokens=3)
    short = {tuple(title) for title in TITLES if len(title) <= 3}
    assert sequences.shape[-1] <= 3
    for found, found_scores in zip(sequences, scores, strict=True):
        assert {text(tokens) for tokens in found[found_scores.isfinite()]} == short


def test_more_beams_than_tokens(models, prompts):
    sequences, scores = search(models["llama"], prompts, VOCAB + 5, max_new_tokens=1)
    assert scores[:, :VOCAB].isfinite().all() and scores[:, VOCAB:].isneginf().all()
    torch.testing.assert_close(scores[:, :VOCAB].exp().sum(1), torch.ones(3))
    assert sequences[0, :VOCAB, 0].sort().values.tolist() == list(range(VOCAB))


def decoded(model, prompts, *args):
    """Shapes of what the model computes in a search."""
    computed = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    search(model, prompts, *args)
    handle.remove()
    return computed


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, window"])
def test_prompt_is_computed_once_per_query_and_no_beam_that_is_none(models, prompts, name):
    beginnings = [{tuple(title[:length]) for title in TITLES if len(title) > length} for length in range(1, 5)]
    widths = [len(distinct) for distinct in beginnings]
    assert widths == [3, 3, 4, 2]
    steps = [(3 * width, 1) if name == "mistral, window" else (3, width) for width in widths]
    assert decoded(models[name], prompts, 12, TokenTrie(TITLES, VOCAB)) == [(3, 9), *steps]


def test_beams_below_the_worst_finished_one_are_not_computed(models, prompts):
    trie = TokenTrie(random_titles(200), VOCAB)
    _, *steps = decoded(models["llama"], prompts, 4, trie)
    assert steps[0] == (3, 4) and steps[-1][1] < 4


def test_generation_settings_of_the_checkpoint_do_not_matter(models, prompts, tmp_path):
    model = save_and_load(models["llama"], tmp_path / "plain")
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.3, top_k=3, repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=4,
        **SPECIAL,
    )  # fmt: skip
    model = save_and_load(model, tmp_path / "settings")
    assert model.generation_config.repetition_penalty == 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = search(model, prompts, 4, TokenTrie(TITLES, VOCAB))
    for ours, expected in zip(found, search(models["llama"], prompts, 4, TokenTrie(TITLES, VOCAB)), strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_beam_is_greedy(models, prompts):
    ids, mask = prompts
    config = GenerationConfig(do_sample=False, max_new_tokens=5, **SPECIAL)
    greedy = models["llama"].generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
    sequences, _ = search(models["llama"], prompts, 1)
    assert [text(tokens) for tokens in sequences[:, 0]] == [text(tokens) for tokens in greedy]


def test_weights_need_no_gradient_afterwards(models, prompts):
    assert not search(models["llama"], prompts, 2)[1].requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_beams": 0}, "num_beams"), ({"num_beams": 2, "max_new_tokens": 0}, "max_new_tokens")],
)
def test_beam_search_refuses_empty_searches(models, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        search(models["llama"], prompts, **options)


def test_beam_search_refuses_a_trie_with_another_end(models, prompts):
    with pytest.raises(ValueError, match="end with token 7, not with 2"):
        search(models["llama"], prompts, 2, TokenTrie([[5, 7]], VOCAB))
