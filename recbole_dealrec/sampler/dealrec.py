"""DEALRec, which selects by influence and effort with coverage, and its ablations."""

import numpy as np

from recbole_dealrec.sampler.few_shot import register_sampler
from recbole_dealrec.sampler.score import CoverageSampler, HighestSampler


@register_sampler("DEALRec")
class DEALRecSampler(CoverageSampler):
    """Coverage-enhanced selection on S = minmax(I) + lambda * minmax(E) (Lin et al., SIGIR 2024).

    The paper's text adds the raw scores; its released code normalises both first, as this class does.
    """

    needs = ("influence", "effort")
    ranked_by = "score"

    def ranking(self) -> np.ndarray:
        return overall_score(self.scores["influence"], self.scores["effort"], self.config["effort_weight"])


@register_sampler("InfluenceOnly")
class InfluenceOnlySampler(CoverageSampler):
    """DEALRec without the effort: coverage-enhanced selection on the influence; the paper's figure 4."""

    needs = ("influence",)
    ranked_by = "influence"


@register_sampler("EffortOnly")
class EffortOnlySampler(CoverageSampler):
    """DEALRec without the influence: coverage-enhanced selection on the effort; the paper's figure 4."""

    needs = ("effort",)
    ranked_by = "effort"


@register_sampler("Greedy")
class GreedySampler(HighestSampler):
    """DEALRec without coverage: the highest overall scores; the paper's figure 4.

    There is no hard prune, which is part of coverage-enhanced selection.
    """

    needs = DEALRecSampler.needs
    ranked_by = DEALRecSampler.ranked_by
    ranking = DEALRecSampler.ranking


def overall_score(influence: np.ndarray, effort: np.ndarray, effort_weight: float) -> np.ndarray:
    """Return S = minmax(I) + lambda * minmax(E), float64 [n]; NaN where one of the two is not finite."""
    return _minmax(influence) + effort_weight * _minmax(effort)


def _minmax(values: np.ndarray) -> np.ndarray:
    """Scale values to [0, 1], float64 [n]; NaN where one is not finite."""
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    if np.isnan(values).all():
        return values
    low, high = np.nanmin(values), np.nanmax(values)
    return (values - low) / ((high - low) or 1.0)
