"""Facility location: rows that are near to all columns, and the sampler of candidates that are near to all others."""

from logging import getLogger

import numpy as np
from sklearn.metrics import euclidean_distances

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.few_shot import FewShotSampler, finite_rows, register_sampler

_CHUNK = 4096  # most rows of a temporary array
_LAZY_ROWS = 64  # gains computed at a time; most choices need only the first of these batches
_MOST_DISTANCES = 100_000_000  # 400 MB of float32: all pairs of 10,000 candidates


@register_sampler("FacilityLocation")
class FacilityLocationSampler(FewShotSampler):
    """Greedy facility location on the language model's hidden states (Wei et al., ICML 2015; CRAIG, ICML 2020).

    The sum, over all candidates, of the similarity to the nearest chosen one is to be large (Wei, Iyer and Bilmes,
    Submodularity in data subset selection and active learning). Each choice raises it most; the greedy sum is at least
    1 - 1/e of the largest. As in CRAIG (Mirzasoleiman, Bilmes and Leskovec, Coresets for data-efficient training of
    machine learning models), the similarity is the largest distance minus the Euclidean distance. CRAIG measures it
    between gradients and weights the chosen ones by the number of those that they are nearest to; here it is measured
    between the hidden states of the histories before fine-tuning, and no sample has a weight.

    All candidates can be chosen. So that there are at most 100 million distances, at most 100 million / n of them are
    covered, drawn by the seed: above 10,000 candidates the sum over a sample stands for the sum over all.
    """

    needs = ("llm_representation",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        points, n_fewshot = self.scores["llm_representation"], self.config["n_fewshot"]
        kept = finite_rows(np.isfinite(points).all(axis=1), n_fewshot)
        distance = euclidean_distances(points[kept], points[self._covered(kept)])
        return np.sort(kept[cover_greedily(distance, n_fewshot)])

    def _covered(self, kept: np.ndarray) -> np.ndarray:
        """Return the candidates to cover: ``kept``, or as many of them as the memory for distances allows."""
        most = _MOST_DISTANCES // len(kept)
        if len(kept) <= most:
            return kept
        getLogger().info(f"FacilityLocation covers {most:,} of {len(kept):,} candidates, drawn by the seed")
        return np.sort(np.random.default_rng(self.config["seed"]).choice(kept, most, replace=False))


def cover_greedily(cost: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Choose rows by greedy facility location: each row lowers the sum of the column minima most.

    Once no row lowers the sum, the minima are reset, and further rows cover the columns again. Gains only fall while
    rows are added, so a gain computed earlier is an upper bound, and each choice computes few gains.

    Args:
        cost: [n, m].
        n_fewshot: number of rows to choose, at most n.

    Returns:
        int64 [n_fewshot], in the order of choice.
    """
    ceiling = cost.max(axis=0)
    chosen: list[int] = []
    minima, bounds = ceiling, np.full(len(cost), np.inf)
    while len(chosen) < n_fewshot:
        best = _largest_gain(cost, minima, bounds)
        if bounds[best] <= 0 and minima is not ceiling:
            minima, bounds = ceiling, np.full(len(cost), np.inf)
            bounds[chosen] = -np.inf
            continue
        chosen.append(best)
        bounds[best] = -np.inf
        minima = np.minimum(minima, cost[best])
    return np.array(chosen, dtype=np.int64)


def _largest_gain(cost: np.ndarray, minima: np.ndarray, bounds: np.ndarray) -> int:
    """Return the row of the largest gain; update ``bounds`` where a gain is computed."""
    stale = bounds.copy()
    rows = np.flatnonzero(stale == np.inf)
    while True:
        for part in chunks(rows):
            bounds[part] = np.maximum(minima - cost[part], 0).sum(axis=1, dtype=np.float64)
        stale[rows] = -np.inf
        best = int(np.where(stale == -np.inf, bounds, -np.inf).argmax())
        if bounds[best] >= stale.max():
            return best
        rows = np.argpartition(stale, -min(_LAZY_ROWS, len(stale)))[-_LAZY_ROWS:]
        rows = rows[stale[rows] > -np.inf]


def chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Split row indices into chunks of at most 4,096."""
    return np.array_split(rows, len(rows) // _CHUNK + 1)
