"""The tiny LLM: what it has learned against the popularities, its tokenizer, its files."""

import logging
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from recbole_dealrec.data import PromptTemplate
from recbole_dealrec.model.bigrec import tiny_llama
from recbole_dealrec.model.bigrec.tiny_llama import (
    build_tiny_llm,
    draw_documents,
    encode,
    title_probabilities,
)

quote_titles = PromptTemplate.list_titles
TITLES = [
    "Alien (1979)",
    "Aliens (1986)",
    'The "Burbs", or: so',
    "映画 🎬",
    "Zoë's été",
    "alien",
    "Brazil (1985)",
    "Ran",
]
POPULARITY = [40, 20, 10, 10, 8, 6, 4, 2]
SMALL = {"hidden_size": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 400, "batch_size": 8, "show_progress": False}


def build(folder, titles=TITLES, popularity=POPULARITY, **options):
    build_tiny_llm(folder, titles, popularity, **{**SMALL, "steps": 3, "max_length": 48, "seed": 0, **options})
    return folder


def load(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm") / "trained"
    return load(build(folder, steps=300, batch_size=16, hidden_size=64, max_length=96, learning_rate=5e-3))


@torch.no_grad()
def loss_per_document(tokenizer, model, documents):
    """Mean over documents of the summed negative log-likelihood, each document computed alone."""
    losses = []
    for document in documents:
        ids = torch.tensor([tokenizer(document)["input_ids"] + [tokenizer.eos_token_id]])
        losses.append(model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1))
    return np.mean(losses)


def test_loss_comes_close_to_the_entropy_of_the_popularities(trained):
    probabilities = title_probabilities(POPULARITY)
    entropy = -(probabilities * np.log(probabilities)).sum()
    documents = next(draw_documents(TITLES, probabilities, quote_titles, (200, 6), seed=5))
    assert loss_per_document(*trained, documents) / 6 == pytest.approx(entropy, abs=0.15)


def test_titles_are_as_likely_as_they_are_popular(trained):
    contexts = next(draw_documents(TITLES, title_probabilities(POPULARITY), quote_titles, (20, 5), seed=6))
    losses = [loss_per_document(*trained, [f'{text}, "{title}"' for text in contexts]) for title in TITLES]
    likelihoods = np.exp(np.min(losses) - losses)
    np.testing.assert_allclose(likelihoods / likelihoods.sum(), title_probabilities(POPULARITY), atol=0.06)


def test_it_writes_titles_of_the_catalogue(trained):
    tokenizer, model = trained
    start = tokenizer(['"'] * 100, return_tensors="pt")
    torch.manual_seed(0)
    ids = model.generate(**start, do_sample=True, top_k=0, max_new_tokens=12, pad_token_id=tokenizer.pad_token_id)
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    known = [any(text.startswith(f'"{title}"') for title in TITLES) for text in written]
    assert np.mean(known) > 0.9


def test_same_arguments_give_the_same_files(tmp_path):
    first = build(tmp_path / "a", seed=1)
    torch.manual_seed(99)
    second, other = build(tmp_path / "b", seed=1), build(tmp_path / "c", seed=2)
    files = sorted(file.name for file in first.iterdir())
    assert "model.safetensors" in files and "tokenizer.json" in files
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_training_moves_the_weights_and_leaves_global_random_states(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)
    build(tmp_path / "none", steps=0)
    build(tmp_path / "some", steps=2)
    drawn = torch.rand(3), np.random.rand(3)
    torch.manual_seed(3)
    np.random.seed(3)
    assert torch.equal(drawn[0], torch.rand(3)) and np.array_equal(drawn[1], np.random.rand(3))
    before, after = (load(tmp_path / name)[1].state_dict() for name in ("none", "some"))
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items())


def test_model_and_tokenizer_agree(trained):
    tokenizer, model = trained
    assert model.config.vocab_size == len(tokenizer) <= 400
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
    )  # fmt: skip
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.dtype == torch.float32
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 96


@pytest.mark.parametrize(
    "text", [*TITLES, "", "  two  blanks , x \n\t", "nul\0 and \x7f", "한국어 اللغة ‮", "a" * 500, '"']
)
def test_loaded_tokenizer_keeps_every_text(trained, text):
    tokenizer, _ = trained
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_pads_on_the_left(trained):
    tokenizer, _ = trained
    batch = tokenizer(["Ran", quote_titles(TITLES)], padding=True)
    assert batch["input_ids"][0][0] == tokenizer.pad_token_id and batch["attention_mask"][0][0] == 0
    assert batch["input_ids"][0][-1] != tokenizer.pad_token_id


def test_training_sees_the_tokens_of_inference(trained):
    tokenizer, _ = trained
    documents = [quote_titles(TITLES[:3]), "", 'Prompt > "Ran"', "x" * 300]
    input_ids, labels = encode(tokenizer, documents)
    for document, row, targets in zip(documents, input_ids.tolist(), labels.tolist(), strict=True):
        expected = (tokenizer(document)["input_ids"] + [tokenizer.eos_token_id])[:96]
        missing = input_ids.shape[1] - len(expected)
        assert row == expected + [tokenizer.pad_token_id] * missing
        assert targets == expected + [-100] * missing


def test_padding_does_not_change_the_loss(trained):
    tokenizer, model = trained
    documents = [quote_titles(TITLES[:4]), "Ran", quote_titles(TITLES[3:5])]
    input_ids, labels = encode(tokenizer, documents)
    with torch.no_grad():
        loss = model(input_ids=input_ids, labels=labels).loss.item()
    tokens = (labels[:, 1:] != -100).sum().item()
    assert loss * tokens / 3 == pytest.approx(loss_per_document(tokenizer, model, documents), rel=1e-4)


def test_documents_are_drawn_by_popularity():
    probabilities = title_probabilities([6, 3, 0, 1])
    documents = draw_documents(list("abcd"), probabilities, "".join, (100, 40), seed=1)
    drawn = "".join("".join(next(documents)) for _ in range(5))
    counts = np.array([drawn.count(title) for title in "abcd"])
    expected = 20_000 * probabilities
    assert counts.sum() == 20_000
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert counts[2] > 0


def test_seed_decides_on_the_documents():
    first, second, other = (
        next(draw_documents(TITLES, title_probabilities(POPULARITY), quote_titles, (9, 4), seed)) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_probabilities_follow_popularity_on_any_scale():
    probabilities = title_probabilities([6, 3, 0, 1])
    np.testing.assert_allclose(probabilities, [0.6, 0.3, 0.0, 0.1], atol=0.01)
    np.testing.assert_allclose(probabilities.sum(), 1)
    np.testing.assert_allclose(title_probabilities([6e-5, 3e-5, 0, 1e-5]), probabilities)
    np.testing.assert_allclose(title_probabilities([0, 0]), [0.5, 0.5])


@pytest.mark.parametrize(
    "titles",
    [["only"], [""], ["", "", "same", "same"], ["long " * 5000, "short"]],
    ids=["one", "empty", "same", "long"],
)
def test_unusual_catalogues(tmp_path, titles):
    tokenizer, model = load(build(tmp_path / "llm", titles, [1] * len(titles)))
    ids, labels = encode(tokenizer, [quote_titles(titles)])
    assert ids.shape[1] <= 48
    assert math.isfinite(model(input_ids=ids, labels=labels).loss.item())


def test_documents_are_rendered_as_asked(tmp_path):
    seen = []

    def render(titles):
        seen.append(list(titles))
        return " / ".join(titles)

    build(tmp_path / "llm", render=render, titles_per_document=3, steps=2, batch_size=4)
    assert [len(titles) for titles in seen] == [3, 3, 2] + [3] * 8
    assert {title for titles in seen for title in titles} == set(TITLES)


def test_final_loss_is_logged_and_no_bar_is_drawn_without_a_terminal(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO):
        build(tmp_path / "llm", steps=4)
    assert any(
        "loss per token" in record.getMessage() and "4 steps" in record.getMessage() for record in caplog.records
    )
    build(tmp_path / "shown", show_progress=True)
    assert "pre-training" not in capfd.readouterr().err


def test_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "llm").mkdir()
    with pytest.raises(FileExistsError, match="llm exists already"):
        build(tmp_path / "llm")
    assert not list((tmp_path / "llm").iterdir())


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        build(tmp_path / "models" / "llm")
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    ("titles", "popularity", "message"),
    [
        ([], [], "at least one number"),
        (["a", "b"], [1], "2 titles, but 1 popularities"),
        (["a"], [-1], "at least 0"),
        (["a"], [math.nan], "finite"),
    ],
)
def test_popularity_has_to_fit(tmp_path, titles, popularity, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "llm", titles, popularity)
    assert not list(tmp_path.iterdir())


def test_default_size_is_between_half_and_three_million_weights(tmp_path, monkeypatch):
    texts = [f"{word:x} {word * word:x}" for word in range(20_000)]
    tokenizer = tiny_llama.train_tokenizer(texts, 4096, 64)
    assert len(tokenizer) == 4096
    defaults = build_tiny_llm.__kwdefaults__
    sizes = (defaults[name] for name in ("hidden_size", "n_layers", "n_heads"))
    model = tiny_llama.create_model(tokenizer, *sizes, seed=0)
    assert 0.5e6 < model.num_parameters() < 3e6
