"""The exact expectation of RecBole's ranking metrics for a random ranking."""

from collections.abc import Sequence

import numpy as np


def random_ranking(
    metrics: Sequence[str], topk: Sequence[int], n_positives: np.ndarray, n_items: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean over queries of the expected metrics, and its standard error, by RecBole's names.

    Metrics other than Recall, Precision, Hit, MRR, NDCG and MAP are left out.

    Args:
        metrics: names of metrics.
        topk: cut-offs.
        n_positives: number of positive items of each query, int64 [n].
        n_items: number of items that are ranked.
    """
    sizes, query = np.unique(n_positives, return_inverse=True)
    known = [name for name in map(str.lower, metrics) if name in _EXPECTATION]
    means, errors = {}, {}
    for name in known:
        by_size = np.array([_EXPECTATION[name](size, n_items, max(topk)) for size in sizes])
        for k in topk:
            values = by_size[query, k - 1]
            means[f"{name}@{k}"] = float(values.mean())
            errors[f"{name}@{k}"] = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return means, errors


def _recall(m: int, n: int, k: int) -> np.ndarray:
    return np.arange(1, k + 1) / n


def _precision(m: int, n: int, k: int) -> np.ndarray:
    return np.full(k, m / n)


def _first_hit(m: int, n: int, k: int) -> np.ndarray:
    """Return the probability that the first of m positives among n items is at each of the first k ranks."""
    rank = np.arange(k)
    hit = np.minimum(m / np.maximum(n - rank, 1), 1)
    return hit * np.cumprod(np.concatenate([[1], 1 - hit[:-1]]))


def _hit(m: int, n: int, k: int) -> np.ndarray:
    return _first_hit(m, n, k).cumsum()


def _mrr(m: int, n: int, k: int) -> np.ndarray:
    return (_first_hit(m, n, k) / np.arange(1, k + 1)).cumsum()


def _ndcg(m: int, n: int, k: int) -> np.ndarray:
    gain = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.where(np.arange(k) < m, gain, 0).cumsum()
    return m / n * gain.cumsum() / ideal


def _map(m: int, n: int, k: int) -> np.ndarray:
    rank = np.arange(1, k + 1)
    both = m * (m - 1) / (n * (n - 1)) if n > 1 else 0.0  # two given ranks are positive
    precision = (m / n + (rank - 1) * both) / rank
    return precision.cumsum() / np.minimum(rank, m)


_EXPECTATION = {
    "recall": _recall, "precision": _precision, "hit": _hit, "mrr": _mrr, "ndcg": _ndcg, "map": _map,
}  # fmt: skip
