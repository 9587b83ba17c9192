"""Interactions in arrays, to filter and split."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_dealrec.data.convert.times import whole_times
from recbole_dealrec.errors import InputError

LONGEST_HISTORY = 50  # items of a history in a benchmark file, as in the authors' data
_TRAIN, _VALID, _TEST, _DROPPED = range(4)


class UserSequence(NamedTuple):
    """A user's items in time order, by part of the split."""

    user: str
    train: list[str]
    valid: list[str]
    test: list[str]


@dataclass(frozen=True)
class Interactions:
    """Interactions, 16 bytes per row, and the ids of users and items.

    Attributes:
        users: id of each user code.
        items: id of each item code.
        user: int32 [n], user codes.
        item: int32 [n], item codes.
        time: int64 [n], or Decimals [n] if they are too long; in the unit of the source, dates in seconds.
        digits: number of digits of ``time`` after the decimal point.
        dropped: numbers of interactions left out, by reason.
    """

    users: list[Any]
    items: list[Any]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    digits: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, frames: Iterable[pd.DataFrame], min_rating: float | None = None) -> "Interactions":
        """Collect the interactions of a source.

        Args:
            frames: chunks with the columns user, item, time and, with ``min_rating``, rating.
            min_rating: lowest rating to keep; None keeps all.

        Raises:
            InputError: no interaction is kept, or some times are dates and others numbers.
        """
        users: dict[Any, int] = {}
        items: dict[Any, int] = {}
        columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        dropped: Counter[str] = Counter()
        for frame in frames:
            if min_rating is not None:
                dropped["without rating"] += int(frame["rating"].isna().sum())
                dropped[f"rated below {min_rating:g}"] += int((frame["rating"] < min_rating).sum())
                frame = frame[frame["rating"] >= min_rating]
            if len(frame):
                columns.append((_codes(frame["user"], users), _codes(frame["item"], items), _array(frame["time"])))
        if not columns:
            missing = "interaction" if min_rating is None else f"rating of {min_rating:g} or more"
            raise InputError(f"the source has no {missing}")
        user, item, times = zip(*columns, strict=True)
        time, digits = whole_times(times, "time")
        return cls(list(users), list(items), np.concatenate(user), np.concatenate(item), time, digits, dropped)

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: np.ndarray | slice) -> "Interactions":
        return replace(self, user=self.user[index], item=self.item[index], time=self.time[index])

    def in_time_order(self) -> "Interactions":
        """Return the interactions sorted by time; rows of equal time keep their order."""
        return self[np.argsort(self.time, kind="stable")]

    def k_core(self, k: int) -> "Interactions":
        """Return the k-core: the largest part in which each user and each item has at least ``k`` interactions.

        Only a user's first interaction with an item is kept.
        """
        pairs = self.user.astype(np.int64) * len(self.items) + self.item
        _, first = np.unique(pairs, return_index=True)
        kept = np.sort(first)
        while True:
            user, item = self.user[kept], self.item[kept]
            enough = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k) if len(kept) else np.ones(0, bool)
            if enough.all():
                dropped = {**self.dropped, f"outside the {k}-core or repeated": len(self) - len(kept)}
                return replace(self[kept], dropped=dropped)
            kept = kept[enough]

    def used_users(self) -> list[Any]:
        """Return the ids of the users that occur, by code."""
        return [self.users[code] for code in np.unique(self.user)]

    def used_items(self) -> list[Any]:
        """Return the ids of the items that occur, by code."""
        return [self.items[code] for code in np.unique(self.item)]

    def n_repeated(self) -> int:
        """Return how many interactions repeat user, item and time of another."""
        return int(pd.DataFrame({"user": self.user, "item": self.item, "time": self.time}).duplicated().sum())

    def sequences(self) -> Iterator[UserSequence]:
        """Yield each user's items, split 8:1:1 by global time as in the paper.

        The rows have to be in time order. Users without a training item are left out.
        """
        part = self._parts()
        for rows in self.rows_by_user():
            if part[rows[0]] != _DROPPED:
                parts = (self.item[rows[part[rows] == name]] for name in (_TRAIN, _VALID, _TEST))
                user = self.users[self.user[rows[0]]]
                yield UserSequence(user, *([self.items[code] for code in codes] for codes in parts))

    def rows_by_user(self) -> list[np.ndarray]:
        """Return the rows of each user, ascending, by user code."""
        order = np.argsort(self.user, kind="stable")
        starts = np.flatnonzero(np.diff(self.user[order], prepend=-1))
        return np.split(order, starts[1:])

    def n_of_new_users(self) -> int:
        """Return how many interactions ``sequences`` leaves out."""
        return int((self._parts() == _DROPPED).sum())

    def _parts(self) -> np.ndarray:
        """Return the part of each interaction, int8 [n]."""
        part = np.full(len(self), _TRAIN, np.int8)
        part[len(self) * 8 // 10 :] = _VALID
        part[len(self) * 9 // 10 :] = _TEST
        known = np.zeros(len(self.users), bool)
        known[self.user[part == _TRAIN]] = True
        part[~known[self.user]] = _DROPPED
        return part


def _codes(ids: pd.Series, known: dict[Any, int]) -> np.ndarray:
    """Return the code of each id, int32 [n]; new ids get the next codes."""
    places, new = pd.factorize(ids)
    return np.array([known.setdefault(value, len(known)) for value in new.tolist()], np.int32)[places]


def _array(times: pd.Series) -> np.ndarray:
    return times.to_numpy("datetime64[ns]") if times.dtype.kind == "M" else times.to_numpy()
