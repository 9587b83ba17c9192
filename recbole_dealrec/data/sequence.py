"""Which training rows continue one another, and what they hold."""

import numpy as np

from recbole_dealrec.data.candidates import CandidateSamples
from recbole_dealrec.data.dataset import SequentialDataset


def covering_rows(dataset: SequentialDataset) -> np.ndarray:
    """Rows whose histories hold the targets of all other rows of their user, ascending; int64.

    Rows of a user that continue one another (a row's history ends in the target before it) form a chain. Its last row
    shows the targets of as many rows as its history is long, itself included; then comes the row before those.
    """
    samples = CandidateSamples.from_dataset(dataset)
    first, order = _chains(samples)
    lengths = samples.item_length[order]
    kept, shown = np.zeros(len(order), dtype=bool), 0
    for place in range(len(order) - 1, -1, -1):
        if shown == 0:
            kept[place], shown = True, lengths[place]
        shown = 0 if first[place] else shown - 1
    return np.sort(order[kept])


def item_counts(dataset: SequentialDataset) -> np.ndarray:
    """How often each item occurs in the interactions behind a split's rows, int64 [n_items].

    These are all targets and, for the first row of each chain, its history.
    """
    samples = CandidateSamples.from_dataset(dataset)
    first, order = _chains(samples)
    histories = samples.item_id_list[order[first]]
    counts = np.bincount(samples.item_id, minlength=dataset.item_num)
    counts += np.bincount(histories[histories > 0], minlength=dataset.item_num)
    return counts


def _chains(samples: CandidateSamples) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row begins a chain, and the order that this is in: chain by chain."""
    order = np.argsort(samples.user_id, kind="stable")
    ordered = samples[order]
    last_item = ordered.item_id_list[np.arange(len(ordered)), np.maximum(ordered.item_length - 1, 0)]
    continues = (ordered.user_id[1:] == ordered.user_id[:-1]) & (last_item[1:] == ordered.item_id[:-1])
    return np.concatenate([[True], ~continues]), order
