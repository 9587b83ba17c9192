import importlib.util
import json

import numpy as np
import pytest
import torch
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_dealrec.errors import InputError
from recbole_dealrec.model.tiger.text_embedding import check_text_encoder, embed_texts, tfidf_embeddings

TEXTS = ["Alpha", '"Beta" Returns', "Delta, The", "Alpha", "???", "Theta: Part 2"]


@pytest.fixture
def encoder(checkpoint, tmp_path):
    """``encoder(kind)``: folder of a small random text encoder, and the encoder itself."""

    def make(kind="bert"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint("llama"))
        shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
        torch.manual_seed(0)
        few = {"max_position_embeddings": 8, "intermediate_size": 24}
        if kind == "bert":
            model = transformers.BertModel(transformers.BertConfig(**shape, intermediate_size=24))
        elif kind == "short bert":
            model = transformers.BertModel(transformers.BertConfig(**shape, **few))
        elif kind == "short roberta":
            model = transformers.RobertaModel(transformers.RobertaConfig(**shape, **few, pad_token_id=1))
        else:
            model = transformers.T5Model(transformers.T5Config(**shape, d_kv=8, d_ff=24))
        model.save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        return str(tmp_path / kind), tokenizer, model.eval()

    return make


def similarities(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def test_few_words_are_their_tfidf(ten):
    embeddings = embed_texts(TEXTS, ten(model="TIGER"))
    distinct = sorted(set(TEXTS))
    expected = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+").fit(distinct).transform(TEXTS).toarray()
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5)
    np.testing.assert_array_equal(embeddings[0], embeddings[3])


def test_many_words_are_reduced_to_the_leading_singular_vectors():
    random = np.random.default_rng(0)
    topics = [[f"word{topic}x{number}" for number in range(6)] for topic in range(8)]
    texts = [" ".join(random.choice(topics[row % 8], 4)) for row in range(120)]
    found = tfidf_embeddings(texts, seed=0, dimensions=8)
    vectors = TfidfVectorizer().fit_transform(texts).toarray()
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    assert found.shape == (120, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(similarities(found), similarities(left[:, :8] * values[:8]), atol=1e-2)
    np.testing.assert_array_equal(found, tfidf_embeddings(texts, seed=0, dimensions=8))


@pytest.mark.parametrize("texts", [["?"], ["Twin", "Twin"], ["A b", "c D", "e"]])
def test_small_catalogues(texts):
    for dimensions in (1, 128):
        embeddings = tfidf_embeddings(texts, seed=0, dimensions=dimensions)
        assert len(embeddings) == len(texts) and np.isfinite(embeddings).all()


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_an_encoder_gives_the_mean_of_its_last_hidden_states(encoder, ten, kind):
    folder, tokenizer, model = encoder(kind)
    embeddings = embed_texts(TEXTS, ten(model="TIGER", text_encoder_path=folder, tokens_per_batch=40))
    network = model.get_encoder() if kind == "t5" else model
    for text, found in zip(TEXTS, embeddings, strict=True):
        with torch.no_grad():
            states = network(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(found, states.mean(0).numpy(), atol=1e-5)
    np.testing.assert_array_equal(embeddings[0], embeddings[3])


@pytest.mark.parametrize(("kind", "positions"), [("short bert", 8), ("short roberta", 6)])
def test_a_long_title_is_cut_where_the_encoder_ends(encoder, ten, kind, positions, caplog):
    folder, tokenizer, model = encoder(kind)
    long = "Alpha Beta Gamma Delta Epsilon Zeta"
    found = embed_texts(["Alpha", long], ten(model="TIGER", text_encoder_path=folder))
    ids = tokenizer(long)["input_ids"]
    assert len(ids) > 8 and f"the encoder reads {positions} tokens" in caplog.text
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids[:positions]])).last_hidden_state[0]
    np.testing.assert_allclose(found[1], states.mean(0).numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_of_sentence_transformers_is_pooled_as_it_says(encoder, ten, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder, tokenizer, model = encoder()
    modules = importlib.import_module("sentence_transformers.models")
    layers = [modules.Transformer(folder), modules.Pooling(16, pooling_mode="max")]
    layers[0].tokenizer.pad_token = layers[0].tokenizer.eos_token
    library.SentenceTransformer(modules=layers).save(str(tmp_path / "sentence"))
    path = str(tmp_path / "sentence")
    check_text_encoder(path)
    texts = [*TEXTS, "Alpha " * 600]
    embeddings = embed_texts(texts, ten(model="TIGER", text_encoder_path=path))
    for text, found in zip(texts, embeddings, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([tokenizer(text)["input_ids"][:512]])).last_hidden_state[0]
        np.testing.assert_allclose(found, states.amax(0).numpy(), atol=1e-5)


def test_a_folder_of_sentence_transformers_without_the_library_names_the_extra(encoder, monkeypatch, tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([]), encoding="utf-8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs pip install -e "\.\[text\]"'):
        check_text_encoder(str(tmp_path))


@pytest.mark.parametrize("path", ["no/such/folder", "empty"])
def test_an_unusable_encoder_is_an_error_in_one_line(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"^text_encoder_path '{path}': ") as raised:
        check_text_encoder(path)
    assert "\n" not in str(raised.value)


def test_weights_in_pickle_are_refused(encoder, ten, tmp_path):
    folder, _, model = encoder()
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(InputError, match="text_encoder_path"):
        check_text_encoder(folder)
    with pytest.raises(InputError, match="text_encoder_path"):
        embed_texts(TEXTS, ten(model="TIGER", text_encoder_path=folder))
