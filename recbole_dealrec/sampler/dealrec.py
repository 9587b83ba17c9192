"""DEALRec: influence plus effort, selected with coverage."""

from logging import getLogger

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.base import FewShotSampler, register_sampler
from recbole_dealrec.sampler.coverage import draw_from_groups, n_after_pruning, score_groups


@register_sampler("DEALRec")
class DEALRecSampler(FewShotSampler):
    """Lin et al., SIGIR 2024: S = minmax(I) + lambda * minmax(E), then coverage-enhanced selection.

    The paper's text adds the raw scores; its released code normalises both first, as done here.
    """

    def usable(self, n_candidates: int) -> int:
        return n_after_pruning(n_candidates, self.config["hard_prune_ratio"])

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        config = self.config
        influence = self.scorers["influence"].score(samples)
        effort = self.scorers["effort"].score(samples)
        score = overall_score(influence, effort, config["effort_weight"])
        excluded = int(np.count_nonzero(~np.isfinite(score)))
        if excluded:
            getLogger().warning(f"{excluded} samples have a score that is not finite and are excluded")
        group = score_groups(score, config["n_groups"], config["hard_prune_ratio"])
        self.columns = {"influence": influence, "effort": effort, "score": score, "group": group}
        return draw_from_groups(group, config["n_fewshot"], config["seed"])


def overall_score(influence: np.ndarray, effort: np.ndarray, effort_weight: float) -> np.ndarray:
    """S = minmax(I) + lambda * minmax(E), float64 [n]; NaN where one of the two is not finite."""
    return _minmax(influence) + effort_weight * _minmax(effort)


def _minmax(values: np.ndarray) -> np.ndarray:
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    if np.isnan(values).all():
        return values
    low, high = np.nanmin(values), np.nanmax(values)
    return (values - low) / ((high - low) or 1.0)
