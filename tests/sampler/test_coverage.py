"""Coverage-enhanced selection, against hand-worked groups and a literal reading of the algorithm."""

import tracemalloc
import warnings
from fractions import Fraction
from time import process_time

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recbole_dealrec.sampler import coverage_enhanced_selection
from recbole_dealrec.sampler.coverage import draw_from_groups, n_after_pruning, score_groups

# Sizes 1, 3, 6 and 10.
TEN_GROUPS = np.repeat([2, 0, 3, 1], [1, 3, 6, 10])


def groups_by_hand(scores, n_groups, hard_prune_ratio):
    """Places in the ranges as exact fractions; None where a score is dropped."""
    finite = [index for index, score in enumerate(scores) if np.isfinite(score)]
    ranked = sorted(finite, key=lambda index: scores[index])
    kept = ranked[: len(ranked) - int(np.floor(len(ranked) * hard_prune_ratio))]
    places = [None] * len(scores)
    if kept:
        low, high = Fraction(scores[kept[0]]), Fraction(scores[kept[-1]])
        for index in kept:
            share = (Fraction(scores[index]) - low) / (high - low) if high > low else Fraction(0)
            places[index] = share * n_groups
    return places


def shares_by_hand(groups, n_fewshot):
    """How many each group gives: the smallest gives min(its size, budget // groups left) and goes, and so on."""
    left = {group: int((groups == group).sum()) for group in set(groups.tolist()) if group >= 0}
    budget, shares = n_fewshot, {}
    while left:
        smallest = min(left, key=lambda group: (left[group], group))
        shares[smallest] = min(left[smallest], budget // len(left))
        budget -= shares[smallest]
        del left[smallest]
    return shares


@pytest.mark.parametrize(
    ("n_fewshot", "expected"),
    [
        (4, {2: 1, 0: 1, 3: 1, 1: 1}),
        (8, {2: 1, 0: 2, 3: 2, 1: 3}),  # 8 // 4, 7 // 3, 5 // 2, 3
        (11, {2: 1, 0: 3, 3: 3, 1: 4}),
        (15, {2: 1, 0: 3, 3: 5, 1: 6}),
        (19, {2: 1, 0: 3, 3: 6, 1: 9}),
        (20, {2: 1, 0: 3, 3: 6, 1: 10}),
        (2, {2: 0, 0: 0, 3: 1, 1: 1}),
        (0, {2: 0, 0: 0, 3: 0, 1: 0}),
    ],
)
def test_shares_of_groups(n_fewshot, expected):
    chosen = draw_from_groups(TEN_GROUPS, n_fewshot, seed=0)
    assert {group: int((TEN_GROUPS[chosen] == group).sum()) for group in expected} == expected
    assert shares_by_hand(TEN_GROUPS, n_fewshot) == expected


def test_groups_by_hand():
    scores = np.array([0.0, 0.9, 1.0, 1.9, 2.0, 3.9, 4.0])
    assert score_groups(scores, n_groups=4, hard_prune_ratio=0).tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert score_groups(scores[::-1], n_groups=4, hard_prune_ratio=0).tolist() == [3, 3, 2, 1, 1, 0, 0]
    assert score_groups(-scores, n_groups=2, hard_prune_ratio=0).tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_the_prune_comes_before_the_ranges():
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1000.0])
    assert score_groups(scores, n_groups=2, hard_prune_ratio=0.1).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, -1]
    assert score_groups(scores, n_groups=2, hard_prune_ratio=0).tolist() == [0] * 9 + [1]


@pytest.mark.parametrize(
    ("n", "ratio", "left"), [(10, 0.1, 9), (9, 0.1, 9), (19, 0.1, 18), (10, 0, 10), (10, 0.99, 1), (0, 0.5, 0)]
)
def test_size_of_the_prune(n, ratio, left):
    assert n_after_pruning(n, ratio) == left
    assert (score_groups(np.arange(float(n)), 5, ratio) >= 0).sum() == left


finite_scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, allow_subnormal=False))
any_scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(width=64))
tied_scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.integers(0, 3).map(float))
ratios = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])


@given(finite_scores | tied_scores | any_scores, st.integers(1, 12), ratios, st.integers(0, 2**32 - 1), st.data())
@example(np.array([-1.7e308, 1.7e308, 0.0]), 5, 0.0, 0, None)
@example(np.array([0.0, 5e-324, 1e-323]), 5, 0.0, 0, None)
def test_selection_is_a_selection(scores, n_groups, ratio, seed, data):
    left = n_after_pruning(int(np.isfinite(scores).sum()), ratio)
    n_fewshot = data.draw(st.integers(0, left)) if data else left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = coverage_enhanced_selection(scores, n_fewshot, n_groups, ratio, seed)
    assert chosen.dtype == np.int64 and chosen.shape == (n_fewshot,)
    assert (np.diff(chosen) > 0).all()
    assert not n_fewshot or 0 <= chosen[0] <= chosen[-1] < len(scores)
    assert np.isfinite(scores[chosen]).all()
    np.testing.assert_array_equal(chosen, coverage_enhanced_selection(scores, n_fewshot, n_groups, ratio, seed))


@given(finite_scores | tied_scores | any_scores, st.integers(1, 12), ratios)
def test_the_highest_are_pruned_and_no_other_is_lost(scores, n_groups, ratio):
    groups = score_groups(scores, n_groups, ratio)
    finite = np.isfinite(scores)
    kept = groups >= 0
    assert groups.dtype == np.int64 and groups.max() < n_groups and groups.min() >= -1
    assert not kept[~finite].any()
    assert kept.sum() == finite.sum() - int(np.floor(finite.sum() * ratio))
    if kept.any() and (finite & ~kept).any():
        assert scores[kept].max() <= scores[finite & ~kept].min()


@given(finite_scores | tied_scores, st.integers(1, 12), ratios)
def test_groups_are_the_ranges_of_equal_width(scores, n_groups, ratio):
    assume(len(scores) == 1 or np.ptp(scores) == 0 or np.ptp(scores) > 1e-6)
    groups = score_groups(scores, n_groups, ratio)
    for group, score, place in zip(groups, scores, groups_by_hand(scores.tolist(), n_groups, ratio), strict=True):
        tied_with_pruned = np.count_nonzero(scores == score) > 1  # either of two equal scores may be pruned
        if place is None or group < 0:
            assert (place is None and group < 0) or tied_with_pruned
        else:
            exact = min(int(place), n_groups - 1)
            assert group == exact or abs(place - round(place)) < 1e-6  # on an edge, rounding decides


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=80).map(np.array), st.integers(0, 80), st.integers(0, 99))
def test_shares_are_those_of_the_algorithm(groups, n_fewshot, seed):
    assume(n_fewshot <= (groups >= 0).sum())
    chosen = draw_from_groups(groups, n_fewshot, seed)
    assert len(chosen) == n_fewshot
    counts = {group: int((groups[chosen] == group).sum()) for group in set(groups.tolist())}
    assert counts.pop(-1, 0) == 0
    assert counts == shares_by_hand(groups, n_fewshot)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_literal_algorithm(seed):
    random = np.random.default_rng(seed)
    n, n_groups = int(random.integers(20, 400)), int(random.integers(1, 60))
    ratio = float(random.choice([0, 0.1, 0.3]))
    scores = random.gamma(2, size=n)
    places = groups_by_hand(scores.tolist(), n_groups, ratio)
    expected = np.array([-1 if place is None else min(int(place), n_groups - 1) for place in places])
    np.testing.assert_array_equal(score_groups(scores, n_groups, ratio), expected)
    n_fewshot = int(random.integers(1, (expected >= 0).sum() + 1))
    chosen = coverage_enhanced_selection(scores, n_fewshot, n_groups, ratio, seed)
    shares = shares_by_hand(expected, n_fewshot)
    assert {group: int((expected[chosen] == group).sum()) for group in shares} == shares


@pytest.mark.parametrize("n", [1, 7, 50])
def test_constant_scores_are_one_group(n):
    assert score_groups(np.full(n, 0.3), 5, 0).tolist() == [0] * n
    assert coverage_enhanced_selection(np.full(n, 0.3), n, 5, 0).tolist() == list(range(n))


def test_the_best_that_remains_is_selectable():
    # (high - low) / width * n_groups must not lie past the last group.
    for high in (0.1, 0.3, 0.7, 1.1, 3.3, 1e-300, 1e300):
        for n_groups in (1, 3, 7, 10, 49, 50):
            scores = np.linspace(0, high, 101)
            groups = score_groups(scores, n_groups, 0)
            assert groups[-1] == n_groups - 1 and groups[0] == 0 and (np.diff(groups) >= 0).all()


def test_scores_that_are_not_finite_do_not_shift_the_ranges():
    scores = np.array([0.0, np.nan, 1.0, np.inf, 2.0, -np.inf, 3.0])
    assert score_groups(scores, 3, 0).tolist() == [0, -1, 1, -1, 2, -1, 2]
    assert coverage_enhanced_selection(scores, 4, 3, 0).tolist() == [0, 2, 4, 6]


def test_lists_and_integers_are_scores_too():
    assert coverage_enhanced_selection([3, 1, 2], 3, 2, 0).tolist() == [0, 1, 2]
    assert coverage_enhanced_selection(np.arange(10, dtype=np.float32), 9).tolist() == list(range(9))


def test_seeds_differ_where_there_is_a_choice():
    scores = np.random.default_rng(0).normal(size=500)
    draws = {tuple(coverage_enhanced_selection(scores, 50, seed=seed)) for seed in range(10)}
    assert len(draws) == 10
    assert tuple(coverage_enhanced_selection(scores, 50)) == tuple(coverage_enhanced_selection(scores, 50, seed=0))


def test_draws_inside_a_group_are_uniform():
    groups = np.repeat([0, 1], [4, 12])
    picked = np.zeros(16)
    for seed in range(3000):
        picked[draw_from_groups(groups, 6, seed)] += 1
    # Three of four and three of twelve; five standard deviations of a binomial share.
    np.testing.assert_allclose(picked[:4] / 3000, 0.75, atol=5 * np.sqrt(0.75 * 0.25 / 3000))
    np.testing.assert_allclose(picked[4:] / 3000, 0.25, atol=5 * np.sqrt(0.75 * 0.25 / 3000))


def test_input_is_left_alone():
    scores = np.array([3.0, 1.0, np.nan, 2.0])
    before = scores.copy()
    coverage_enhanced_selection(scores, 2)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize(
    ("scores", "n_fewshot", "ratio", "left"),
    [
        (np.arange(10.0), 10, 0.1, 9),
        (np.arange(10.0), 11, 0.0, 10),
        (np.array([1.0, np.nan, np.inf]), 2, 0.0, 1),
        (np.full(4, np.nan), 1, 0.1, 0),
        (np.empty(0), 1, 0.1, 0),
    ],
)
def test_too_few_samples_are_an_error(scores, n_fewshot, ratio, left):
    with pytest.raises(ValueError, match=f"n_fewshot is {n_fewshot}, but only {left} samples"):
        coverage_enhanced_selection(scores, n_fewshot, hard_prune_ratio=ratio)


def test_ten_million_scores_take_less_than_two_seconds():
    scores = np.random.default_rng(0).normal(size=10_000_000)
    start = process_time()
    chosen = coverage_enhanced_selection(scores, 20_000)
    assert process_time() - start < 2
    assert len(chosen) == 20_000


def selected_by_full_sorts(scores, n_fewshot, n_groups, hard_prune_ratio, seed):
    """The same selection with a stable sort of all scores and a pass over them for each group."""
    finite = np.flatnonzero(np.isfinite(scores))
    ranked = finite[np.argsort(scores[finite], kind="stable")]
    kept = np.sort(ranked[: n_after_pruning(len(ranked), hard_prune_ratio)])
    halves = scores[kept] / 2
    place = (halves - halves.min()) / ((halves.max() - halves.min()) or 1.0) * n_groups
    group = np.minimum(place.astype(np.int64), n_groups - 1)
    members = sorted((kept[group == number] for number in np.unique(group)), key=len)
    random, chosen, budget = np.random.default_rng(seed), [], n_fewshot
    for number, rows in enumerate(members):
        chosen.append(random.choice(rows, min(len(rows), budget // (len(members) - number)), replace=False))
        budget -= len(chosen[-1])
    return np.sort(np.concatenate(chosen))


def some_not_finite(random, n):
    scores = random.gamma(0.5, size=n)
    scores[random.integers(n, size=n // 100)] = random.choice([np.nan, np.inf, -np.inf], n // 100)
    return scores


MANY_SCORES = {
    "normal": lambda random, n: random.normal(size=n),
    "some not finite": some_not_finite,
    "many ties": lambda random, n: random.integers(-3, 4, n).astype(np.float64),
}


@pytest.mark.parametrize(("n", "n_groups", "ratio"), [(10**6, 50, 0.1), (10**6, 7, 0.0), (10**4, 40_000, 0.5)])
@pytest.mark.parametrize("kind", MANY_SCORES)
def test_many_scores_are_selected_as_by_full_sorts(kind, n, n_groups, ratio):
    scores = MANY_SCORES[kind](np.random.default_rng(3), n)
    expected = selected_by_full_sorts(scores, n // 50, n_groups, ratio, 5)
    np.testing.assert_array_equal(coverage_enhanced_selection(scores, n // 50, n_groups, ratio, 5), expected)


def test_selection_takes_little_memory():
    scores = np.random.default_rng(0).normal(size=1_000_000)
    tracemalloc.start()
    coverage_enhanced_selection(scores, 20_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * len(scores)  # bytes, the scores' own 8 not among them
