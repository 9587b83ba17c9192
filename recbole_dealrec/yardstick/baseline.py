"""Recommenders that train nothing: one list for all queries, and item kNN."""

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_dealrec.data import CandidateSamples, Fields, SequentialDataset
from recbole_dealrec.data.sequence import covering_rows

_MOST_PAIRS = 500_000_000  # of items with a common user; about a minute of counting


def popularity_order(*counts: np.ndarray) -> np.ndarray:
    """Return the item ids sorted by the first counts, ties by the next ones, then by id; without the padding item 0.

    Args:
        counts: number of occurrences of each item, int64 [n_items].
    """
    columns = [-count[1:] for count in reversed(counts)]
    return np.lexsort(columns) + 1


class ConstantList:
    """The same ranking of the items for every query.

    Args:
        order: item ids, the best first, int64 [n_items - 1].
    """

    def __init__(self, order: np.ndarray) -> None:
        score = np.zeros(len(order) + 1, dtype=np.float32)
        score[order] = np.arange(len(order), 0, -1)
        self._score = torch.from_numpy(score)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the score of every item for each query, float32 [B, n_items]."""
        return self._score.repeat(len(interaction), 1)


class ItemKNN:
    """Item kNN: an item's score is the sum of its cosine similarities to the items of the history.

    The similarity of items i and j is |U_i ∩ U_j| / (√(|U_i| |U_j|) + shrink), U the users of an item in the training
    part; that of an item to itself is 0.

    Args:
        dataset: training part.

    Raises:
        MemoryError: too many pairs of items have a common user.
    """

    def __init__(self, dataset: SequentialDataset) -> None:
        self._fields = Fields.of(dataset.config)
        together = _users_by_items(dataset)
        if np.square(together.sum(axis=1, dtype=np.int64)).sum() > _MOST_PAIRS:
            raise MemoryError(f"more than {_MOST_PAIRS} pairs of items have a common user")
        count = np.asarray(together.sum(axis=0)).ravel()
        self._common = (together.T @ together).tocoo()
        self._norm = np.sqrt(count[self._common.row] * count[self._common.col])
        self.set_shrink(0.0)

    def set_shrink(self, shrink: float) -> None:
        """Set the term of the denominator that lowers the similarities of rare items."""
        value = self._common.data / (self._norm + shrink)
        value[self._common.row == self._common.col] = 0
        self._similarity = sp.csr_array((value, (self._common.row, self._common.col)), shape=self._common.shape)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the score of every item for each query, float32 [B, n_items]."""
        items, length = (interaction[name].cpu().numpy() for name in (self._fields.history, self._fields.length))
        row, place = np.nonzero(np.arange(items.shape[1]) < length[:, None])
        shape = len(items), self._common.shape[0]
        history = sp.csr_array((np.ones(len(row)), (row, items[row, place])), shape=shape)
        return torch.from_numpy((history @ self._similarity).toarray()).float()


def _users_by_items(dataset: SequentialDataset) -> sp.csr_array:
    """Return whether each user of the training part has each item, [n_users, n_items]."""
    samples = CandidateSamples.of_rows(dataset, covering_rows(dataset))
    row, place = np.nonzero(samples.item_id_list)
    user = np.concatenate([samples.user_id, samples.user_id[row]])
    item = np.concatenate([samples.item_id, samples.item_id_list[row, place]])
    shape = int(user.max()) + 1, dataset.item_num
    found = sp.csr_array((np.ones(len(user)), (user, item)), shape=shape)
    found.data[:] = 1  # duplicates are summed
    return found
