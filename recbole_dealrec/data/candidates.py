"""Samples (history, target) in NumPy arrays."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_dealrec.config import Config


@dataclass(frozen=True)
class Fields:
    """RecBole's names of the columns of a sequential sample."""

    user: str
    item: str
    history: str
    length: str

    @classmethod
    def of(cls, config: Config) -> "Fields":
        item = config["ITEM_ID_FIELD"]
        return cls(config["USER_ID_FIELD"], item, item + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"])


@dataclass(frozen=True)
class CandidateSamples:
    """Samples among which the few-shot training data are chosen.

    Attributes:
        user_id: int64 [n], internal user ids.
        item_id: int64 [n], targets as internal item ids.
        item_id_list: int64 [n, L], histories, oldest first, padded with 0 on the right.
        item_length: int64 [n], number of items in each history.
        titles: titles by internal item id.
        rows: int64 [n], row of each sample in the interactions it was taken from.
    """

    user_id: np.ndarray
    item_id: np.ndarray
    item_id_list: np.ndarray
    item_length: np.ndarray
    titles: Sequence[str]
    rows: np.ndarray

    @classmethod
    def from_dataset(cls, dataset: SequentialDataset, samples_per_user: int = 0) -> "CandidateSamples":
        """Samples of one split of a RecBole sequential dataset.

        Args:
            dataset: built dataset with ``titles``, whose rows hold history and target.
            samples_per_user: how many of a user's samples to take, latest first; 0 takes all.

        Returns:
            The samples in the order of the dataset's rows.
        """
        fields = Fields.of(dataset.config)
        columns = (dataset.inter_feat[name].numpy() for name in astuple(fields))
        user_id, item_id, item_id_list, item_length = columns
        rows = latest_rows(user_id, samples_per_user)
        return cls(user_id[rows], item_id[rows], item_id_list[rows], item_length[rows], dataset.titles, rows)

    def __len__(self) -> int:
        return len(self.user_id)

    def __getitem__(self, index: np.ndarray) -> "CandidateSamples":
        """The samples at ``index``, an integer or boolean array."""
        arrays = (self.user_id, self.item_id, self.item_id_list, self.item_length)
        return CandidateSamples(*(array[index] for array in arrays), titles=self.titles, rows=self.rows[index])

    def title(self, item_id: int) -> str:
        """Title of an item, by its internal id."""
        return self.titles[item_id]

    def history(self, index: int) -> np.ndarray:
        """Item ids of the history of sample ``index``, oldest first."""
        return self.item_id_list[index, : self.item_length[index]]

    def interaction(self, config: Config, index: np.ndarray, trim: bool = True) -> Interaction:
        """Samples as a RecBole interaction; with ``trim``, histories are cut to the longest of them."""
        width = max(int(self.item_length[index].max()), 1) if trim else self.item_id_list.shape[1]
        columns = (self.user_id[index], self.item_id[index], self.item_id_list[index, :width], self.item_length[index])
        names = astuple(Fields.of(config))
        return Interaction({name: torch.from_numpy(column) for name, column in zip(names, columns, strict=True)})


def latest_rows(user_id: np.ndarray, count: int) -> np.ndarray:
    """Rows that are among the last ``count`` of their user (all for 0), ascending; rows of a user are in time order."""
    if count == 0:
        return np.arange(len(user_id))
    return np.flatnonzero(rank_from_end(user_id) < count)


def rank_from_end(group: np.ndarray) -> np.ndarray:
    """Position of each row in its group counted from the group's last row, which has 0; int64 [n]."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = ends - 1 - np.arange(len(group))
    return rank
