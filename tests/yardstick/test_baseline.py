"""Popularity lists and item kNN, against values computed by other means."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, load_splits, train_loader
from recbole_dealrec.pipeline import configure
from recbole_dealrec.yardstick.baseline import ConstantList, ItemKNN, popularity_order
from recbole_dealrec.yardstick.recall_part import ItemKinds, recall_parts
from recbole_dealrec.yardstick.yardsticks import KNN, POPULAR, RANDOM, VALID_POPULAR, Yardsticks


def test_ties_go_to_the_next_count_and_then_to_the_id():
    order = popularity_order(np.array([9, 2, 5, 2, 2, 5]), np.array([0, 1, 0, 3, 1, 0]))
    np.testing.assert_array_equal(order, [2, 5, 3, 1, 4])


def test_the_list_is_the_same_for_every_query():
    scores = ConstantList(np.array([3, 1, 2])).full_sort_predict(Interaction({"user": torch.arange(2)}))
    np.testing.assert_array_equal(scores.argsort(dim=1, descending=True), [[3, 1, 2, 0]] * 2)


@pytest.fixture(scope="module")
def config(movies_path):
    keys = {"title_field": "movie_title", "data_path": str(movies_path), "use_gpu": False, "show_progress": False}
    return configure("BIGRec", "movies", None, keys)


@pytest.fixture(scope="module")
def splits(config):
    return load_splits(config)


@pytest.fixture(scope="module")
def rows(config, splits):
    samples = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    kinds = ItemKinds.of(splits.train, samples)
    loader = train_loader(config, splits.train, samples.rows)
    return {row["name"]: row for row in Yardsticks(config, splits, kinds, loader).rows({})}


def training_items(splits):
    """The items of each user in the training part, from all its rows; nobody has an item twice."""
    samples = CandidateSamples.from_dataset(splits.train)
    items = {}
    for row in range(len(samples)):
        items.setdefault(samples.user_id[row], set()).update([*samples.history(row), samples.item_id[row]])
    return {user: list(found) for user, found in items.items()}


def test_popularity_is_what_counting_gives(rows, splits):
    counts = np.bincount(np.concatenate(list(training_items(splits).values())), minlength=splits.train.item_num)
    best = np.lexsort([np.arange(len(counts)), -counts])[:10]
    test = CandidateSamples.from_dataset(splits.test)
    assert rows[POPULAR]["test_result"]["recall@10"] == pytest.approx(np.isin(test.item_id, best).mean(), abs=5e-5)


def test_the_list_of_validation_targets_is_what_counting_gives(rows, splits):
    valid, test = (CandidateSamples.from_dataset(part).item_id for part in (splits.valid, splits.test))
    wanted = np.bincount(valid, minlength=splits.train.item_num)
    least = np.sort(wanted)[-50]
    hits = np.isin(test, np.flatnonzero(wanted > least)).mean(), np.isin(test, np.flatnonzero(wanted >= least)).mean()
    assert hits[0] <= rows[VALID_POPULAR]["test_result"]["recall@50"] + 5e-5
    assert rows[VALID_POPULAR]["test_result"]["recall@50"] <= hits[1] + 5e-5


def test_a_random_ranking_finds_each_item_as_often(rows, splits):
    assert rows[RANDOM]["test_result"]["recall@10"] == pytest.approx(10 / (splits.train.item_num - 1))


@pytest.mark.parametrize("shrink", [0.0, 7.0])
def test_item_knn_is_the_sum_of_cosines(config, splits, shrink):
    knn = ItemKNN(splits.train)
    knn.set_shrink(shrink)
    has = np.zeros((splits.train.user_num, splits.train.item_num))
    for user, items in training_items(splits).items():
        has[user, items] = 1
    count = has.sum(axis=0)
    similarity = has.T @ has / (np.sqrt(np.outer(count, count)) + shrink + (np.outer(count, count) == 0))
    np.fill_diagonal(similarity, 0)
    interaction, *_ = next(iter(QueryDataLoader(config, splits.test, 7)))
    scores = knn.full_sort_predict(interaction)
    for row in range(len(interaction)):
        items = interaction["item_id_list"][row, : interaction["item_length"][row]].numpy()
        np.testing.assert_allclose(scores[row], similarity[items].sum(axis=0), rtol=1e-4, atol=1e-6)


def test_too_many_pairs_are_refused(splits, monkeypatch):
    monkeypatch.setattr("recbole_dealrec.yardstick.baseline._MOST_PAIRS", 100)
    with pytest.raises(MemoryError, match="more than 100 pairs of items have a common user"):
        ItemKNN(splits.train)


def test_the_parts_of_recall_are_the_whole(rows):
    for name in (POPULAR, VALID_POPULAR, KNN):
        row = rows[name]
        for k in (5, 10, 20, 50):
            parts = dict(row["recall_parts"][f"recall@{k}"])
            beyond = parts.pop("beyond popularity list")
            assert sum(parts.values()) == pytest.approx(row["test_result"][f"recall@{k}"], abs=5e-5)
            assert beyond == 0 if name == POPULAR else beyond <= row["test_result"][f"recall@{k}"] + 5e-5


def test_parts_by_hand():
    class Evaluated:
        config = {"topk": [1, 3]}
        evaluated = {
            "rec.items": torch.tensor([[1, 2, 3], [4, 3, 1]]), "rec.topk": torch.tensor([[1, 1, 0, 2], [0, 1, 0, 1]]),
        }  # fmt: skip

    flags = lambda *items: np.isin(np.arange(5), items)  # noqa: E731
    kinds = ItemKinds(np.array([5, 0, 1, 2, 3]), is_target=flags(1), is_in_history=flags(1, 2))
    assert recall_parts(Evaluated, kinds) == {
        "recall@1": {
            "beyond popularity list": 0.0, "training targets": 0.25, "seen in histories only": 0.0, "new": 0.0,
        },
        "recall@3": {
            "beyond popularity list": 0.0, "training targets": 0.25, "seen in histories only": 0.25, "new": 0.5,
        },
    }  # fmt: skip
