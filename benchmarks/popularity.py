"""How good is one list for all users? The value of a selection's targets alone, without any history."""

from collections.abc import Sequence

import numpy as np


def recall_of_popularity(queries: Sequence[np.ndarray], targets: np.ndarray, k: int = 10) -> float:
    """Return Recall@k if all users get the ``k`` items that are most often targets; of equal ones the first ids.

    Args:
        queries: positive items of each query.
        targets: item ids, int64 [n].
        k: length of the list.
    """
    counts = np.bincount(targets)
    best = np.argsort(-counts, kind="stable")[:k]
    return float(np.mean([np.isin(positives, best).mean() for positives in queries]))
