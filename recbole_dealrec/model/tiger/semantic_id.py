"""Semantic IDs: a few discrete codes per item, coarse to fine, shared by similar items; TIGER, arXiv 2305.05065."""

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from recbole_dealrec.config import Config
from recbole_dealrec.data.candidates import rank_from_end
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.checkpoint import checkpoint_content
from recbole_dealrec.model.tiger.text_embedding import embed_texts
from recbole_dealrec.store.files import atomic_path


def check_semantic_id(method: str) -> None:
    """Raise InputError if ``method`` is ``rqvae`` and vector-quantize-pytorch is not installed."""
    if method == "rqvae" and importlib.util.find_spec("vector_quantize_pytorch") is None:
        raise InputError('semantic_id: rqvae needs pip install -e ".[rqvae]" in the checkout; rkmeans needs no package')


def catalogue_ids(config: Config, titles: Sequence[str]) -> np.ndarray:
    """Return the semantic IDs of a catalogue, int64 [n, levels]; computed once and kept in ``checkpoint_dir``.

    Args:
        config: reads ``semantic_id``, ``rqvae_steps``, ``text_encoder_path``, ``seed`` and ``checkpoint_dir``.
        titles: title of each item.
    """
    encoder = checkpoint_content(config["text_encoder_path"])
    settings = [config["semantic_id"], config["rqvae_steps"], encoder, config["seed"]]
    digest = hashlib.sha256(json.dumps([settings, list(titles)]).encode()).hexdigest()[:12]
    file = Path(config["checkpoint_dir"]) / f"semantic-ids-{config['dataset']}-{digest}.npy"
    processes.on_main(lambda: file.exists() or _write_ids(file, config, titles))
    return np.load(file)


def _write_ids(file: Path, config: Config, titles: Sequence[str]) -> None:
    getLogger().info(f"computing semantic IDs, saved in {file}")
    options = {"device": str(config["device"]), "show_progress": config["show_progress"]}
    embeddings = embed_texts(titles, config)
    ids = semantic_ids(embeddings, config["semantic_id"], config["seed"], rqvae_steps=config["rqvae_steps"], **options)
    with atomic_path(file) as path, open(path, "wb") as stream:
        np.save(stream, ids)


def semantic_ids(
    embeddings: np.ndarray, method: str = "rkmeans", seed: int = 0, *, levels: int = 3, codes: int = 256,
    rqvae_steps: int = 3000, device: str = "cpu", show_progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return the codes of each item, coarse to fine, and a last code that distinguishes items with equal codes.

    Args:
        embeddings: float32 [n, d]; equal ones differ in the last code only.
        method: ``rkmeans``, residual k-means, or ``rqvae`` (the published method).
        seed: seed of k-means or of the RQ-VAE.
        levels: codes before the last one.
        codes: maximum number of codes of a level; at most the number of different embeddings is used.
        rqvae_steps: training steps of the RQ-VAE.
        device: device of the RQ-VAE.
        show_progress: whether to draw a progress bar.

    Returns:
        int64 [n, levels + 1], all rows different; the codes of each level start at 0.
    """
    distinct, item_rows = np.unique(np.asarray(embeddings, dtype=np.float32), axis=0, return_inverse=True)
    if method == "rkmeans":
        item_codes = rkmeans_codes(distinct, levels, codes, seed)
    else:
        from recbole_dealrec.model.tiger.rqvae import rqvae_codes  # its library is optional

        options = {"steps": rqvae_steps, "seed": seed, "device": device, "show_progress": show_progress}
        item_codes = rqvae_codes(distinct, levels, min(codes, len(distinct)), **options)
    return part_collisions(item_codes[item_rows.reshape(-1)])


def rkmeans_codes(embeddings: np.ndarray, levels: int, codes: int, seed: int) -> np.ndarray:
    """Return residual k-means codes, int64 [n, levels]; each level clusters the residuals of the level before."""
    residual, columns = embeddings, []
    for _ in range(levels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different residuals than codes
            clusters = KMeans(min(codes, len(residual)), n_init=1, random_state=seed).fit(residual)
        columns.append(clusters.labels_)
        residual = residual - clusters.cluster_centers_[clusters.labels_]
    return np.column_stack(columns).astype(np.int64)


def part_collisions(codes: np.ndarray) -> np.ndarray:
    """Append a column to codes [n, levels] that numbers the rows of each set of equal rows; int64 [n, levels + 1]."""
    distinct, group = np.unique(codes, axis=0, return_inverse=True)
    getLogger().info(f"{len(codes)} items have {len(distinct)} different semantic IDs before the last code")
    return np.column_stack([codes, rank_from_end(group.reshape(-1))])


def id_text(codes: Sequence[int]) -> str:
    """Return an ID as text, such as ``<a_12><b_3><c_200><d_0>``."""
    return "".join(f"<{chr(ord('a') + level)}_{code}>" for level, code in enumerate(codes))
