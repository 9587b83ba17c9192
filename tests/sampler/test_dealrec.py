"""The overall score by hand, and DEALRec's selection from given scores."""

import numpy as np
import pytest

from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import DEALRecSampler, coverage_enhanced_selection, get_sampler, overall_score

CONFIG = {"n_fewshot": 3, "seed": 0, "effort_weight": 0.5, "n_groups": 4, "hard_prune_ratio": 0.1}


def dealrec(influence, effort, **keys):
    sampler = DEALRecSampler({**CONFIG, **keys})
    sampler.scores = {"influence": np.asarray(influence, np.float64), "effort": np.asarray(effort, np.float64)}
    return sampler


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.5, [0.0, 0.75, 1.25, 0.25]), (1.0, [0.0, 1.25, 1.5, 0.25]), (0.0, [0.0, 0.25, 1.0, 0.25])],
)
def test_overall_score_by_hand(weight, expected):
    influence = np.array([-1.0, 0.0, 3.0, 0.0])  # 0, 1/4, 1, 1/4
    effort = np.array([2.0, 6.0, 4.0, 2.0])  # 0, 1, 1/2, 0
    np.testing.assert_allclose(overall_score(influence, effort, weight), expected, rtol=0, atol=1e-15)


def test_a_constant_vector_normalises_to_zeros():
    np.testing.assert_array_equal(overall_score(np.full(3, 7.0), np.array([0.0, 1.0, 2.0]), 0.5), [0.0, 0.25, 0.5])
    np.testing.assert_array_equal(overall_score(np.array([0.0, 1.0, 2.0]), np.full(3, -7.0), 0.5), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(overall_score(np.full(3, 1.0), np.full(3, 1.0), 0.5), np.zeros(3))


def test_the_scale_of_neither_score_matters():
    random = np.random.default_rng(0)
    influence, effort = random.normal(size=20), random.gamma(2, size=20)
    np.testing.assert_allclose(
        overall_score(1e6 * influence - 5, 1e-6 * effort + 3, 0.3), overall_score(influence, effort, 0.3), atol=1e-8
    )


def test_what_is_not_finite_does_not_spoil_the_others():
    influence = np.array([0.0, np.nan, 1.0, 2.0, np.inf])
    effort = np.array([0.0, 1.0, 4.0, -np.inf, 2.0])
    found = overall_score(influence, effort, 1.0)
    np.testing.assert_allclose(found, [0.0, np.nan, 0.5 + 1.0, np.nan, np.nan])


def test_scores_without_a_finite_one_stay_so():
    assert np.isnan(overall_score(np.full(3, np.nan), np.arange(3.0), 0.5)).all()


def test_whole_numbers_are_scores_too():
    assert overall_score(np.array([0, 2, 4]), np.array([1, 1, 1]), 0.5).tolist() == [0.0, 0.5, 1.0]


def test_selection_is_that_of_the_overall_score():
    random = np.random.default_rng(1)
    influence, effort = random.normal(size=200), random.gamma(2, size=200)
    sampler = dealrec(influence, effort, n_fewshot=40, n_groups=10, hard_prune_ratio=0.2, effort_weight=0.3, seed=7)
    selected = sampler.sample(range(200))
    score = overall_score(influence, effort, 0.3)
    np.testing.assert_array_equal(selected, coverage_enhanced_selection(score, 40, 10, 0.2, 7))
    assert set(sampler.columns) == {"influence", "effort", "score", "group"}
    np.testing.assert_array_equal(sampler.columns["influence"], influence)
    np.testing.assert_array_equal(sampler.columns["effort"], effort)
    np.testing.assert_allclose(sampler.columns["score"], score)
    pruned = sampler.columns["group"] < 0
    assert pruned.sum() == 40 and score[pruned].min() >= score[~pruned].max()
    assert not np.isin(np.flatnonzero(pruned), selected).any()


def test_excluded_samples_are_counted_in_the_log(caplog):
    influence = np.arange(10.0)
    effort = np.arange(10.0)
    influence[[2, 5]], effort[[5, 7]] = np.nan, np.inf
    selected = dealrec(influence, effort, n_fewshot=7, hard_prune_ratio=0).sample(range(10))
    assert selected.tolist() == [0, 1, 3, 4, 6, 8, 9]
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.message.startswith("3 samples have a score that is not finite")


def test_nothing_is_logged_where_all_are_finite(caplog):
    dealrec(np.arange(10.0), np.arange(10.0)).sample(range(10))
    assert not caplog.records


def test_too_few_finite_scores_are_an_error():
    with pytest.raises(ValueError, match="only 2 samples"):
        dealrec([0.0, 1.0, np.nan, np.nan], np.zeros(4), hard_prune_ratio=0).sample(range(4))


@pytest.mark.parametrize(
    ("n", "ratio", "enough"), [(3, 0.0, True), (3, 0.34, False), (10, 0.7, True), (10, 0.8, False), (2, 0.0, False)]
)
def test_a_pool_that_the_prune_leaves_too_small_is_refused(n, ratio, enough):
    sampler = dealrec(np.arange(n), np.arange(n), hard_prune_ratio=ratio)
    if enough:
        sampler.check(range(n))
    else:
        with pytest.raises(InputError, match=f"n_fewshot is 3, but only {sampler.usable(n)} of {n} candidate samples"):
            sampler.check(range(n))


def test_it_is_registered():
    assert get_sampler("DEALRec") is DEALRecSampler
