"""Samplers that go by one score: GraNd, EL2N, CCS, DEALRec's ablations; and Full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.config import Config
from recbole_dealrec.sampler import coverage_enhanced_selection, get_sampler, overall_score
from recbole_dealrec.sampler.score import highest

CONFIG = {"n_fewshot": 12, "seed": 3, "effort_weight": 0.5, "n_groups": 5, "hard_prune_ratio": 0.25}


def sampler(name, keys=None, **scores):
    made = get_sampler(name)({**CONFIG, **(keys or {})})
    made.scores = scores
    return made


@pytest.mark.parametrize(("name", "source"), [("GraNd", "grand"), ("EL2N", "el2n")])
def test_the_planted_hardest_are_taken(name, source):
    random = np.random.default_rng(0)
    scores, hardest = random.uniform(0, 1, 200), np.sort(random.choice(200, 12, replace=False))
    scores[hardest] += 1
    chosen = sampler(name, **{source: scores})
    np.testing.assert_array_equal(chosen.sample(range(200)), hardest)
    np.testing.assert_array_equal(chosen.columns[source], scores)
    assert chosen.usable(12) == 12  # nothing is pruned


def test_ccs_cuts_the_hardest_and_takes_of_every_stratum():
    # Strata of equal width over [0, 1]; the planted hardest quarter lies beyond.
    easy = np.repeat([0.05, 0.25, 0.45, 0.65, 1.0], [60, 10, 2, 2, 1])
    scores = np.random.default_rng(0).permutation(np.concatenate([easy, np.full(25, 5.0)]))
    selected = sampler("CCS", el2n=scores).sample(range(100))
    levels, counts = np.unique(scores[selected], return_counts=True)
    assert levels.tolist() == [0.05, 0.25, 0.45, 0.65, 1.0]
    assert counts.tolist() == [4, 3, 2, 2, 1]  # 12: one, (11 // 4), (9 // 3), 7 // 2, the rest
    np.testing.assert_array_equal(selected, coverage_enhanced_selection(scores, 12, 5, 0.25, 3))


def test_ccs_has_the_cut_of_its_authors(movies_path):
    for name, ratio in (("CCS", 0.3), ("DEALRec", 0.0)):
        keys = {"data_path": str(movies_path), "sampler": name}
        assert Config("BIGRec", "movies", config_dict=keys)["hard_prune_ratio"] == ratio


@pytest.mark.parametrize(("name", "source"), [("InfluenceOnly", "influence"), ("EffortOnly", "effort")])
def test_one_part_alone_is_selected_with_coverage(name, source):
    scores = np.random.default_rng(1).gamma(2, size=100)
    chosen = sampler(name, **{source: scores})
    np.testing.assert_array_equal(chosen.sample(range(100)), coverage_enhanced_selection(scores, 12, 5, 0.25, 3))
    assert list(chosen.columns) == [source, "group"] and chosen.usable(100) == 75


def test_greedy_takes_the_highest_overall_scores_unpruned():
    random = np.random.default_rng(2)
    influence, effort = random.normal(size=100), random.gamma(2, size=100)
    chosen = sampler("Greedy", influence=influence, effort=effort)
    selected = chosen.sample(range(100))
    score = overall_score(influence, effort, 0.5)
    assert sorted(selected) == sorted(np.argsort(score)[-12:])
    assert list(chosen.columns) == ["influence", "effort", "score"] and chosen.usable(100) == 100


@pytest.mark.parametrize(
    ("name", "places"), [("LossTop", range(88, 100)), ("LossMiddle", range(44, 56)), ("LossBottom", range(12))]
)
def test_the_ends_or_the_middle_of_the_losses_are_taken(name, places):
    order = np.random.default_rng(4).permutation(102)
    losses = np.empty(102)
    losses[order] = np.arange(102) ** 2.0
    losses[order[100:]] = np.nan, np.inf
    chosen = sampler(name, llm_loss=losses)
    np.testing.assert_array_equal(chosen.sample(range(102)), np.sort(order[list(places)]))
    assert list(chosen.columns) == ["llm_loss"]


@pytest.mark.parametrize("name", ["LossTop", "LossMiddle", "LossBottom"])
def test_too_few_finite_losses_are_an_error(name):
    losses = np.full(20, np.nan)
    losses[:11] = 1.0
    with pytest.raises(ValueError, match="n_fewshot is 12, but only 11 scores are finite"):
        sampler(name, llm_loss=losses).sample(range(20))


def test_full_takes_everything_from_any_pool():
    full = sampler("Full")
    for n in (1, 5, 50):
        full.check(range(n))
        np.testing.assert_array_equal(full.sample(range(n)), np.arange(n))


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf, -np.inf]), max_size=12), st.integers(0, 12))
def test_highest_against_sorting_pairs(values, count):
    ranked = sorted((-value, index) for index, value in enumerate(values) if np.isfinite(value))
    if len(ranked) < count:
        with pytest.raises(ValueError, match=f"only {len(ranked)} scores"):
            highest(np.array(values), count)
    else:
        found = highest(np.array(values), count)
        assert found.tolist() == sorted(index for _, index in ranked[:count])


def test_scores_that_are_not_finite_are_excluded_and_counted(caplog):
    scores = np.where(np.arange(40) % 3 == 0, np.nan, np.arange(40.0))
    selected = sampler("EL2N", el2n=scores).sample(range(40))
    assert selected.tolist() == [22, 23, 25, 26, 28, 29, 31, 32, 34, 35, 37, 38]
    assert "14 samples have a score that is not finite" in caplog.text
