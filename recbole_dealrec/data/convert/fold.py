"""Rolling folds of time: train on all before a period, validate on it, test on the one after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_dealrec.data.convert.interactions import LONGEST_HISTORY, Interactions
from recbole_dealrec.data.convert.times import time_texts
from recbole_dealrec.data.convert.writing import write_parts
from recbole_dealrec.errors import InputError

_TENTHS = 10  # a period is a tenth of the interactions, so that the last fold is 8:1:1
MOST_FOLDS = _TENTHS - 2  # the first one trains on the first tenth


@dataclass(frozen=True)
class Fold:
    """Training, validation and test part of a dataset: rows up to three positions in time order.

    Attributes:
        number: number of the fold, from 1.
        ends: end of each part; a part begins where the one before ends, training with the first row.
    """

    number: int
    ends: tuple[int, int, int]

    def name(self, dataset: str) -> str:
        """Return the name of the fold of a dataset."""
        return f"{dataset}-fold{self.number}"

    def rows(self, interactions: Interactions) -> Iterator[tuple[int, str]]:
        """Yield part and cells of each target, with all earlier items of its user as history, and the time.

        A user's first item has no history and is no target. Users without a training item are left out.

        Args:
            interactions: interactions in time order, with tokens as ids.
        """
        for rows in interactions.rows_by_user():
            rows = rows[rows < self.ends[-1]]
            if not len(rows) or rows[0] >= self.ends[0]:
                continue
            user = interactions.users[interactions.user[rows[0]]]
            items = [interactions.items[code] for code in interactions.item[rows]]
            times = time_texts(interactions.time[rows], interactions.digits)
            parts = np.searchsorted(self.ends, rows, side="right").tolist()
            for place in range(1, len(rows)):
                history = " ".join(items[max(0, place - LONGEST_HISTORY) : place])
                yield parts[place], f"{user}\t{history}\t{items[place]}\t{times[place]}"

    def write(self, interactions: Interactions, folder: Path, dataset: str) -> dict[str, int]:
        """Write the benchmark files of the fold, with times; return the number of rows of each part.

        Raises:
            InputError: a part has no row.
        """
        return write_parts(self.rows(interactions), folder, self.name(dataset), "\ttimestamp:float")


def time_folds(time: np.ndarray, count: int) -> list[Fold]:
    """Return ``count`` folds; each validation and test period has a tenth of the interactions.

    The last fold tests on the last tenth, the one before it on the tenth before. Interactions of equal time lie in one
    period, the later one.

    Args:
        time: [n], times in ascending order.
        count: number of folds.

    Raises:
        InputError: there are too few interactions for so many folds.
    """
    first = _TENTHS - 1 - count
    starts = [len(time) * tenth // _TENTHS for tenth in range(first, _TENTHS)]
    ends = [*np.searchsorted(time, time[starts]).tolist(), len(time)]
    if min(np.diff([0, *ends])) < 1:
        raise InputError(f"folds: {len(time)} interactions have too few different times for {count} folds; lower it")
    return [Fold(number, tuple(ends[number - 1 : number + 2])) for number in range(1, count + 1)]
