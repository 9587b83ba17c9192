"""Base classes of samplers by one score: the highest scores, or its whole range."""

from abc import abstractmethod

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.coverage import draw_from_groups, n_after_pruning, score_groups
from recbole_dealrec.sampler.few_shot import FewShotSampler, report_excluded


class ScoreSampler(FewShotSampler):
    """Base class of samplers by one score, ``ranked_by`` unless ``ranking`` is overridden."""

    def ranking(self) -> np.ndarray:
        """Return the score to select by, float64 [n]; larger is more important."""
        return self.scores[self.ranked_by]

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        score = self.ranking()
        self.columns = {**{name: self.scores[name] for name in self.needs}, self.ranked_by: score}
        report_excluded(np.isfinite(score))
        return self.select(score)

    @abstractmethod
    def select(self, score: np.ndarray) -> np.ndarray:
        """Return the indices of the chosen samples, int64 [n_fewshot], sorted; all have finite scores."""


class HighestSampler(ScoreSampler):
    """The ``n_fewshot`` highest scores; of equal scores, the earlier samples."""

    def select(self, score: np.ndarray) -> np.ndarray:
        return highest(score, self.config["n_fewshot"])


class CoverageSampler(ScoreSampler):
    """``coverage_enhanced_selection`` with the keys ``n_groups`` and ``hard_prune_ratio``."""

    def usable(self, n_candidates: int) -> int:
        return n_after_pruning(n_candidates, self.config["hard_prune_ratio"])

    def select(self, score: np.ndarray) -> np.ndarray:
        group = score_groups(score, self.config["n_groups"], self.config["hard_prune_ratio"])
        self.columns["group"] = group
        return draw_from_groups(group, self.config["n_fewshot"], self.config["seed"])


def highest(scores: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Return the indices of the highest scores, int64 [n_fewshot], sorted; of equal scores, the first ones.

    Raises:
        ValueError: fewer than ``n_fewshot`` scores are finite.
    """
    finite = np.flatnonzero(np.isfinite(scores))
    if len(finite) < n_fewshot:
        raise ValueError(f"n_fewshot is {n_fewshot}, but only {len(finite)} scores are finite")
    return np.sort(finite[np.argsort(-scores[finite], kind="stable")[:n_fewshot]])
