"""Choice by several queries that take turns."""

import numpy as np


def round_robin(scores: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Let each query in turn take its highest-scored candidate that is not yet taken.

    Args:
        scores: [n, m], of n candidates for m queries, finite.
        n_fewshot: number of candidates to choose, at most n.

    Returns:
        int64 [n_fewshot], in the order of choice; of equal scores, the first candidate.
    """
    free = np.ones(len(scores), dtype=bool)
    chosen = np.empty(n_fewshot, dtype=np.int64)
    for turn in range(n_fewshot):
        best = np.where(free, scores[:, turn % scores.shape[1]], -np.inf).argmax()
        chosen[turn], free[best] = best, False
    return chosen
