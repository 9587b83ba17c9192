"""Samplers that need no model: by frequency, popularity or time of the target, or by length of the history."""

import math
from abc import abstractmethod
from logging import getLogger

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler.few_shot import FewShotSampler, register_sampler
from recbole_dealrec.sampler.score import highest

_WINDOW = 0.2  # share of the candidates


@register_sampler("TargetFrequency")
class TargetFrequencySampler(FewShotSampler):
    """Draw without replacement, so that the targets follow the frequencies of the validation part's targets.

    It uses the validation part's targets. If too few candidates have such a target, the rest is drawn uniformly.
    """

    needs = ("target_frequency",)
    ranked_by = "target_frequency"

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        weight, count = self.scores["target_frequency"], self.config["n_fewshot"]
        self.columns = {"target_frequency": weight}
        random = np.random.default_rng(self.config["seed"])
        wanted = np.flatnonzero(weight)
        if len(wanted) >= count:
            return np.sort(random.choice(len(samples), count, replace=False, p=weight / weight.sum()))
        missing = count - len(wanted)
        getLogger().warning(f"{len(wanted)} candidates have a validation target; {missing} more are drawn uniformly")
        others = random.choice(np.flatnonzero(weight == 0), missing, replace=False)
        return np.sort(np.concatenate([wanted, others]))


class CountSampler(FewShotSampler):
    """Base class of samplers by a count of each candidate, ``ranked_by``; equal counts are drawn at random."""

    @abstractmethod
    def count(self, samples: CandidateSamples) -> np.ndarray:
        """Return the count of each sample, int64 [n]."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        count = self.count(samples)
        self.columns = {self.ranked_by: count}
        shuffled = np.random.default_rng(self.config["seed"]).permutation(len(samples))
        return np.sort(shuffled[highest(count[shuffled], self.config["n_fewshot"])])


@register_sampler("Popular")
class PopularSampler(CountSampler):
    """The candidates with the targets that are most frequent among all candidates."""

    ranked_by = "target_count"

    def count(self, samples: CandidateSamples) -> np.ndarray:
        return np.bincount(samples.item_id)[samples.item_id]


@register_sampler("Longest")
class LongestSampler(CountSampler):
    """The candidates with the longest histories, which ``MAX_ITEM_LIST_LENGTH`` limits."""

    ranked_by = "history_length"

    def count(self, samples: CandidateSamples) -> np.ndarray:
        return samples.item_length


class TimeSampler(FewShotSampler):
    """Base class of samplers by the time of the target, which the data have to have."""

    def check(self, samples: CandidateSamples) -> None:
        """Raise InputError if the data have no times, or the pool is too small."""
        if samples.time is None:
            raise InputError(
                f"sampler {self.config['sampler']} needs the times of the interactions, which benchmark_filename has "
                "not; add the files' column of times to load_col, use data that RecBole splits, or another sampler"
            )
        super().check(samples)

    def latest(self, samples: CandidateSamples, count: int) -> np.ndarray:
        """Return the indices of the latest ``count`` samples, sorted."""
        self.columns = {"time": samples.time}
        return highest(samples.time, count)


@register_sampler("Recent")
class RecentSampler(TimeSampler):
    """The candidates with the latest targets."""

    ranked_by = "time"

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        return self.latest(samples, self.config["n_fewshot"])


@register_sampler("RecentWindow")
class RecentWindowSampler(TimeSampler):
    """Uniform draw from the latest fifth of the candidates, or from the latest 2 * ``n_fewshot`` if these are more.

    Training data of a recent window can serve better than all data (Verachtert et al., PERSPECTIVES at RecSys 2022).
    """

    ranked_by = "time"

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        n_fewshot, random = self.config["n_fewshot"], np.random.default_rng(self.config["seed"])
        window = max(2 * n_fewshot, math.ceil(_WINDOW * len(samples)))
        latest = self.latest(samples, min(window, len(samples)))
        return np.sort(random.choice(latest, n_fewshot, replace=False))
