"""Candidate samples (history, target) in NumPy arrays."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_dealrec.config import Config


@dataclass(frozen=True)
class Fields:
    """RecBole's column names of a sequential sample."""

    user: str
    item: str
    history: str
    length: str

    @classmethod
    def of(cls, config: Config) -> "Fields":
        """Return the column names of a configuration."""
        item = config["ITEM_ID_FIELD"]
        return cls(config["USER_ID_FIELD"], item, item + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"])


@dataclass(frozen=True)
class CandidateSamples:
    """Candidate samples, from which the few-shot training data are selected.

    Attributes:
        user_id: int64 [n], internal user ids.
        item_id: int64 [n], targets as internal item ids.
        item_id_list: int64 [n, L], histories, oldest first, padded with 0 on the right.
        item_length: int64 [n], number of items in each history.
        titles: titles by internal item id.
        rows: int64 [n], row of each sample in its dataset's interactions.
        time: int64 [n], position of each sample in the time order of its file; None if the data have no times.
    """

    user_id: np.ndarray
    item_id: np.ndarray
    item_id_list: np.ndarray
    item_length: np.ndarray
    titles: Sequence[str]
    rows: np.ndarray
    time: np.ndarray | None = None

    @classmethod
    def from_dataset(cls, dataset: SequentialDataset, samples_per_user: int = 0) -> "CandidateSamples":
        """Return the samples of one part of a RecBole sequential dataset.

        Args:
            dataset: part with ``titles``, whose rows are pairs of history and target.
            samples_per_user: number of latest samples per user; 0 for all.

        Returns:
            The samples in the order of the dataset's rows.
        """
        users = dataset.inter_feat[Fields.of(dataset.config).user].numpy()
        return cls.of_rows(dataset, latest_rows(users, samples_per_user))

    @classmethod
    def of_rows(cls, dataset: SequentialDataset, rows: np.ndarray) -> "CandidateSamples":
        """Return the samples at some rows of a part, int64 [n], in their order."""
        part = dataset.inter_feat[rows]
        columns = [part[name].numpy() for name in astuple(Fields.of(dataset.config))]
        has_times = dataset.time_field in part
        time = part[dataset.time_field].numpy().astype(np.int64) if has_times else None
        return cls(*columns, dataset.titles, rows, time)

    def __len__(self) -> int:
        return len(self.user_id)

    def __getitem__(self, index: np.ndarray) -> "CandidateSamples":
        """Return the samples at ``index``, an integer or boolean array."""
        arrays = (self.user_id, self.item_id, self.item_id_list, self.item_length)
        time = None if self.time is None else self.time[index]
        return CandidateSamples(*(array[index] for array in arrays), self.titles, self.rows[index], time)

    def title(self, item_id: int) -> str:
        """Return the title of an item by its internal id."""
        return self.titles[item_id]

    def history(self, index: int) -> np.ndarray:
        """Return the item ids of the history of sample ``index``, oldest first."""
        return self.item_id_list[index, : self.item_length[index]]

    def interaction(self, config: Config, index: np.ndarray, trim: bool = True) -> Interaction:
        """Return samples as a RecBole interaction; with ``trim``, padded only to the longest of their histories."""
        width = max(int(self.item_length[index].max()), 1) if trim else self.item_id_list.shape[1]
        columns = (self.user_id[index], self.item_id[index], self.item_id_list[index, :width], self.item_length[index])
        names = astuple(Fields.of(config))
        return Interaction({name: torch.from_numpy(column) for name, column in zip(names, columns, strict=True)})


def latest_rows(user_id: np.ndarray, count: int) -> np.ndarray:
    """Return the last ``count`` rows of each user (0: all), ascending; a user's rows have to be in time order."""
    if count == 0:
        return np.arange(len(user_id))
    return np.flatnonzero(rank_from_end(user_id) < count)


def rank_from_end(group: np.ndarray) -> np.ndarray:
    """Return the position of each row in its group, counted from the group's last row as 0; int64 [n]."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = ends - 1 - np.arange(len(group))
    return rank
