"""Rows whose histories are slices of flat columns; RecBole's are padded and take 8 bytes an item, for every prefix."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class SlicedRows(Interaction):
    """RecBole's interactions of a sequential dataset, with histories that are padded when they are read.

    A history read from a part, ``rows["item_id_list"]``, is padded for all of its rows and then kept, so take the rows
    first: ``rows[index]["item_id_list"]``. ``sort``, ``copy`` and an index leave histories as slices; what returns a
    RecBole interaction, such as ``to``, pads them.

    Args:
        columns: a value for each row, [n, ...] by name.
        flat: values in which histories are slices, [m, ...] by name; shared, never written to.
        start: place of each history's oldest item in ``flat``, int64 [n].
        size: number of items of each history, int64 [n].
        width: number of items of a padded history.
    """

    def __init__(
        self, columns: Mapping[str, Tensor], flat: Mapping[str, Tensor], start: Tensor, size: Tensor, width: int
    ) -> None:
        self.interaction = _Columns(columns, flat, start, size, width)
        self.length = len(start)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.interaction[index]
        return self._at(torch.as_tensor(np.arange(len(self))[index]))

    def _reindex(self, index: Any) -> None:
        self.interaction = self._at(torch.as_tensor(index)).interaction

    def _at(self, rows: Tensor) -> "SlicedRows":
        source = self.interaction
        columns = {name: values[rows] for name, values in source.columns.items()}
        return SlicedRows(columns, source.flat, source.start[rows], source.size[rows], source.width)

    def latest(self, name: str) -> Tensor:
        """Return the latest value of each history, [n, ...]; no history may be empty."""
        source = self.interaction
        return source.flat[name][source.start + source.size - 1]

    def padded(self) -> Interaction:
        """Return the rows as RecBole has them."""
        return Interaction({**self.interaction})


class _Columns(MutableMapping):
    """Columns by name; a history is padded when it is read first."""

    def __init__(
        self, columns: Mapping[str, Tensor], flat: Mapping[str, Tensor], start: Tensor, size: Tensor, width: int
    ) -> None:
        self.columns, self.flat, self.start, self.size, self.width = dict(columns), dict(flat), start, size, width

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.columns:
            self.columns[name] = self._padded(self.flat[name])
        return self.columns[name]

    def __setitem__(self, name: str, values: Tensor) -> None:
        self.columns[name] = values

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.columns.pop(name, None)
        self.flat.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self.columns or name in self.flat

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns | self.flat)

    def __len__(self) -> int:
        return len(self.columns | self.flat)

    def _padded(self, flat: Tensor) -> Tensor:
        """Return the histories, [n, width, ...], oldest first, padded with 0 on the right."""
        place = torch.arange(self.width)
        values = flat[(self.start[:, None] + place).clamp_(max=len(flat) - 1)]
        values[place >= self.size[:, None]] = 0
        return values


def prefix_rows(interactions: Interaction, user: str, length: str, names: Mapping[str, str], width: int) -> SlicedRows:
    """Return a row for each interaction but a user's first, with the interactions before it as its history.

    Args:
        interactions: sorted by user and time.
        user: column of the user.
        length: name of the column with the number of items of a history.
        names: name of the history of each column that has one.
        width: maximum number of items of a history; the latest are kept.
    """
    users, place = interactions[user].numpy(), np.arange(len(interactions))
    begins = np.diff(users, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(begins, place, 0))
    target = np.flatnonzero(~begins)
    size = np.minimum(target - first[target], width)
    start, size, target = map(torch.from_numpy, (target - size, size, target))
    columns = {name: interactions[name][target] for name in interactions}
    flat = {names[name]: interactions[name] for name in names}
    return SlicedRows({**columns, length: size}, flat, start, size, width)
