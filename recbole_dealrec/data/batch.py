"""Batches of rows of similar length, so that little of a batch is padding."""

import numpy as np


def row_batches(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Indices sorted by length in batches of at most ``rows``."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def token_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Indices sorted by length in batches whose padded size, rows times longest row, is at most ``budget``.

    A row longer than the budget is a batch by itself.
    """
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > budget:
            batches.append(order[start:end])
            start = end
    return batches
