"""Embeddings of the items' texts, from which semantic IDs are computed."""

import importlib.util
from bisect import bisect_left
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from recbole_dealrec.config import Config
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.checkpoint import LOAD_ERRORS, load_error, model_without_weights
from recbole_dealrec.store.console import progress_bar, shows_bars

TFIDF = "tfidf"
# Real titles are shorter; the limit bounds the cost of other texts.
_MAX_TOKENS = 512


def check_text_encoder(path: str) -> None:
    """Raise InputError if ``text_encoder_path`` is not a folder with an encoder and a tokenizer that can be loaded."""
    if path == TFIDF:
        return
    if not Path(path).is_dir():
        raise InputError(f"text_encoder_path '{path}': no such folder; use another, or {TFIDF}, which needs none")
    if _is_sentence_transformer(path):
        if importlib.util.find_spec("sentence_transformers") is None:
            hint = 'pip install -e ".[text]" in the checkout'
            raise InputError(f"text_encoder_path '{path}': a folder of sentence-transformers needs {hint}")
        return
    model_without_weights("text_encoder_path", path, AutoModel.from_pretrained, use_safetensors=True)
    _load_tokenizer(path)


def embed_texts(texts: Sequence[str], config: Config) -> np.ndarray:
    """Return the embedding of each text, float32 [n, d]; equal texts have equal embeddings.

    Args:
        texts: at least one.
        config: reads ``text_encoder_path``: ``tfidf`` or a folder. A folder with ``modules.json`` is loaded and pooled
            by sentence-transformers; for other Hugging Face encoders, the last hidden states are averaged.

    Raises:
        InputError: the encoder cannot be loaded.
    """
    path = config["text_encoder_path"]
    # Each text once, because its embedding may differ by rounding between batches.
    distinct, text_rows = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    if path == TFIDF:
        embeddings = tfidf_embeddings(distinct, config["seed"])
    elif _is_sentence_transformer(path):
        embeddings = _sentence_embeddings(distinct, path, config)
    else:
        embeddings = _mean_embeddings(distinct, path, config)
    return embeddings[text_rows]


def tfidf_embeddings(texts: Sequence[str], seed: int, dimensions: int = 128) -> np.ndarray:
    """Return TF-IDF vectors of unit length, reduced to ``dimensions`` by a truncated SVD; float32 [n, d].

    Vectors of titles with rare words are almost 0 after the SVD; without normalisation they would form one cluster.
    """
    # Runs of punctuation count as words, so that no vocabulary is empty.
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", dtype=np.float32)
    vectors = vectorizer.fit_transform(texts)
    if vectors.shape[1] <= dimensions:
        return vectors.toarray()
    reduced = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit_transform(vectors)
    return normalize(reduced).astype(np.float32)


def _is_sentence_transformer(path: str) -> bool:
    return (Path(path) / "modules.json").is_file()


def _sentence_embeddings(texts: Sequence[str], path: str, config: Config) -> np.ndarray:
    from sentence_transformers import SentenceTransformer  # optional, and slow to import

    try:
        model = SentenceTransformer(path, device="cpu", model_kwargs={"use_safetensors": True})
    except LOAD_ERRORS as error:
        raise load_error("text_encoder_path", path, error) from error
    if transformer := getattr(model[0], "auto_model", None):
        longest = model.max_seq_length or _MAX_TOKENS
        model.max_seq_length = _readable_tokens(transformer, model.tokenizer, texts, longest)
    model = model.to(config["device"])
    embeddings = model.encode(list(texts), show_progress_bar=shows_bars(config), convert_to_numpy=True)
    return embeddings.astype(np.float32)


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path)
    except LOAD_ERRORS as error:
        raise load_error("text_encoder_path", path, error) from error


@torch.no_grad()
def _mean_embeddings(texts: Sequence[str], path: str, config: Config) -> np.ndarray:
    tokenizer = _load_tokenizer(path)
    try:
        model = AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except LOAD_ERRORS as error:
        raise load_error("text_encoder_path", path, error) from error
    encoder = (model.get_encoder() if model.config.is_encoder_decoder else model).eval()
    longest = _readable_tokens(encoder, tokenizer, texts, min(tokenizer.model_max_length, _MAX_TOKENS))
    encoder = encoder.to(config["device"])
    ids = _token_ids(tokenizer, texts, longest)
    embeddings = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    batches = token_batches(np.array([len(row) for row in ids]), config["tokens_per_batch"])
    for index in progress_bar(batches, config["show_progress"], desc="text embeddings"):
        rows = [torch.tensor(ids[row], device=config["device"]) for row in index]
        embeddings[index] = _mean_states(encoder, rows).cpu().numpy()
    return embeddings


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> list[list[int]]:
    return tokenizer(list(texts), truncation=True, max_length=longest, split_special_tokens=True)["input_ids"]


@torch.no_grad()
def _readable_tokens(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> int:
    """Return how many tokens of a text an encoder on the CPU can read, ``limit`` if it can read the longest text.

    Only trying shows it: an encoder may have fewer positions than its tokenizer says, and not all of them for tokens.
    """
    longest = torch.tensor(max(_token_ids(tokenizer, texts, limit), key=len))

    def fails(length: int) -> bool:
        try:
            _mean_states(encoder, [longest[:length]])
        except (IndexError, RuntimeError):
            return True
        return False

    if not fails(len(longest)):
        return limit
    readable = max(1, bisect_left(range(1, len(longest)), True, key=fails))
    getLogger().warning(f"text_encoder_path: the encoder reads {readable} tokens; longer titles are truncated")
    return readable


def _mean_states(encoder: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """Return the mean of the last hidden states of each row of token ids, [B, d]."""
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    states = encoder(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask).last_hidden_state
    return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
