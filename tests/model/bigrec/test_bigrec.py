import tracemalloc

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from recbole_dealrec.data import CandidateSamples, PromptTemplate, QueryDataLoader, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec import bigrec as bigrec_module
from recbole_dealrec.model.bigrec.bigrec import BIGRec, needed_tokens

KINDS = ["llama", "qwen2", "mistral", "gpt2"]


def queries(model, splits):
    interaction, *_ = next(iter(QueryDataLoader(model.config, splits.test)))
    return interaction


def log_likelihood(model, prompt, response):
    """Teacher forcing, one title at a time."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model.network(input_ids=ids).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return float(logits[places, ids[0, len(prompt) :]].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_trie_scores_are_the_titles_log_likelihoods(bigrec, randomise_adapter, kind):
    model, splits = bigrec(kind, grounding="trie")
    randomise_adapter(model.network)
    model.eval()
    interaction = queries(model, splits)
    scores = model.full_sort_predict(interaction)
    assert scores.shape == (5, 11)
    for row, prompt in enumerate(model.encoder.prompts(model._histories(interaction))):
        expected = [log_likelihood(model, prompt, model.encoder.response(item)) for item in range(1, 11)]
        np.testing.assert_allclose(scores[row, 1:].numpy(), expected, atol=2e-3)


def test_items_outside_the_beams_rank_below_them_by_distance(bigrec):
    model, splits = bigrec(grounding="trie", num_beams=3)
    model.eval()
    scores = model.full_sort_predict(queries(model, splits))
    for row in scores[:, 1:]:
        named = row[row >= row.sort(descending=True).values[2]]
        assert len(named) in (3, 4)  # two items share a title
        assert row[row < named.min()].max() <= named.min() - 1


def test_embedding_scores_are_distances_of_the_written_title(bigrec):
    model, splits = bigrec(grounding="embedding", max_new_tokens=6)
    model.eval()
    interaction = queries(model, splits)
    scores = model.full_sort_predict(interaction)
    prompts = model.encoder.prompts(model._histories(interaction))
    for row, prompt in enumerate(prompts):
        base = model.network
        written = base.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=20,
            do_sample=False, max_new_tokens=6, length_penalty=0.0, pad_token_id=0, eos_token_id=0,
        )  # fmt: skip
        text = model.tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True)
        query = model.embed_titles([PromptTemplate.title(text)])
        distance = torch.cdist(query, model.item_embeddings)[0]
        expected = -(distance - distance.min()) / (distance.max() - distance.min())
        torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=1e-4)


def test_what_is_written_is_grounded_to_the_title_with_the_same_quotes(
    write_dataset, make_config, checkpoint, monkeypatch
):
    titles = {"i1": "Pizza Pan 12", "i2": 'Pizza Pan 12"', "i3": '"Pizza Pan 12"', "i4": "Pan"}
    path = write_dataset("pans", {user: ["i1", "i2", "i3", "i4"] for user in "uv"}, titles)
    config = make_config("pans", path, llm_path=checkpoint("llama"), grounding="embedding", topk=[1])
    dataset = load_splits(config).train
    model = BIGRec(config, dataset).eval()
    prompt = torch.tensor(model.encoder.prompts([np.array([1])]))
    for item in range(1, 5):
        written = torch.tensor([[model.encoder.response(item)]])
        monkeypatch.setattr(model, "_generate", lambda *_args, written=written, **_keys: (written, None))
        assert model._score_by_embedding(prompt, torch.ones_like(prompt))[0, 1:].argmax() + 1 == item


@pytest.mark.parametrize("grounding", ["trie", "embedding"])
def test_items_of_one_title_are_neighbours_in_every_ranking(bigrec, grounding):
    model, splits = bigrec(grounding=grounding, max_new_tokens=4, num_beams=5)
    scores = model.eval().full_sort_predict(queries(model, splits))
    tokens = splits.train.field2token_id["item_id"]
    first, second = tokens["i5"], tokens["i6"]  # i5 is in the training part, i6 is not
    for k in range(1, 12):
        for row in scores.topk(k).indices.tolist():
            assert second not in row or row.index(second) == row.index(first) + 1


def test_item_embeddings_ignore_the_adapter_and_are_the_last_hidden_state(bigrec, randomise_adapter, checkpoint):
    model, splits = bigrec()
    randomise_adapter(model.network)
    base = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).eval()
    for item in range(1, 11):
        ids = torch.tensor([model.tokenizer(splits.train.titles[item])["input_ids"]])
        expected = base(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(model.item_embeddings[item], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grounding", ["trie", "embedding"])
def test_scores_do_not_depend_on_the_batch_or_its_order(bigrec, grounding):
    model, splits = bigrec(grounding=grounding, max_new_tokens=5)
    model.eval()
    interaction = queries(model, splits)
    together = model.full_sort_predict(interaction)
    alone = torch.cat([model.full_sort_predict(interaction[torch.tensor([row])]) for row in range(len(interaction))])
    backwards = model.full_sort_predict(interaction[torch.arange(len(interaction) - 1, -1, -1)]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(together, backwards, atol=1e-3, rtol=1e-3)


def test_the_target_is_not_read(bigrec):
    model, splits = bigrec(grounding="trie")
    model.eval()
    interaction = queries(model, splits)
    assert "item_id" not in interaction
    scores = model.full_sort_predict(interaction)
    interaction.interaction["item_id"] = torch.full((len(interaction),), 3)
    torch.testing.assert_close(model.full_sort_predict(interaction), scores, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_inputs", [False, True])
def test_loss_is_the_mean_of_each_samples_own_loss(bigrec, kind, on_inputs):
    model, splits = bigrec(kind, train_on_inputs=on_inputs)
    model.eval()
    samples = CandidateSamples.from_dataset(splits.train)
    found = model.calculate_loss(samples.interaction(model.config, np.arange(len(samples))))
    losses = []
    for row in range(len(samples)):
        prompt = model.encoder.prompts([samples.history(row)])[0]
        ids = torch.tensor([[*prompt, *model.encoder.response(samples.item_id[row])]])
        labels = ids.clone()
        if not on_inputs:
            labels[:, : len(prompt)] = -100
        losses.append(model.network(input_ids=ids, labels=labels).loss.item())
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)


def many_samples(splits, count):
    """Samples with random histories of random length."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 21, count)
    items = random.integers(1, 11, (count, 20)) * (np.arange(20) < lengths[:, None])
    return CandidateSamples(
        np.ones(count, int), random.integers(1, 11, count), items, lengths, splits.train.titles, np.arange(count)
    )


@pytest.mark.parametrize("window", [7, 4096])
def test_scoring_batches_hold_each_sample_once_under_the_budget(bigrec, monkeypatch, window):
    monkeypatch.setattr(bigrec_module, "_WINDOW", window)
    model, splits = bigrec(tokens_per_batch=400)
    samples = many_samples(splits, 40)
    indices = []
    for index, batch in model.batches(samples):
        indices.extend(index)
        assert batch["input_ids"].numel() <= 400 or len(index) == 1
        for row, ids, mask in zip(index, batch["input_ids"], batch["attention_mask"], strict=True):
            prompt = model.encoder.prompts([samples.history(row)])[0]
            assert ids[mask.bool()].tolist() == [*prompt, *model.encoder.response(samples.item_id[row])]
    assert sorted(indices) == list(range(len(samples)))


def test_the_estimate_of_lengths_orders_them(bigrec):
    model, splits = bigrec(max_history_titles=6)
    samples = many_samples(splits, 50)
    prompts = model.encoder.prompts([samples.history(row) for row in range(50)])
    exact = [len(p) + len(model.encoder.response(item)) for p, item in zip(prompts, samples.item_id, strict=True)]
    difference = np.array(exact) - model.encoder.estimated_lengths(samples)
    # The instruction is the same for all; of a title, only the separator's tokens are not counted.
    assert np.ptp(difference) <= 2 * 6


def test_a_target_is_as_long_as_its_response_and_a_history_as_its_titles(bigrec):
    model, splits = bigrec(max_history_titles=3)
    samples = many_samples(splits, 20)
    read, written = model.token_lengths(samples).T
    assert written.tolist() == [len(model.encoder.response(item)) for item in samples.item_id]
    titles = [[samples.title(item) for item in samples.history(row)[-3:]] for row in range(20)]
    texts = [[model.encoder.template.list_titles([title]) for title in row] for row in titles]
    assert read.tolist() == [sum(len(ids) for ids in model.tokenizer(row)["input_ids"]) for row in texts]


def test_memory_of_the_tokens_does_not_grow_with_the_samples(bigrec, monkeypatch):
    monkeypatch.setattr(bigrec_module, "_WINDOW", 100)
    model, splits = bigrec()
    peaks = []
    for count in (400, 400, 1200):
        samples = many_samples(splits, count)
        tracemalloc.start()
        for _index, batch in model.batches(samples):
            tokens = batch["labels"].shape[1]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A list of a sample's tokens takes eight bytes a token; its place in the order and its length do not.
    assert peaks[2] - peaks[1] < 800 * 8 * tokens / 4


def test_a_saved_adapter_loads_here_and_in_peft(bigrec, randomise_adapter, checkpoint, tmp_path):
    model, splits = bigrec(grounding="trie")
    model.eval()
    interaction = queries(model, splits)
    fresh = model.full_sort_predict(interaction)
    randomise_adapter(model.network)
    changed = model.full_sort_predict(interaction)
    assert not torch.allclose(fresh, changed, atol=1e-2)
    model.save(tmp_path / "adapter")
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    again, _ = bigrec(grounding="trie")
    again.eval().load(tmp_path / "adapter")
    torch.testing.assert_close(again.full_sort_predict(interaction), changed, rtol=0, atol=0)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint("llama")), tmp_path / "adapter")
    ids = torch.tensor([model.encoder.prompts([np.array([1, 2])])[0]])
    torch.testing.assert_close(peft.eval()(input_ids=ids).logits, model.network(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("kind", "keys"), [("llama", {"lora_r": 4}), ("llama", {"lora_target_modules": ["q_proj"]}), ("gpt2", {})]
)
def test_an_adapter_of_another_model_is_an_error(bigrec, kind, keys, tmp_path):
    bigrec(kind, **keys)[0].save(tmp_path / "adapter")
    with pytest.raises(InputError, match="adapter: adapter of another model or with another lora_r"):
        bigrec("llama")[0].load(tmp_path / "adapter")


def test_what_is_written_may_be_as_long_as_the_longest_title(bigrec):
    model, splits = bigrec()
    lengths = [len(model.encoder.response(item)) for item in range(1, splits.train.item_num)]
    assert model._max_new_tokens == max(lengths)
    assert bigrec(max_new_tokens=3)[0]._max_new_tokens == 3


def test_a_prompt_that_leaves_no_place_for_a_title_is_refused(bigrec):
    with pytest.raises(InputError, match="reads at most 1024 tokens, and a title has up to .*; lower max_prompt"):
        bigrec("gpt2", max_prompt_length=1022)


def test_few_titles_that_are_far_longer_do_not_set_the_length():
    lengths = np.full(5000, 10)
    lengths[:2] = 20
    assert needed_tokens(lengths) == 20
    lengths[:2] = 400
    assert needed_tokens(lengths) == 10


def test_the_head_reads_states_without_gaps(bigrec):
    model, _ = bigrec()
    seen = []
    model.network.get_output_embeddings().register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    model.embed_titles(["Alpha", "Beta and a longer one"])
    assert [tuple(states.shape[:2]) for states in seen] == [(1, 1)]
    ids = torch.arange(12).view(3, 4)
    model._generate(ids, torch.ones_like(ids), None)
    assert seen[1].shape[:2] == (3, 1) and all(states.is_contiguous() for states in seen)


def test_a_scoring_batch_holds_the_fewer_samples_the_larger_the_vocabulary(bigrec):
    model, splits = bigrec(tokens_per_batch=2000)
    samples = CandidateSamples.from_dataset(splits.train)
    small = [len(rows) for rows, _ in model.batches(samples)]
    model.network.resize_token_embeddings(400_000)
    for _, batch in model.batches(samples):
        labels = int((batch["labels"] >= 0).sum(1).max()) * len(batch["labels"])
        assert len(batch["labels"]) == 1 or batch["input_ids"].numel() + labels * 400_000 / 65_536 <= 2000
    assert sum(small) == len(samples) and max(len(rows) for rows, _ in model.batches(samples)) < max(small)


def test_transformers_draws_no_bar_without_a_terminal(bigrec, monkeypatch):
    drawn, path_of = [], bigrec_module._llm_path

    def watched(*arguments):
        drawn.append(is_progress_bar_enabled())
        return path_of(*arguments)

    monkeypatch.setattr(bigrec_module, "_llm_path", watched)  # where the tiny LLM is built and written
    enable_progress_bar()
    bigrec("llama", show_progress=True)
    assert drawn == [False]
