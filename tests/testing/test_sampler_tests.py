"""SamplerTests pass on generated scores for what is registered, and each of them fails for a sampler that breaks it."""

import inspect

import numpy as np
import pytest

from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import FewShotSampler, register_sampler
from recbole_dealrec.scorer.scorer import scorer_names
from recbole_dealrec.testing import SamplerTests
from recbole_dealrec.testing.generated import generated_samples, generated_scores


@pytest.mark.parametrize("name", sorted(SAMPLERS))
class TestOnGeneratedScores(SamplerTests):
    @pytest.fixture
    def scores(self, name):
        if name == "GORACS":
            pytest.importorskip("ot")
        return generated_scores(generated_samples(200), scorer_names())

    @pytest.mark.slow
    @pytest.mark.parametrize("n_fewshot", [1, 7, 120])
    def test_any_size(self, make, samples, n_fewshot):
        super().test_any_size(make, samples, n_fewshot)


class Good(FewShotSampler):
    """The highest efforts, the earlier ones first."""

    needs = ("effort",)
    ranked_by = "effort"

    def sample(self, samples):
        self.columns = dict(self.scores)
        return np.sort(np.argsort(-self.scores["effort"], kind="stable")[: self.config["n_fewshot"]])


class Unsorted(Good):
    """It returns them in reverse order."""

    def sample(self, samples):
        return super().sample(samples)[::-1]


class Repeated(Good):
    """It returns one of them twice."""

    def sample(self, samples):
        selected = super().sample(samples)
        return np.sort(np.append(selected[1:], selected[-1]))


class Unseeded(Good):
    """It draws from NumPy's own generator."""

    def sample(self, samples):
        super().sample(samples)
        return np.sort(np.random.permutation(len(samples))[: self.config["n_fewshot"]])


class Unread(Good):
    """It needs a score that it does not read."""

    needs = ("effort", "influence")

    def sample(self, samples):
        self.columns = {"effort": self.scores["effort"]}
        return np.arange(self.config["n_fewshot"])


class Overwriting(Good):
    """It sorts the scores of all samplers."""

    def sample(self, samples):
        self.scores["effort"].sort()
        return super().sample(samples)


class Shifting(Good):
    """It changes the candidates of all samplers."""

    def sample(self, samples):
        samples.item_id[:] = 1
        return super().sample(samples)


class ShortColumn(Good):
    """Its column has the values of the selected samples alone."""

    def sample(self, samples):
        selected = super().sample(samples)
        self.columns["effort"] = self.scores["effort"][selected]
        return selected


class Ungrouped(Good):
    """It selects samples of no group."""

    def sample(self, samples):
        selected = super().sample(samples)
        self.columns["group"] = np.full(len(samples), -1)
        return selected


class Unranked(Good):
    """It ranks by a column that it does not give."""

    ranked_by = "influence"


class Undocumented(Good):
    pass


class Lazy(Good):
    """It refuses nothing."""

    def check(self, samples):
        pass


class Timed(Good):
    """It needs times, and does not say so."""

    def sample(self, samples):
        samples.time.argsort()
        return super().sample(samples)


class Half(Good):
    """It says that half can be taken, and takes a quarter."""

    def usable(self, n_candidates):
        return n_candidates // 2

    def sample(self, samples):
        return super().sample(samples)[: len(samples) // 4]


BROKEN = {
    Good: set(),
    Unsorted: {"test_as_many_as_asked_for_sorted_and_unique"},
    Repeated: {"test_as_many_as_asked_for_sorted_and_unique", "test_all_that_is_usable_can_be_taken", "test_any_size"},
    Unseeded: {"test_the_same_seed_gives_the_same_samples"},
    Unread: {"test_it_reads_the_scores_that_it_needs"},
    Overwriting: {"test_it_leaves_all_as_it_was"},
    Shifting: {"test_it_leaves_all_as_it_was"},
    ShortColumn: {"test_columns_are_one_value_a_candidate", "test_the_column_that_it_ranks_by_is_there"},
    Ungrouped: {"test_columns_are_one_value_a_candidate"},
    Unranked: {"test_the_column_that_it_ranks_by_is_there"},
    Undocumented: {"test_its_rule_is_written_down"},
    Lazy: {"test_more_is_refused_before_it_has_scores"},
    Timed: {"test_times_are_used_or_not_needed"},
    Half: {"test_all_that_is_usable_can_be_taken", "test_any_size"},
}
TESTS = [name for name in vars(SamplerTests) if name.startswith("test_")]


def test_every_test_is_broken_by_a_sampler():
    assert set(TESTS) == set().union(*BROKEN.values())


@pytest.fixture
def failing(monkeypatch):
    """``failing(kind)``: names of the tests that a class of samplers fails."""

    def run(kind):
        monkeypatch.setattr(SAMPLERS, "entries", {name: SAMPLERS.entries[name] for name in SAMPLERS})
        register_sampler(kind.__name__)(kind)
        tests = type("Tests", (SamplerTests,), {"sampler": kind.__name__})()
        return {test for test in TESTS if _fails(tests, test)}

    return run


def _fails(tests, test):
    """Run a test with its fixtures, as pytest would."""
    plain = {name: inspect.unwrap(vars(SamplerTests)[name]).__get__(tests) for name in ("name", "keys", "samples")}
    values = {name: make() for name, make in plain.items()} | {"n_fewshot": 120}
    values["scores"] = generated_scores(values["samples"], SAMPLERS.get(tests.sampler).needs)
    values["make"] = inspect.unwrap(vars(SamplerTests)["make"])(tests, values["name"], values["scores"], values["keys"])
    function = getattr(tests, test)
    try:
        function(**{name: values[name] for name in inspect.signature(function).parameters})
    except (AssertionError, IndexError, KeyError, AttributeError, ValueError, InputError, pytest.fail.Exception):
        return True
    return False


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_sampler_fails_what_it_breaks(kind, failing):
    assert failing(kind) == BROKEN[kind]
