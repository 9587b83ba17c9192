"""Chains of training rows that continue one another."""

import numpy as np
from recbole.data.dataset import SequentialDataset

from recbole_dealrec.data.candidates import Fields


def covering_rows(dataset: SequentialDataset) -> np.ndarray:
    """Return the fewest rows whose histories and targets contain the targets of all rows, ascending; int64.

    Rows of a user that continue one another (a row's history ends with the previous row's target) form a chain. A row
    contains the targets of as many rows as its history is long, including itself; so rows are kept at these distances
    from the end of a chain.
    """
    order, is_first = _chains(dataset)
    lengths = dataset.inter_feat[Fields.of(dataset.config).length].numpy()[order]
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
    fields = Fields.of(dataset.config)
    order, is_first = _chains(dataset)
    counts = np.bincount(dataset.inter_feat[fields.item].numpy(), minlength=dataset.item_num)
    histories = dataset.inter_feat[order[is_first]][fields.history].numpy()
    counts += np.bincount(histories[histories > 0], minlength=dataset.item_num)
    return counts


def _chains(dataset: SequentialDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of rows chain by chain, and whether each row, in this order, begins a chain."""
    fields, rows = Fields.of(dataset.config), dataset.inter_feat
    order = np.argsort(rows[fields.user].numpy(), kind="stable")
    user, item = (rows[name].numpy()[order] for name in (fields.user, fields.item))
    last_item = rows.latest(fields.history).numpy()[order]
    continues = (user[1:] == user[:-1]) & (last_item[1:] == item[:-1])
    return order, np.concatenate([[True], ~continues])
