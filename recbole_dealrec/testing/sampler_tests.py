"""What holds for every few-shot sampler, as a class of tests."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import FewShotSampler, FullSampler, get_sampler
from recbole_dealrec.testing.generated import generated_samples, generated_scores

Make = Callable[..., FewShotSampler]


class SamplerTests:
    """Tests that every few-shot sampler passes, on 200 generated candidates and scores.

    A subclass whose name begins with ``Test`` names its sampler; nothing else is needed, neither data nor a model::

        class TestFrequentTargets(SamplerTests):
            sampler = "FrequentTargets"

    What it is tested on are fixtures, which a subclass may override: ``samples``; ``scores``, if the sampler reads a
    score of another package that is no number for each candidate, or not any number; ``keys``, if the sampler cannot
    choose 40 of 200 candidates.

    Attributes:
        sampler: registered or entry-point name of the sampler.
    """

    sampler: str

    @pytest.fixture
    def name(self) -> str:
        """Return the name of the sampler."""
        return self.sampler

    @pytest.fixture
    def samples(self) -> CandidateSamples:
        """Return the candidates, at least 150; they have times."""
        return generated_samples(200)

    @pytest.fixture
    def scores(self, name: str, samples: CandidateSamples) -> Mapping[str, np.ndarray]:
        """Return the scores by name, at least those that the sampler needs."""
        return generated_scores(samples, get_sampler(name).needs)

    @pytest.fixture
    def keys(self) -> dict[str, Any]:
        """Return the configuration keys of all tests, those that a test changes excepted."""
        return {"n_fewshot": 40, "n_groups": 8, "show_progress": False, "use_gpu": False}

    @pytest.fixture
    def make(self, name: str, scores: Mapping[str, np.ndarray], keys: dict[str, Any]) -> Make:
        """Return ``make(**changed)``: the sampler with its default keys, ``keys`` and those changed, and its scores."""

        def build(**changed) -> FewShotSampler:
            values = {**keys, "sampler": name, **changed}
            sampler = get_sampler(name)(Config("BIGRec", "ml-100k", config_dict=values))
            sampler.scores = {needed: scores[needed] for needed in sampler.needs}
            return sampler

        return build

    def test_as_many_as_asked_for_sorted_and_unique(self, make: Make, samples: CandidateSamples) -> None:
        """``sample`` returns ``n_fewshot`` (``Full``: all) different indices of candidates, int64, ascending."""
        sampler = make()
        selected = sampler.sample(samples)
        assert selected.dtype == np.int64
        assert selected.shape == (_size(sampler, samples),)
        assert (np.diff(selected) > 0).all() and selected[0] >= 0 and selected[-1] < len(samples)

    @pytest.mark.parametrize("n_fewshot", [1, 7, 120])
    def test_any_size(self, make: Make, samples: CandidateSamples, n_fewshot: int) -> None:
        """1, 7 and 120 samples (or the ``usable`` ones, if they are fewer) are as many when asked for."""
        sampler = make(n_fewshot=min(n_fewshot, make().usable(len(samples))))
        assert len(np.unique(sampler.sample(samples))) == _size(sampler, samples)

    def test_all_that_is_usable_can_be_taken(self, make: Make, samples: CandidateSamples) -> None:
        """As many as ``usable`` returns pass ``check``, and are found."""
        usable = make().usable(len(samples))
        sampler = make(n_fewshot=usable)
        sampler.check(samples)
        assert len(np.unique(sampler.sample(samples))) == usable

    def test_more_is_refused_before_it_has_scores(self, make: Make, samples: CandidateSamples) -> None:
        """``check`` raises InputError for one more than ``usable``, without any score (``Full`` accepts any number)."""
        sampler = make(n_fewshot=make().usable(len(samples)) + 1)
        sampler.scores = {}
        if isinstance(sampler, FullSampler):
            sampler.check(samples)
        else:
            with pytest.raises(InputError, match=f"of {len(samples)} candidate samples can be chosen"):
                sampler.check(samples)

    def test_the_same_seed_gives_the_same_samples(self, make: Make, samples: CandidateSamples) -> None:
        """Two samplers of one seed choose the same, whatever was drawn from NumPy's and Python's own generators."""
        selected = make(seed=5).sample(samples)
        np.random.random()
        random.random()
        np.testing.assert_array_equal(make(seed=5).sample(samples), selected)

    def test_it_reads_the_scores_that_it_needs(self, make: Make, samples: CandidateSamples) -> None:
        """``sample`` reads each score in ``needs``, and no other."""
        sampler = make()
        sampler.scores = asked = _Asked(sampler.scores)
        sampler.sample(samples)
        assert asked.names == set(sampler.needs)

    def test_it_leaves_all_as_it_was(self, make: Make, samples: CandidateSamples) -> None:
        """``sample`` changes neither its scores nor the candidates, which other samplers get, too."""
        sampler = make()
        given = {**sampler.scores, **_arrays(samples)}
        before = {name: values.copy() for name, values in given.items()}
        sampler.sample(samples)
        assert all(values is given[name] for name, values in {**sampler.scores, **_arrays(samples)}.items())
        for name, values in before.items():
            np.testing.assert_array_equal(given[name], values, err_msg=f"{name} has changed")

    def test_columns_are_one_value_a_candidate(self, make: Make, samples: CandidateSamples) -> None:
        """Each of ``columns`` is an array [n]; a selected sample has a ``group`` of at least 0, if there are groups."""
        sampler = make()
        selected = sampler.sample(samples)
        for values in sampler.columns.values():
            assert values.shape == (len(samples),)
        if "group" in sampler.columns:
            assert (sampler.columns["group"][selected] >= 0).all()

    def test_the_column_that_it_ranks_by_is_there(self, make: Make, samples: CandidateSamples) -> None:
        """``ranked_by`` is None or one of ``columns``, with finite values where a sample is selected."""
        sampler = make()
        selected = sampler.sample(samples)
        if sampler.ranked_by is not None:
            assert np.isfinite(sampler.columns[sampler.ranked_by][selected]).all()

    def test_times_are_used_or_not_needed(self, make: Make, samples: CandidateSamples) -> None:
        """Candidates without times are refused by ``check`` with InputError, or chosen from as others are."""
        timeless, sampler = replace(samples, time=None), make()
        try:
            sampler.check(timeless)
        except InputError:
            return
        assert len(sampler.sample(timeless)) == _size(sampler, timeless)

    def test_its_rule_is_written_down(self, name: str) -> None:
        """The class has a docstring of its own, whose first line ``--list`` shows."""
        assert get_sampler(name).__dict__["__doc__"]


class _Asked(Mapping):
    """Scores that note in ``names`` which of them were read."""

    def __init__(self, scores: Mapping[str, np.ndarray]) -> None:
        self.scores, self.names = scores, set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.add(name)
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def _size(sampler: FewShotSampler, samples: CandidateSamples) -> int:
    return len(samples) if isinstance(sampler, FullSampler) else sampler.config["n_fewshot"]


def _arrays(samples: CandidateSamples) -> dict[str, np.ndarray]:
    values = {field.name: getattr(samples, field.name) for field in fields(samples)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
