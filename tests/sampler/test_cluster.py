"""Planted clusters: k-means finds them, TF-DCon and S2L take of all, RecRanker keeps their shares."""

import numpy as np
import pytest

from recbole_dealrec.sampler import cluster, get_sampler
from recbole_dealrec.sampler.cluster import clusters

CONFIG = {"n_fewshot": 20, "seed": 0, "n_groups": 4}


def sampler(name, keys=None, **rows):
    made = get_sampler(name)({**CONFIG, **(keys or {})})
    made.scores = rows
    return made


def blobs(sizes, dimensions=6, spread=0.05, seed=0):
    """Points around far centres in random order, float32, and the planted cluster of each."""
    random = np.random.default_rng(seed)
    planted = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 10 * np.eye(len(sizes), dimensions)
    return (centres[planted] + spread * random.normal(size=(len(planted), dimensions))).astype(np.float32), planted


def same_partition(found, planted):
    pairs = set(zip(found.tolist(), planted.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(planted.tolist()))


@pytest.mark.parametrize("most_exact", [20_000, 100])
def test_planted_clusters_are_found(monkeypatch, most_exact):
    monkeypatch.setattr(cluster, "_MOST_EXACT", most_exact)
    points, planted = blobs([30, 200, 70, 120, 80])
    found = clusters(points, 5, seed=1)
    assert found.dtype == np.int64 and same_partition(found, planted)
    np.testing.assert_array_equal(clusters(points, 5, seed=1), found)


def test_fewer_points_than_clusters(recwarn):
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    assert same_partition(clusters(points, 10, seed=0), np.repeat([0, 1, 2], 4))
    assert set(clusters(points[:2], 10, seed=0)) <= {0, 1}
    assert not recwarn


def test_points_that_are_not_finite_are_in_no_cluster(caplog):
    points, planted = blobs([20, 30])
    points[[3, 8], 0] = np.inf, np.nan
    found = clusters(points, 2, seed=0)
    assert np.flatnonzero(found < 0).tolist() == [3, 8]
    kept = found >= 0
    assert same_partition(found[kept], planted[kept])
    both = ["surrogate_representation", "llm_representation"]
    for name, sources in (("S2L", ["loss_trajectory"]), ("TF-DCon", both)):
        chosen = sampler(name, {"n_fewshot": 48}, **dict.fromkeys(sources, points))
        assert chosen.sample(range(50)).tolist() == sorted(set(range(50)) - {3, 8})
        assert caplog.messages == ["2 samples have a score that is not finite and are excluded"]
        caplog.clear()


def test_tf_dcon_covers_clusters_that_only_both_representations_tell_apart():
    random = np.random.default_rng(0)
    side, half = random.permutation(np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [170, 20, 5, 5], axis=0)).T
    noise = 0.02 * random.normal(size=(2, 200, 3))
    surrogate, llm = noise[0] + side[:, None], 1000 * (noise[1] + half[:, None])  # of very different scales
    chosen = sampler("TF-DCon", surrogate_representation=surrogate, llm_representation=llm)
    selected = chosen.sample(range(200))
    assert same_partition(chosen.columns["group"], 2 * side + half)
    counts = np.bincount((2 * side + half)[selected])
    assert counts.tolist() == [5, 5, 5, 5]  # an equal share of each, whatever its size


def test_a_representation_that_tells_nothing_apart_does_no_harm():
    points, planted = blobs([40, 40, 40, 40])
    chosen = sampler("TF-DCon", surrogate_representation=points, llm_representation=np.ones((160, 9), np.float32))
    selected = chosen.sample(range(160))
    assert np.bincount(planted[selected]).tolist() == [5, 5, 5, 5]


def test_s2l_draws_evenly_from_planted_trajectories(monkeypatch):
    monkeypatch.setattr(cluster, "_S2L_CLUSTERS", 3)
    epochs = np.arange(8)
    shapes = np.stack([6 * np.exp(-epochs), 6 * np.exp(-0.2 * epochs), np.full(8, 6.0)])  # learnt soon, late, never
    planted = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [300, 90, 4]))
    trajectory = shapes[planted] + 0.05 * np.random.default_rng(1).normal(size=(394, 8))
    chosen = sampler("S2L", loss_trajectory=trajectory.astype(np.float32))
    selected = chosen.sample(range(394))
    assert same_partition(chosen.columns["group"], planted)
    assert np.bincount(planted[selected]).tolist() == [8, 8, 4]  # all of the smallest, the rest halved


def histories(lengths):
    class Samples:
        item_length = np.asarray(lengths)

        def __len__(self):
            return len(self.item_length)

    return Samples()


def test_recranker_favours_long_histories_and_keeps_every_cluster():
    points, planted = blobs([400, 100, 100, 50, 50, 50, 20, 10, 10, 10], dimensions=10)
    lengths = np.where(np.random.default_rng(5).random(800) < 0.5, 2, 50)
    taken = np.zeros(800)
    for seed in range(200):
        selected = sampler("RecRanker", {"n_fewshot": 40, "seed": seed}, surrogate_representation=points).sample(
            histories(lengths)
        )
        assert len(np.unique(selected)) == 40
        taken[selected] += 1
    # Half of the draws are weighted by ln 3 and ln 51, half are uniform in clusters that get shares by their sizes.
    uniform, importance = np.full(800, 1 / 800), np.log(lengths + 1) / np.log(lengths + 1).sum()
    expected = (uniform + importance) / 2
    for group in (lengths == 2, lengths == 50):
        assert taken[group].sum() / taken.sum() == pytest.approx(expected[group].sum(), abs=0.03)
    for number in range(10):
        share = taken[planted == number].sum() / taken.sum()
        assert share == pytest.approx(expected[planted == number].sum(), rel=0.3, abs=0.01)


@pytest.mark.parametrize(("penalty", "expected"), [(1.0, 20), (0.5, 0)])
def test_recranker_penalises_repetition(monkeypatch, penalty, expected):
    # One history holds all of the importance: drawn some 30 times, its weight is 30 * penalty^29 against 1 of others.
    monkeypatch.setattr(cluster, "_RECRANKER_PENALTY", penalty)
    points = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    lengths = np.zeros(400, dtype=np.int64)
    lengths[7] = 50
    chosen = 0
    for seed in range(20):
        made = sampler("RecRanker", {"n_fewshot": 20, "seed": seed}, surrogate_representation=points)
        chosen += 7 in made.sample(histories(lengths))
    assert chosen == expected


@pytest.mark.parametrize("total", [1, 12, 100])
def test_proportional_draws_are_what_their_size_asks_for(total):
    group = np.random.default_rng(0).permutation(np.repeat([-1, 0, 3, 4], [10, 50, 25, 15]))
    drawn = cluster._proportional_draws(group, total, np.random.default_rng(1))
    assert len(drawn) == total
    for number, size in ((-1, 10), (0, 50), (3, 25), (4, 15)):
        assert abs(np.count_nonzero(group[drawn] == number) - total * size / 100) <= 1
