"""Interactions in arrays, while they are filtered and split."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recbole_dealrec.errors import InputError

LONGEST_HISTORY = 50  # latest items of a history that a benchmark file keeps, as the authors' data have it
_TRAIN, _VALID, _TEST, _DROPPED = range(4)


class Row(NamedTuple):
    """One interaction as a source has it; ``rating`` is None where it has none."""

    user: str
    item: str
    time: float
    rating: float | None = None


class Sequence(NamedTuple):
    """A user's items in time order, by the part of the data they belong to."""

    user: str
    train: list[str]
    valid: list[str]
    test: list[str]


@dataclass(frozen=True)
class Interactions:
    """Interactions; a row takes 16 bytes, besides a text for each user and each item.

    Attributes:
        users: token of each user code.
        items: token of each item code.
        user: int32 [n], user codes.
        item: int32 [n], item codes.
        time: float64 [n], in the unit of the source.
    """

    users: list[str]
    items: list[str]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Row], min_rating: float | None = None) -> "Interactions":
        """Collect rows one by one.

        Args:
            rows: the source's rows.
            min_rating: lowest rating that is kept; None keeps all.

        Raises:
            InputError: ``min_rating`` is asked of rows without a rating, or no row is kept.
        """
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        user, item, time = array("i"), array("i"), array("d")
        for row in rows:
            if min_rating is not None:
                if row.rating is None:
                    raise InputError("min_rating: the source has no ratings; leave it out")
                if row.rating < min_rating:
                    continue
            user.append(users.setdefault(row.user, len(users)))
            item.append(items.setdefault(row.item, len(items)))
            time.append(row.time)
        if not user:
            missing = "interaction" if min_rating is None else f"rating of {min_rating:g} or more"
            raise InputError(f"the source has no {missing}")
        columns = np.frombuffer(user, np.int32), np.frombuffer(item, np.int32), np.frombuffer(time, np.float64)
        return cls(list(users), list(items), *columns)

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: np.ndarray) -> "Interactions":
        return Interactions(self.users, self.items, self.user[index], self.item[index], self.time[index])

    def in_time_order(self) -> "Interactions":
        """Sorted by time; rows of the same time stay in their order."""
        return self[np.argsort(self.time, kind="stable")]

    def k_core(self, k: int) -> "Interactions":
        """The largest part in which every user and every item has at least ``k`` interactions.

        A user's later interactions with the same item are left out first, so that ``k`` counts different ones.
        """
        pairs = self.user.astype(np.int64) * len(self.items) + self.item
        _, first = np.unique(pairs, return_index=True)
        kept = np.sort(first)
        while True:
            user, item = self.user[kept], self.item[kept]
            whole = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k) if len(kept) else np.ones(0, bool)
            if whole.all():
                return self[kept]
            kept = kept[whole]

    def used_users(self) -> list[str]:
        """Tokens of the users that occur, in the order of their codes."""
        return [self.users[code] for code in np.unique(self.user)]

    def used_items(self) -> list[str]:
        """Tokens of the items that occur, in the order of their codes."""
        return [self.items[code] for code in np.unique(self.item)]

    def sequences(self) -> Iterator[Sequence]:
        """Each user's items, split 8:1:1 by the time of all interactions together, as in the paper.

        The rows have to be in time order. A user without a training item has no history and is left out.
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
                parts = (self.item[rows[part[rows] == of]] for of in (_TRAIN, _VALID, _TEST))
                user = self.users[self.user[rows[0]]]
                yield Sequence(user, *([self.items[code] for code in codes] for codes in parts))
