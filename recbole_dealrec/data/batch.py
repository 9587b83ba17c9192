"""Batches of rows of similar length, with little padding."""

import numpy as np


def token_batches(lengths: np.ndarray, budget: int, most_rows: int | None = None) -> list[np.ndarray]:
    """Split indices, sorted by length, into batches of at most ``budget`` tokens, including padding.

    Args:
        lengths: length of each row, integers [n].
        budget: maximum tokens of a batch, rows times longest row; a longer row is a batch of its own.
        most_rows: maximum number of rows of a batch.

    Returns:
        int64 arrays that together contain each index once.
    """
    order = np.argsort(lengths, kind="stable")
    most_rows = most_rows or len(order)
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        rows = end + 1 - start
        if end == len(order) or rows > most_rows or rows * lengths[order[end]] > budget:
            batches.append(order[start:end])
            start = end
    return batches
