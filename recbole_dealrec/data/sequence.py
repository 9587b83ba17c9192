"""Which training rows continue one another, and what they hold."""

import numpy as np

from recbole_dealrec.data.candidates import CandidateSamples, rank_from_end
from recbole_dealrec.data.dataset import SequentialDataset


def covering_rows(dataset: SequentialDataset) -> np.ndarray:
    """Rows whose histories hold the targets of all other rows of their user, ascending; int64.

    Rows of a user that continue one another (a row's history ends in the target before it) form a chain. Its last row
    shows as many earlier targets as a history is long, then the row before those, and so on.
    """
    rank, _, order = _chains(CandidateSamples.from_dataset(dataset))
    return np.sort(order[rank % dataset.max_item_list_len == 0])


def item_counts(dataset: SequentialDataset) -> np.ndarray:
    """How often each item occurs in the interactions behind a split's rows, int64 [n_items].

    These are all targets and, for the first row of each chain, its history.
    """
    samples = CandidateSamples.from_dataset(dataset)
    rank, first, order = _chains(samples)
    histories = samples.item_id_list[order[first]]
    counts = np.bincount(samples.item_id, minlength=dataset.item_num)
    counts += np.bincount(histories[histories > 0], minlength=dataset.item_num)
    return counts


def _chains(samples: CandidateSamples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank of each row from its chain's end, whether it begins a chain, and the order that both are in."""
    order = np.argsort(samples.user_id, kind="stable")
    ordered = samples[order]
    last_item = ordered.item_id_list[np.arange(len(ordered)), np.maximum(ordered.item_length - 1, 0)]
    continues = (ordered.user_id[1:] == ordered.user_id[:-1]) & (last_item[1:] == ordered.item_id[:-1])
    first = np.concatenate([[True], ~continues])
    return rank_from_end(np.cumsum(first)), first, order
