"""Samplers that draw from clusters of the candidates: TF-DCon, S2L, RecRanker."""

import math
import warnings

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.coverage import PRUNED, draw_from_groups
from recbole_dealrec.sampler.few_shot import FewShotSampler, register_sampler, report_excluded

_MOST_EXACT = 20_000  # points up to which k-means sees all of them in each step
_S2L_CLUSTERS = 100  # of the released code
_RECRANKER_CLUSTERS = 10  # of the released code, as are the two below
_RECRANKER_SHARE = 0.6  # of the budget, drawn by importance and once more by clusters
_RECRANKER_PENALTY = 0.95


class ClusterSampler(FewShotSampler):
    """Draws an equal share of each cluster, smallest first, and what a cluster lacks from the larger ones."""

    def draw_evenly(self, points: np.ndarray, n_clusters: int) -> np.ndarray:
        """Return the indices of the chosen samples, int64 [n_fewshot], sorted; ``points`` are float [n, d]."""
        group = clusters(points, n_clusters, self.config["seed"])
        report_excluded(group >= 0)
        self.columns = {"group": group}
        return draw_from_groups(group, self.config["n_fewshot"], self.config["seed"])


@register_sampler("TF-DCon")
class TFDConSampler(ClusterSampler):
    """Clusters of users, an equal share of each (Wu et al., arXiv 2310.09874, as the DEALRec paper adapts it).

    TF-DCon itself writes new samples. The adaptation clusters the histories on the surrogate's and the language model's
    representations and draws from each of ``n_groups`` clusters. How many are drawn of each is not published: here an
    equal share, smallest cluster first, as in coverage-enhanced selection. The two representations weigh the same.
    """

    needs = ("surrogate_representation", "llm_representation")

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        points = np.hstack([_of_unit_spread(self.scores[name]) for name in self.needs])
        return self.draw_evenly(points, self.config["n_groups"])


@register_sampler("S2L")
class S2LSampler(ClusterSampler):
    """SmallToLarge: an equal share of each cluster of loss trajectories (Yang et al., NeurIPS 2024, arXiv 2403.07384).

    A sample's trajectory is its loss at each evaluation of a small model's training, here the surrogate's. 100
    clusters, as in the released code; the smallest give first.
    """

    needs = ("loss_trajectory",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        return self.draw_evenly(self.scores["loss_trajectory"], _S2L_CLUSTERS)


@register_sampler("RecRanker")
class RecRankerSampler(FewShotSampler):
    """Long histories, all clusters, few repetitions (Luo et al., TOIS 2024, arXiv 2312.16018, and its released code).

    0.6 of the budget is drawn with weights ln(number of interactions), as much again from ten clusters of the
    surrogate's representations in proportion to their size, both with replacement. The few-shot samples come out of
    these draws, one drawn c times with weight c * 0.95^(c - 1). The authors draw them with replacement too; here a
    sample that comes up again is passed over, and where too few different ones were drawn, more are. A history counts
    at most ``MAX_ITEM_LIST_LENGTH`` interactions.
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
    """Return the cluster of each point by k-means, in small batches where there are many points.

    Args:
        points: float [n, d].
        n_clusters: most clusters; fewer where fewer points differ.
        seed: of the initial centres.

    Returns:
        int64 [n] in [0, n_clusters); -1 where a coordinate is not finite.
    """
    group = np.full(len(points), PRUNED, dtype=np.int64)
    finite = np.isfinite(points).all(axis=1)
    n_finite = int(finite.sum())
    method = KMeans if n_finite <= _MOST_EXACT else MiniBatchKMeans
    means = method(min(n_clusters, n_finite), n_init=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer points differ than clusters are wanted
        group[finite] = means.fit_predict(points if n_finite == len(points) else points[finite])
    return group


def _proportional_draws(group: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draw indices with replacement, from each group in proportion to its size; int64 [draws]."""
    order = np.argsort(group, kind="stable")
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    ends = np.round(np.cumsum(sizes) * (draws / len(group))).astype(np.int64)
    shares = np.diff(ends, prepend=0)
    return order[np.repeat(starts, shares) + random.integers(np.repeat(sizes, shares))]


def _of_unit_spread(points: np.ndarray) -> np.ndarray:
    """Return points centred and scaled so that the mean squared distance from the centre, of finite points, is 1."""
    finite = points[np.isfinite(points).all(axis=1)]
    centre = finite.mean(axis=0)
    spread = np.linalg.norm(finite - centre) / np.sqrt(len(finite))
    return (points - centre) / (spread or 1.0)
