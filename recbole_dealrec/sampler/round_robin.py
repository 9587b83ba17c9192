"""Round-robin: queries take turns, and each takes the candidate that it scores highest."""

import numpy as np


def round_robin(scores: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Let queries choose in turn: each takes the candidate that it scores highest among those that are left.

    The first query follows on the last. Of equal scores, the earlier candidate is taken. Memory: the scores once more.

    Args:
        scores: scores of n candidates for m queries, floating-point [n, m], finite.
        n_fewshot: number of candidates to choose, at most n.

    Returns:
        int64 [n_fewshot], in the order of choice.
    """
    left = np.array(scores.T[:n_fewshot], order="C")  # a turn reads one row; queries further behind have none
    chosen = np.empty(n_fewshot, dtype=np.int64)
    for turn in range(n_fewshot):
        chosen[turn] = left[turn % len(left)].argmax()
        left[:, chosen[turn]] = -np.inf
    return chosen
