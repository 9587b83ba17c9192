"""GORACS: swaps against the optimum over all subsets, transport by its dual."""

import itertools
import sys

import numpy as np
import pytest

from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.sampler.facility import cover_greedily
from recbole_dealrec.sampler.goracs import improve_by_swaps, transport_cost, transport_distance


@pytest.fixture
def pot():
    return pytest.importorskip("ot", reason="POT is an optional extra")


def test_cost_by_hand():
    distance = np.array([[0.0, 2.0], [4.0, 1.0], [3.0, 2.0]])
    effort = np.array([1.0, 5.0, 0.0])
    # Shares of the maxima: [0, .5], [1, .25], [.75, .5] less 0.5 * [.2, 1, 0], then from [-.25, .75] to [0, 1].
    expected = np.array([[0.15, 0.65], [0.75, 0.0], [1.0, 0.75]])
    np.testing.assert_allclose(transport_cost(distance, effort, 0.5), expected, atol=1e-12)
    assert transport_cost(np.zeros((2, 2)), np.zeros(2), 0.1).tolist() == [[0, 0], [0, 0]]
    assert transport_cost(distance.astype(np.float32), effort, 0.5).dtype == np.float32


def test_transport_of_equal_numbers_is_an_assignment(pot):
    from scipy.optimize import linear_sum_assignment

    cost = np.random.default_rng(0).random((20, 20))
    value, f, g = transport_distance(cost)
    assert value == pytest.approx(cost[linear_sum_assignment(cost)].mean(), abs=1e-12)
    assert (f[:, None] + g <= cost + 1e-9).all() and f.mean() + g.mean() == pytest.approx(value, abs=1e-12)


def objective(cost, chosen):
    return transport_distance(cost[np.asarray(chosen)])[0]


@pytest.mark.parametrize("seed", range(6))
def test_swaps_end_between_the_optimum_and_where_they_began(pot, seed):
    cost = np.random.default_rng(seed).random((10, 6))
    optimum = min(objective(cost, subset) for subset in itertools.combinations(range(10), 3))
    start = np.random.default_rng(seed).choice(10, 3, replace=False)
    found = improve_by_swaps(cost, start)
    assert len(set(found.tolist())) == 3
    assert optimum - 1e-12 <= objective(cost, found) <= objective(cost, start)
    # No single swap improves it further: the bound leaves out none that does.
    for place, row in itertools.product(range(3), set(range(10)) - set(found.tolist())):
        swapped = found.copy()
        swapped[place] = row
        assert objective(cost, swapped) >= objective(cost, found) - 1e-12


def test_the_bound_holds(pot):
    random = np.random.default_rng(3)
    cost, chosen = random.random((40, 15)), np.arange(10)
    value, f, g = transport_distance(cost[chosen])
    for place, row in itertools.product(range(10), range(10, 40)):
        swapped = chosen.copy()
        swapped[place] = row
        bound = value + ((cost[row] - g).min() - f[place]) / 10
        assert objective(cost, swapped) >= bound - 1e-9


def sampler(distance, effort, **keys):
    config = {"n_fewshot": 20, "seed": 0, "effort_weight": 0.1, **keys}
    made = get_sampler("GORACS")(config)
    made.scores = {"valid_distance": distance, "effort": effort}
    return made


def points(seed, n=300, m=60):
    random = np.random.default_rng(seed)
    candidates, goals = random.normal(size=(n, 4)), random.normal(size=(m, 4)) / 2 + [1, 1, 0, 0]  # another part of it
    distance = np.linalg.norm(candidates[:, None] - goals, axis=2)
    return candidates, goals, distance.astype(np.float32), random.gamma(2, size=n)


def test_the_subset_is_nearer_to_the_validation_samples_than_random_ones(pot):
    _, _, distance, effort = points(0)
    selected = sampler(distance, effort).sample(range(300))
    cost = transport_cost(distance, effort, 0.1)
    random = np.random.default_rng(0)
    others = [objective(cost, random.choice(300, 20, replace=False)) for _ in range(50)]
    greedy = objective(cost, cover_greedily(cost, 20))
    assert objective(cost, selected) < greedy < min(others)


def test_planted_copies_of_the_validation_samples_are_found(pot):
    random = np.random.default_rng(1)
    goals = random.normal(size=(20, 5))
    copies = random.permutation(200)[:20]
    candidates = 3 * random.normal(size=(200, 5))
    candidates[copies] = goals
    distance = np.linalg.norm(candidates[:, None] - goals, axis=2)
    assert sampler(distance, np.ones(200)).sample(range(200)).tolist() == sorted(copies)


def test_the_weight_pulls_to_large_gradients(pot):
    _, _, distance, effort = points(2)
    mean = [effort[sampler(distance, effort, effort_weight=weight).sample(range(300))].mean() for weight in (0, 0.5, 5)]
    assert mean[0] < mean[1] < mean[2]


def test_samples_that_are_not_finite_are_excluded(pot, caplog):
    _, _, distance, effort = points(3, n=30)
    effort[4], distance[9, 2] = np.nan, np.inf
    selected = sampler(distance, effort, n_fewshot=28).sample(range(30))
    assert selected.tolist() == sorted(set(range(30)) - {4, 9})
    assert "2 samples have a score that is not finite" in caplog.text


def test_fewer_finite_samples_than_asked_for_are_refused(pot):
    _, _, distance, effort = points(3, n=30)
    effort[4] = np.nan
    with pytest.raises(ValueError, match="n_fewshot is 30, but only 29 samples have finite scores"):
        sampler(distance, effort, n_fewshot=30).sample(range(30))


def test_without_pot_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(InputError, match=r'needs POT: pip install -e "\.\[goracs\]"'):
        get_sampler("GORACS")({})
