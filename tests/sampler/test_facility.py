"""Facility location: the lazy choice against the plain one, planted clusters, and a drawn part of what is covered."""

import itertools
import logging

import numpy as np
import pytest

from recbole_dealrec.sampler import FacilityLocationSampler, facility
from recbole_dealrec.sampler.facility import cover_greedily


def plain_greedy(cost, n_fewshot):
    """Every gain measured at every step."""
    minima, chosen, fresh = cost.max(axis=0), [], True
    while len(chosen) < n_fewshot:
        gains = np.maximum(minima - cost, 0).sum(axis=1, dtype=np.float64)
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        if gains[best] <= 0 and not fresh:
            minima, fresh = cost.max(axis=0), True
            continue
        chosen.append(best)
        minima, fresh = np.minimum(minima, cost[best]), False
    return chosen


@pytest.mark.parametrize("n_fewshot", [1, 5, 60, 400])
def test_lazy_greedy_is_greedy(monkeypatch, n_fewshot):
    monkeypatch.setattr(facility, "_CHUNK", 97)
    cost = np.random.default_rng(0).random((400, 30), dtype=np.float32)
    chosen = cover_greedily(cost, n_fewshot)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == plain_greedy(cost, n_fewshot)  # 30 columns are covered long before 400 rows are chosen


def test_greedy_takes_one_of_each_planted_cluster_first():
    random = np.random.default_rng(0)
    planted = random.permutation(np.repeat(np.arange(8), [300, 100, 50, 20, 10, 5, 3, 2]))
    goals = np.repeat(np.arange(8), 5)
    cost = np.where(planted[:, None] == goals, 0.1, 0.9) + 0.05 * random.random((490, 40))
    assert sorted(planted[cover_greedily(cost, 8)]) == list(range(8))


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_rows_that_are_all_alike_are_still_chosen(fill):
    assert sorted(cover_greedily(np.full((6, 3), fill), 6)) == list(range(6))


def chosen_from(points, n_fewshot, seed=0):
    sampler = FacilityLocationSampler({"n_fewshot": n_fewshot, "seed": seed})
    sampler.scores = {"llm_representation": np.asarray(points, dtype=np.float32)}
    return sampler.sample(range(len(points)))


def planted_clusters(n_clusters=8, size=25):
    """Points of clusters that are far from each other, and the cluster of each."""
    random = np.random.default_rng(0)
    planted = random.permutation(np.repeat(np.arange(n_clusters), size))
    return 100 * np.eye(n_clusters)[planted] + random.normal(size=(len(planted), n_clusters)), planted


def test_one_sample_of_each_planted_cluster_is_chosen():
    points, planted = planted_clusters()
    selected = chosen_from(points, 8)
    assert sorted(planted[selected]) == list(range(8)) and (np.diff(selected) > 0).all()


@pytest.mark.parametrize("n_fewshot", [1, 2, 3, 5])
def test_the_choice_is_that_of_gains_of_similarity(n_fewshot):
    points = np.random.default_rng(4).normal(size=(40, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    similarity = distance.max() - distance

    def value(rows):
        return similarity[list(rows)].max(axis=0).sum()

    chosen = []
    for _ in range(n_fewshot):
        chosen.append(max(set(range(40)) - set(chosen), key=lambda row: value([*chosen, row])))
    selected = chosen_from(points, n_fewshot)
    assert selected.tolist() == sorted(chosen)
    if n_fewshot <= 3:
        best = max(map(value, itertools.combinations(range(40), n_fewshot)))
        assert (1 - 1 / np.e) * best <= value(selected) <= best + 1e-9


def test_of_many_candidates_a_drawn_part_is_covered_and_the_log_says_so(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    points, planted = planted_clusters()
    monkeypatch.setattr(facility, "_MOST_DISTANCES", 200 * 60)
    shapes = []
    monkeypatch.setattr(
        facility, "cover_greedily", lambda cost, n: shapes.append(cost.shape) or cover_greedily(cost, n)
    )
    selections = [chosen_from(points, 8, seed) for seed in range(5)]
    assert set(shapes) == {(200, 60)}
    assert all(sorted(planted[selected]) == list(range(8)) for selected in selections)
    assert len(set(map(tuple, selections))) > 1
    np.testing.assert_array_equal(chosen_from(points, 8, 3), selections[3])
    assert "covers 60 of 200 candidates, drawn by the seed" in caplog.text


def test_a_small_pool_is_covered_whole_whatever_the_seed(caplog):
    caplog.set_level(logging.INFO)
    points, _ = planted_clusters()
    np.testing.assert_array_equal(chosen_from(points, 30, 0), chosen_from(points, 30, 1))
    assert not caplog.records


def test_samples_that_are_not_finite_are_excluded(caplog):
    points = np.random.default_rng(0).normal(size=(30, 4))
    points[[4, 9], 2] = np.nan, np.inf
    assert chosen_from(points, 28).tolist() == sorted(set(range(30)) - {4, 9})
    assert "2 samples have a score that is not finite" in caplog.text
    with pytest.raises(ValueError, match="n_fewshot is 29, but only 28"):
        chosen_from(points, 29)
