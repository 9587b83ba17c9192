"""Batches of rows of similar length, so that little of a batch is padding."""

import numpy as np


def token_batches(lengths: np.ndarray, budget: int, most_rows: int | None = None) -> list[np.ndarray]:
    """Indices sorted by length in batches whose padded size, rows times longest row, is at most ``budget``.

    Args:
        lengths: length of each row, integers [n].
        budget: most tokens of a batch, padding included; a row longer than that is a batch by itself.
        most_rows: most rows of a batch.

    Returns:
        int64 arrays that hold each of the n indices once.
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
