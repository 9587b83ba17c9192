"""Embeddings of the items' texts, from which semantic IDs are made."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from recbole_dealrec.config import Config
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.checkpoint import UNUSABLE, model_without_weights, unusable

EMBEDDED = "tfidf"
# Titles are short; this only bounds what a text that is no title may cost.
_MAX_TOKENS = 512


def check_text_encoder(path: str) -> None:
    """Refuse a ``text_encoder_path`` that cannot be loaded, before hours of work.

    Raises:
        InputError: no folder, no encoder and tokenizer in it, or one of sentence-transformers without that library.
    """
    if path == EMBEDDED:
        return
    if not Path(path).is_dir():
        raise InputError(f"text_encoder_path '{path}': no such folder; {EMBEDDED} needs none")
    if _is_sentence_transformer(path):
        if importlib.util.find_spec("sentence_transformers") is None:
            hint = 'pip install "recbole-dealrec[text]"'
            raise InputError(f"text_encoder_path '{path}': a folder of sentence-transformers needs {hint}")
        return
    model_without_weights("text_encoder_path", path, AutoModel.from_pretrained, use_safetensors=True)
    _load_tokenizer(path)


def embed_texts(texts: Sequence[str], config: Config) -> np.ndarray:
    """Embedding of each text, float32 [n, d]; equal texts have equal embeddings.

    Args:
        texts: at least one.
        config: reads ``text_encoder_path``: ``tfidf``, or a folder. That of sentence-transformers (it has a
            ``modules.json``) is pooled as its own configuration says, that of any other Hugging Face encoder by the
            mean over its last hidden states.

    Raises:
        InputError: the encoder cannot be loaded.
    """
    path = config["text_encoder_path"]
    # Each text once: what stands elsewhere in a batch may differ by rounding.
    distinct, place = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    if path == EMBEDDED:
        embeddings = tfidf_embeddings(distinct, config["seed"])
    elif _is_sentence_transformer(path):
        embeddings = _sentence_embeddings(distinct, path, config)
    else:
        embeddings = _mean_embeddings(distinct, path, config)
    return embeddings[place]


def tfidf_embeddings(texts: Sequence[str], seed: int, dimensions: int = 128) -> np.ndarray:
    """TF-IDF of the words, cut to ``dimensions`` by a truncated SVD if there are more, of unit length; float32 [n, d].

    A title of rare words loses most of its length in the SVD; left so, all such titles would form one cluster.
    """
    # Runs of punctuation count as words: no text is without one, and no vocabulary empty.
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", dtype=np.float32)
    vectors = vectorizer.fit_transform(texts)
    if vectors.shape[1] <= dimensions:
        return vectors.toarray()
    reduced = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit_transform(vectors)
    return normalize(reduced).astype(np.float32)


def _is_sentence_transformer(path: str) -> bool:
    return (Path(path) / "modules.json").is_file()


def _sentence_embeddings(texts: Sequence[str], path: str, config: Config) -> np.ndarray:
    from sentence_transformers import SentenceTransformer  # an optional library, and slow to import

    try:
        model = SentenceTransformer(path, device=str(config["device"]), model_kwargs={"use_safetensors": True})
    except UNUSABLE as error:
        raise unusable("text_encoder_path", path, error) from error
    embeddings = model.encode(list(texts), show_progress_bar=config["show_progress"], convert_to_numpy=True)
    return embeddings.astype(np.float32)


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path)
    except UNUSABLE as error:
        raise unusable("text_encoder_path", path, error) from error


@torch.no_grad()
def _mean_embeddings(texts: Sequence[str], path: str, config: Config) -> np.ndarray:
    tokenizer = _load_tokenizer(path)
    try:
        model = AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except UNUSABLE as error:
        raise unusable("text_encoder_path", path, error) from error
    encoder = (model.get_encoder() if model.config.is_encoder_decoder else model).to(config["device"]).eval()
    longest = min(tokenizer.model_max_length, _MAX_TOKENS)
    ids = tokenizer(list(texts), truncation=True, max_length=longest, split_special_tokens=True)["input_ids"]
    embeddings = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    batches = token_batches(np.array([len(row) for row in ids]), config["tokens_per_batch"])
    for index in tqdm(batches, desc="Text embeddings", ncols=100, disable=not config["show_progress"]):
        rows = [torch.tensor(ids[row], device=config["device"]) for row in index]
        embeddings[index] = _mean_states(encoder, rows).cpu().numpy()
    return embeddings


def _mean_states(encoder: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """Mean of the last hidden states of each row of token ids, [B, d]."""
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    states = encoder(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask).last_hidden_state
    return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
