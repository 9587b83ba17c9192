"""Samplers that draw from clusters of the candidates: TF-DCon, S2L, RecRanker."""

import math
import warnings

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.coverage import PRUNED, draw_from_groups
from recbole_dealrec.sampler.few_shot import FewShotSampler, register_sampler, report_excluded

_MOST_EXACT = 20_000  # largest number of points for k-means; mini-batch k-means clusters more
_S2L_CLUSTERS = 100  # as in the released code
_RECRANKER_CLUSTERS = 10  # as in the released code, like the two below
_RECRANKER_SHARE = 0.6  # share of the budget drawn by importance, and also the share drawn by clusters
_RECRANKER_PENALTY = 0.95


class ClusterSampler(FewShotSampler):
    """Base class of samplers that draw equal shares of the clusters, in order of size, the smallest first."""

    def draw_evenly(self, points: np.ndarray, n_clusters: int) -> np.ndarray:
        """Draw sample indices evenly from clusters of ``points``, float [n, d]; int64 [n_fewshot], sorted."""
        group = clusters(points, n_clusters, self.config["seed"])
        report_excluded(group >= 0)
        self.columns = {"group": group}
        return draw_from_groups(group, self.config["n_fewshot"], self.config["seed"])


@register_sampler("TF-DCon")
class TFDConSampler(ClusterSampler):
    """Equal shares of clusters of histories (Wu et al., arXiv 2310.09874, as the DEALRec paper adapts it).

    TF-DCon itself generates new samples. The adaptation clusters the representations of the histories by the surrogate
    and by the language model, with equal weight, and draws from each of ``n_groups`` clusters. The number drawn from
    each is not published; here it is an equal share, smallest cluster first, as in coverage-enhanced selection.
    """

    needs = ("surrogate_representation", "llm_representation")

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        points = np.hstack([_scale_to_unit_spread(self.scores[name]) for name in self.needs])
        return self.draw_evenly(points, self.config["n_groups"])


@register_sampler("S2L")
class S2LSampler(ClusterSampler):
    """SmallToLarge: equal shares of clusters of loss trajectories (Yang et al., NeurIPS 2024, arXiv 2403.07384).

    A sample's trajectory is its loss at each evaluation during the training of a small model, here the surrogate. There
    are 100 clusters, as in the released code; the smallest are drawn from first.
    """

    needs = ("loss_trajectory",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        return self.draw_evenly(self.scores["loss_trajectory"], _S2L_CLUSTERS)


@register_sampler("RecRanker")
class RecRankerSampler(FewShotSampler):
    """Draws by history length and by clusters (Luo et al., TOIS 2024, arXiv 2312.16018, and its released code).

    60 % of the budget is drawn with weights ln(number of interactions), and 60 % from ten clusters of the surrogate's
    representations, in proportion to their size; both with replacement. The few-shot samples are drawn from these; a
    sample that was drawn c times has weight c * 0.95^(c - 1). The authors draw them with replacement; here they are
    drawn without replacement, and the first draws are repeated until they contain enough different samples. A history
    counts at most ``MAX_ITEM_LIST_LENGTH`` interactions.
    """

    needs = ("surrogate_representation",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        n_fewshot, random = self.config["n_fewshot"], np.random.default_rng(self.config["seed"])
        representation = self.scores["surrogate_representation"]
        group = clusters(representation, _RECRANKER_CLUSTERS, self.config["seed"])
        importance = np.log(samples.item_length + 1)
        importance /= importance.sum()
        self.columns = {"group": group}
        draws, times = math.ceil(_RECRANKER_SHARE * n_fewshot), np.zeros(len(samples), dtype=np.int64)
        while np.count_nonzero(times) < n_fewshot:
            times += np.bincount(random.choice(len(samples), draws, p=importance), minlength=len(samples))
            times += np.bincount(_proportional_draws(group, draws, random), minlength=len(samples))
        weight = times * _RECRANKER_PENALTY ** (times - 1.0)
        return np.sort(random.choice(len(samples), n_fewshot, replace=False, p=weight / weight.sum()))


def clusters(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return the cluster of each point by k-means, in small batches if there are many points.

    Args:
        points: float [n, d].
        n_clusters: number of clusters; fewer result if there are fewer distinct points.
        seed: seed of the initial centres.

    Returns:
        int64 [n] in [0, n_clusters); -1 where a coordinate is not finite.
    """
    group = np.full(len(points), PRUNED, dtype=np.int64)
    finite = np.isfinite(points).all(axis=1)
    n_finite = int(finite.sum())
    method = KMeans if n_finite <= _MOST_EXACT else MiniBatchKMeans
    means = method(min(n_clusters, n_finite), n_init=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        group[finite] = means.fit_predict(points if n_finite == len(points) else points[finite])
    return group


def _proportional_draws(group: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draw indices with replacement, from each group in proportion to its size; int64 [draws]."""
    order = np.argsort(group, kind="stable")
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    ends = np.round(np.cumsum(sizes) * (draws / len(group))).astype(np.int64)
    shares = np.diff(ends, prepend=0)
    return order[np.repeat(starts, shares) + random.integers(np.repeat(sizes, shares))]


def _scale_to_unit_spread(points: np.ndarray) -> np.ndarray:
    """Centre points and scale them to a mean squared distance of 1 from the centre, over the finite points."""
    finite = points[np.isfinite(points).all(axis=1)]
    centre = finite.mean(axis=0)
    spread = np.linalg.norm(finite - centre) / np.sqrt(len(finite))
    return (points - centre) / (spread or 1.0)
