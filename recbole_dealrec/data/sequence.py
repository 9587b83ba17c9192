"""Chains of training rows that continue one another."""

import numpy as np
from recbole.data.dataset import SequentialDataset

from recbole_dealrec.data.candidates import CandidateSamples


def covering_rows(dataset: SequentialDataset) -> np.ndarray:
    """Return the fewest rows whose histories and targets contain the targets of all rows, ascending; int64.

    Rows of a user that continue one another (a row's history ends with the previous row's target) form a chain. A row
    contains the targets of as many rows as its history is long, including itself; so rows are kept at these distances
    from the end of a chain.
    """
    samples = CandidateSamples.from_dataset(dataset)
    order, is_first = _chains(samples)
    lengths = samples.item_length[order]
    kept, shown = np.zeros(len(order), dtype=bool), 0
    for place in range(len(order) - 1, -1, -1):
        if shown == 0:
            kept[place], shown = True, lengths[place]
        shown = 0 if is_first[place] else shown - 1
    return np.sort(order[kept])


def item_counts(dataset: SequentialDataset) -> np.ndarray:
    """Return the number of interactions of each item in a part, int64 [n_items].

    All targets are counted, and the history of the first row of each chain.
    """
    samples = CandidateSamples.from_dataset(dataset)
    order, is_first = _chains(samples)
    histories = samples.item_id_list[order[is_first]]
    counts = np.bincount(samples.item_id, minlength=dataset.item_num)
    counts += np.bincount(histories[histories > 0], minlength=dataset.item_num)
    return counts


def _chains(samples: CandidateSamples) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of rows chain by chain, and whether each row, in this order, begins a chain."""
    order = np.argsort(samples.user_id, kind="stable")
    ordered = samples[order]
    last_item = ordered.item_id_list[np.arange(len(ordered)), np.maximum(ordered.item_length - 1, 0)]
    continues = (ordered.user_id[1:] == ordered.user_id[:-1]) & (last_item[1:] == ordered.item_id[:-1])
    return order, np.concatenate([[True], ~continues])
