"""Files of interactions or items, whose columns are named ``name:type``."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_dealrec.compat import recbole_names
from recbole_dealrec.errors import InputError

_TYPES = [kind.value for kind in recbole_names("utils/enum_type.py")["FeatureType"]]


@dataclass(frozen=True)
class TypedFile(ABC):
    """A file whose columns are named ``name:type``.

    Attributes:
        path: the file.
    """

    path: Path

    @abstractmethod
    def header(self) -> tuple[int, list[str]]:
        """Return the number of the row with the columns' names, and these."""

    @abstractmethod
    def check_rows(self, wanted: Mapping[str, str]) -> None:
        """Raise InputError if a column is absent or of another type, or at the first row that would be misread.

        Args:
            wanted: required type of columns, by name.
        """

    @abstractmethod
    def check_numbers(self, name: str) -> None:
        """Raise InputError at the first row whose value in column ``name`` is not a finite number."""

    @abstractmethod
    def places(self, name: str) -> np.ndarray:
        """Return the position of each row in the order of a column's exact values; int32 [n].

        Positions start at 0; rows with equal values keep the order of the file. All values have to be finite numbers.
        """

    @abstractmethod
    def row_number(self, index: int) -> int:
        """Return the number of row ``index``, from 0, in the file."""

    def columns(self) -> dict[str, str]:
        """Return the type of each column by its name, in the order of the file.

        Raises:
            InputError: the first row is not a header, or contains a column twice.
        """
        number, header = self.header()
        columns: dict[str, str] = {}
        for cell in header:
            name, colon, kind = cell.removeprefix("\ufeff").rpartition(":")
            if not colon or not name or kind not in _TYPES:
                raise self.error(number, f"the header has '{cell}'; write name:type, type one of {', '.join(_TYPES)}")
            if name in columns:
                raise self.error(number, f"the header has two columns '{name}'; rename or remove one")
            columns[name] = kind
        return columns

    def check_columns(self, wanted: Mapping[str, str]) -> None:
        """Raise InputError if a column is absent or of another type."""
        columns = self.columns()
        for name, kind in wanted.items():
            if columns.get(name) != kind:
                found = ", ".join(f"{name}:{kind}" for name, kind in columns.items()) or "none"
                raise InputError(f"{self.path}: no column '{name}:{kind}' (found {found})")

    def check_present(self, values: pd.Series) -> None:
        """Raise InputError if a token or sequence of a column is empty; RecBole would impute it or drop its row."""
        missing = ~(values.str.len() > 0)
        if missing.any():
            row = self.row_number(int(np.argmax(missing)))
            raise self.error(row, f"{values.name} is empty, or a word such as NA that RecBole reads as missing")

    def n_repeated(self, rows: pd.DataFrame) -> int:
        """Return how many rows repeat an earlier row, and warn about them."""
        repeated = rows.duplicated()
        if repeated.any():
            getLogger().warning(
                f"{self.path}: {repeated.sum()} rows repeat user, item and time of an earlier row and are kept; the "
                f"first is row {self.row_number(int(np.argmax(repeated)))}; remove them if they are duplicates"
            )
        return int(repeated.sum())

    def error(self, number: int, reason: str) -> InputError:
        """Return an InputError about a row."""
        return InputError(f"{self.path}, row {number}: {reason}")


def places_in(order: np.ndarray) -> np.ndarray:
    """Return the position of each row in an order of the rows, int32 [n]."""
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return places
