"""Interactions in arrays, to filter and split."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recbole_dealrec.errors import InputError

LONGEST_HISTORY = 50  # items of a history in a benchmark file, as in the authors' data
_TRAIN, _VALID, _TEST, _DROPPED = range(4)


class Row(NamedTuple):
    """One interaction of a source; ``rating`` is None if it has none."""

    user: str
    item: str
    time: int | float
    rating: float | None = None


class Sequence(NamedTuple):
    """A user's items in time order, by part of the split."""

    user: str
    train: list[str]
    valid: list[str]
    test: list[str]


@dataclass(frozen=True)
class Interactions:
    """Interactions, 16 bytes per row, and the tokens of users and items.

    Attributes:
        users: token of each user code.
        items: token of each item code.
        user: int32 [n], user codes.
        item: int32 [n], item codes.
        time: int64 [n], or float64 where the source has fractions; in the unit of the source.
    """

    users: list[str]
    items: list[str]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Row], min_rating: float | None = None) -> "Interactions":
        """Collect the rows of a source.

        Args:
            rows: the rows.
            min_rating: lowest rating to keep; None keeps all.

        Raises:
            InputError: ``min_rating`` is given but a row has no rating, or no row is kept.
        """
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        user, item, time = array("i"), array("i"), array("q")
        for row in rows:
            if min_rating is not None:
                if row.rating is None:
                    raise InputError("min_rating: the source has no ratings; leave it out")
                if row.rating < min_rating:
                    continue
            user.append(users.setdefault(row.user, len(users)))
            item.append(items.setdefault(row.item, len(items)))
            if isinstance(row.time, float) and time.typecode == "q":
                time = array("d", time)
            time.append(row.time)
        if not user:
            missing = "interaction" if min_rating is None else f"rating of {min_rating:g} or more"
            raise InputError(f"the source has no {missing}")
        columns = np.frombuffer(user, np.int32), np.frombuffer(item, np.int32), np.frombuffer(time, time.typecode)
        return cls(list(users), list(items), *columns)

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: np.ndarray) -> "Interactions":
        return Interactions(self.users, self.items, self.user[index], self.item[index], self.time[index])

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
                return self[kept]
            kept = kept[enough]

    def used_users(self) -> list[str]:
        """Return the tokens of the users that occur, by code."""
        return [self.users[code] for code in np.unique(self.user)]

    def used_items(self) -> list[str]:
        """Return the tokens of the items that occur, by code."""
        return [self.items[code] for code in np.unique(self.item)]

    def sequences(self) -> Iterator[Sequence]:
        """Yield each user's items, split 8:1:1 by global time as in the paper.

        The rows have to be in time order. Users without a training item are left out.
        """
        part = np.full(len(self), _TRAIN, np.int8)
        part[len(self) * 8 // 10 :] = _VALID
        part[len(self) * 9 // 10 :] = _TEST
        known = np.zeros(len(self.users), bool)
        known[self.user[part == _TRAIN]] = True
        part[~known[self.user]] = _DROPPED
        order = np.argsort(self.user, kind="stable")
        starts = np.flatnonzero(np.diff(self.user[order], prepend=-1))
        for rows in np.split(order, starts[1:]):
            if part[rows[0]] != _DROPPED:
                parts = (self.item[rows[part[rows] == name]] for name in (_TRAIN, _VALID, _TEST))
                user = self.users[self.user[rows[0]]]
                yield Sequence(user, *([self.items[code] for code in codes] for codes in parts))
