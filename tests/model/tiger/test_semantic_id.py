import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_dealrec.errors import InputError
from recbole_dealrec.model.tiger import semantic_id
from recbole_dealrec.model.tiger.semantic_id import (
    catalogue_ids,
    check_semantic_id,
    id_text,
    part_collisions,
    rkmeans_codes,
    semantic_ids,
)

METHODS = ["rkmeans", "rqvae"]


def options(method):
    if method == "rqvae":
        pytest.importorskip("vector_quantize_pytorch")
    return {"method": method, "rqvae_steps": 10}


def planted(groups=4, parts=3, copies=5, seed=0):
    """Embeddings [groups * parts * copies, 8] in groups far apart, each of parts that lie closer together."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, 1, 1, 8)) * 20 + random.normal(size=(groups, parts, 1, 8)) * 2
    noise = random.normal(size=(groups, parts, copies, 8)) * 1e-3
    return (centres + noise).reshape(-1, 8).astype(np.float32)


def partition(codes):
    """Which rows are equal, [n, n]."""
    codes = codes.reshape(len(codes), -1)
    return (codes[:, None] == codes[None]).all(-1)


def test_levels_of_residual_k_means_find_planted_levels():
    found = semantic_ids(planted(), codes=4, levels=2)
    groups, parts = np.arange(60) // 15, np.arange(60) // 5
    np.testing.assert_array_equal(partition(found[:, 0]), partition(groups))
    # Four codes cannot part twelve sets at once, but each group's three by itself where their offsets are the same.
    offsets = np.tile(np.repeat(np.eye(3, 8), 5, axis=0), (4, 1)) + np.repeat(np.eye(4, 8)[::-1] * 50, 15, axis=0)
    found = semantic_ids(offsets.astype(np.float32), codes=4, levels=2)
    np.testing.assert_array_equal(partition(found[:, :2]), partition(parts))


def test_a_level_clusters_what_the_levels_before_left_over():
    embeddings = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    codes = rkmeans_codes(embeddings, levels=3, codes=8, seed=1)
    residual, spread = embeddings.astype(np.float64), [float((embeddings**2).sum())]
    for column in codes.T:
        for code in range(8):
            residual[column == code] -= residual[column == code].mean(0)
        spread.append(float((residual**2).sum()))
    assert codes.min() == 0 and codes.max() == 7
    assert all(after < 0.8 * before for before, after in zip(spread, spread[1:], strict=False))
    np.testing.assert_array_equal(codes, rkmeans_codes(embeddings, levels=3, codes=8, seed=1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 14), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_ids_are_unique_and_equal_embeddings_differ_in_the_last_code_alone(n_items, n_distinct, codes, seed):
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(n_distinct, 3)).astype(np.float32)[random.integers(n_distinct, size=n_items)]
    ids = semantic_ids(embeddings, seed=seed % 100, codes=codes)
    assert ids.shape == (n_items, 4) and ids.dtype == np.int64 and ids.min() >= 0
    assert len(np.unique(ids, axis=0)) == n_items
    assert ids[:, :3].max() < codes
    same = partition(embeddings)
    assert partition(ids[:, :3])[same].all()
    if codes >= n_distinct:
        np.testing.assert_array_equal(partition(ids[:, :3]), same)


@pytest.mark.parametrize("method", METHODS)
def test_tiny_catalogues(method):
    for embeddings in (np.ones((1, 2)), np.zeros((3, 2)), np.eye(5)):
        ids = semantic_ids(embeddings.astype(np.float32), seed=0, **options(method))
        assert ids.shape == (len(embeddings), 4) and len(np.unique(ids, axis=0)) == len(embeddings)


def test_the_last_code_numbers_items_that_share_the_others():
    ids = part_collisions(np.array([[1, 2], [1, 3], [1, 2], [0, 0], [1, 2]]))
    assert ids[:, :2].tolist() == [[1, 2], [1, 3], [1, 2], [0, 0], [1, 2]]
    assert sorted(ids[[0, 2, 4], 2]) == [0, 1, 2] and ids[1, 2] == ids[3, 2] == 0


def test_rqvae_tells_planted_groups_apart_and_leaves_the_generator_alone():
    embeddings, state = planted(), torch.get_rng_state()
    ids = semantic_ids(embeddings, seed=3, codes=4, levels=2, **options("rqvae") | {"rqvae_steps": 50})
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = semantic_ids(embeddings, seed=3, codes=4, levels=2, **options("rqvae") | {"rqvae_steps": 50})
    np.testing.assert_array_equal(ids, again)
    groups, first = np.arange(60) // 15, ids[:, 0]
    for group in range(4):
        assert len(set(first[groups == group])) == 1
    assert len(set(first)) >= 3


def test_rqvae_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_semantic_id("rkmeans")
    with pytest.raises(InputError, match=r'rqvae needs pip install -e "\.\[rqvae\]"'):
        check_semantic_id("rqvae")


def test_ids_of_a_catalogue_are_made_once(ten, monkeypatch, tmp_path):
    titles = ["Alpha", "Beta", "Twin", "Twin", "Theta: Part 2"]
    config = ten(model="TIGER")
    ids = catalogue_ids(config, titles)
    assert ids.shape == (5, 4) and (ids[2, :3] == ids[3, :3]).all() and ids[2, 3] != ids[3, 3]
    made = []
    monkeypatch.setattr(semantic_id, "embed_texts", lambda texts, config: made.append(texts) or np.eye(len(texts)))
    np.testing.assert_array_equal(catalogue_ids(config, titles), ids)
    assert not made
    catalogue_ids(ten(model="TIGER", seed=1), titles)
    catalogue_ids(config, titles[:4])
    assert len(made) == 2 and len(list(tmp_path.glob("saved/semantic-ids-ten-*.npy"))) == 3


def test_ids_follow_what_the_encoder_is_not_where_it_lies(ten, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(semantic_id, "embed_texts", lambda texts, config: made.append(texts) or np.eye(len(texts)))
    for name, weights, times in (("one", "a", 1), ("copy", "a", 1), ("one", "b", 2)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(weights, encoding="utf-8")
        catalogue_ids(ten(model="TIGER", text_encoder_path=str(folder)), ["Alpha", "Beta"])
        assert len(made) == times


def test_ids_as_text():
    assert id_text([12, 3, 200, 0]) == "<a_12><b_3><c_200><d_0>"
