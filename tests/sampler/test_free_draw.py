"""Samplers that need no model, on candidates whose answer is known."""

import numpy as np
import pytest

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.sampler import (
    LongestSampler,
    PopularSampler,
    RecentSampler,
    RecentWindowSampler,
    TargetFrequencySampler,
)
from recbole_dealrec.scorer import TargetFrequencyScorer

TARGETS = np.array([1, 1, 1, 1, 2, 2, 3, 4])
LENGTHS = np.array([1, 5, 2, 9, 9, 3, 4, 9])
VALID = np.array([2, 2, 2, 4, 5])
TIMES = np.array([30, 10, 70, 20, 60, 40, 80, 50])


@pytest.fixture
def samples():
    n = len(TARGETS)
    history = np.zeros((n, 9), dtype=np.int64)
    return CandidateSamples(np.arange(n), TARGETS, history, LENGTHS, [""] * 6, np.arange(n), TIMES)


def test_a_validation_target_is_shared_by_the_candidates_that_have_it(samples):
    score = TargetFrequencyScorer(VALID).score(samples)
    np.testing.assert_allclose(score, [0, 0, 0, 0, 1.5, 1.5, 0, 1])


def test_targets_are_drawn_as_often_as_the_validation_part_has_them(samples):
    score = TargetFrequencyScorer(VALID).score(samples)
    drawn = np.zeros(6)
    for seed in range(4000):
        sampler = TargetFrequencySampler({"n_fewshot": 1, "seed": seed})
        sampler.scores = {"target_frequency": score}
        drawn[TARGETS[sampler.sample(samples)]] += 1
    np.testing.assert_allclose(drawn / 4000, [0, 0, 3 / 4, 0, 1 / 4, 0], atol=0.02)


def test_where_validation_targets_are_too_few_the_rest_is_drawn_from_the_others(samples, caplog):
    sampler = TargetFrequencySampler({"n_fewshot": 5, "seed": 1})
    sampler.scores = {"target_frequency": TargetFrequencyScorer(VALID).score(samples)}
    selected = sampler.sample(samples)
    assert {4, 5, 7} < set(selected) and len(set(selected)) == 5
    assert "3 candidates have a validation target; 2 more are drawn uniformly" in caplog.text


@pytest.mark.parametrize(
    "sampler, always, drawn", [(PopularSampler, {0, 1, 2, 3}, {4, 5}), (LongestSampler, {1, 3, 4, 7}, {6})]
)
def test_the_highest_counts_are_taken_and_ties_are_drawn(samples, sampler, always, drawn):
    found = [set(sampler({"n_fewshot": 5, "seed": seed}).sample(samples)) for seed in range(20)]
    assert all(always < selected for selected in found)
    assert set.union(*found) - always == drawn


def test_the_latest_targets_are_taken(samples):
    sampler = RecentSampler({"n_fewshot": 3, "seed": 1})
    assert sampler.sample(samples).tolist() == [2, 4, 6]
    assert sampler.columns["time"] is TIMES


@pytest.mark.parametrize(("n_fewshot", "window"), [(1, {2, 6}), (2, {2, 4, 6, 7}), (5, set(range(8)))])
def test_the_window_is_drawn_from_uniformly(samples, n_fewshot, window):
    keys = {"n_fewshot": n_fewshot}
    drawn = [RecentWindowSampler({**keys, "seed": seed}).sample(samples).tolist() for seed in range(400)]
    counts = np.bincount(np.concatenate(drawn), minlength=8)
    assert set(np.flatnonzero(counts)) == window and all(len(set(selected)) == n_fewshot for selected in drawn)
    assert np.ptp(counts[list(window)]) < 60


def test_times_are_those_of_the_targets(movies_path):
    keys = {"data_path": str(movies_path), "title_field": "movie_title", "show_progress": False, "samples_per_user": 3}
    (job,) = prepare([configure("BIGRec", "movies", None, {**keys, "sampler": "Recent"})], check_llm=False)
    lines = (movies_path / "movies" / "movies.inter").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    times = {(user, item): float(time) for user, item, _, time in rows}
    train = job.splits.train
    named = zip(
        train.id2token("user_id", job.samples.user_id), train.id2token("item_id", job.samples.item_id), strict=True
    )
    in_order = [times[pair] for pair in named]
    assert (np.diff(np.array(in_order)[np.argsort(job.samples.time)]) >= 0).all()
    assert len(set(job.samples.time)) == len(job.samples) > 100


@pytest.mark.parametrize("name", ["Recent", "RecentWindow"])
def test_data_without_times_are_refused(split, name):
    with pytest.raises(InputError, match=f"sampler {name} needs the times of the interactions, which benchmark_file"):
        prepare([split(sampler=name, topk=[5])], check_llm=False)
