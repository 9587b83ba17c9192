"""Reading and checking of atomic files; RecBole's reader silently shifts, drops or repairs malformed rows."""

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_dealrec.data.typed_file import TypedFile, places_in
from recbole_dealrec.errors import InputError

if TYPE_CHECKING:
    from recbole_dealrec.config import Config

_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that errors="surrogateescape" could not decode


@dataclass(frozen=True)
class AtomicFile(TypedFile):
    """A text file whose first row names the columns as ``name:type``.

    Attributes:
        path: the file.
        separator: column separator.
        encoding: encoding of the text.
    """

    separator: str = "\t"
    encoding: str = "utf-8"

    @classmethod
    def of(cls, path: str | Path, config: "Config") -> "AtomicFile":
        """Return the file at ``path`` with separator and encoding from the configuration."""
        return cls(Path(path), config["field_separator"], config["encoding"] or "utf-8")

    def rows(self, splits: int = -1) -> Iterator[tuple[int, list[str]]]:
        """Yield number and columns of each line that is not blank, including the header.

        Args:
            splits: maximum number of separators to split at, from the left; -1 for all.

        Raises:
            InputError: the file cannot be read or decoded.
        """
        for number, line in self._lines():
            yield number, line.split(self.separator, splits)

    def header(self) -> tuple[int, list[str]]:
        return next(self.rows(), (1, []))

    def check_rows(self, wanted: Mapping[str, str]) -> None:
        self.check_columns(wanted)
        columns = self.columns()
        quoted = f'{self.separator}"'
        lines = self._lines()
        first, header = next(lines)
        if header.startswith("\ufeff"):
            raise self.error(first, "begins with a byte order mark; save the file as UTF-8 without one")
        for number, line in lines:
            if line.count(self.separator) != len(columns) - 1:
                raise self.width_error(number, line.split(self.separator), columns)
            if '"' in line and (line.startswith('"') or quoted in line):
                raise self.error(number, "a column begins with a quotation mark, which RecBole would read as quoting")
            if "\r" in line:
                raise self.error(number, "contains a carriage return, which RecBole would read as the end of the row")

    def check_numbers(self, name: str) -> None:
        column = list(self.columns()).index(name)
        for number, row in islice(self.rows(), 1, None):
            if not _is_number(row[column]):
                raise self.error(number, f"{name} is '{row[column]}', which is not a number")

    def places(self, name: str) -> np.ndarray:
        column = list(self.columns()).index(name)
        values, rests = array("d"), array("d")
        for _, row in islice(self.rows(), 1, None):
            values.append(float(row[column]))
            rests.append(rounded_off(row[column]))
        return places_in(np.lexsort((rests, values)))

    def row_number(self, index: int) -> int:
        return next(islice(self._lines(), index + 1, None))[0]

    def width_error(self, number: int, row: Sequence[str], columns: Mapping[str, str]) -> InputError:
        """Return an InputError about a row with more or fewer columns than the header."""
        return self.error(number, f"{len(row)} columns where the header has {len(columns)}")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line that is not blank, without line ending."""
        try:
            with open(self.path, encoding=self.encoding, errors="surrogateescape", newline="\n") as stream:
                for number, line in enumerate(stream, start=1):
                    if "\0" in line:
                        raise self.error(number, "holds a NUL byte; remove it")
                    if not line.isascii() and _UNDECODED.search(line):
                        raise self.error(number, f"not {self.encoding} text; save it in that encoding, or set encoding")
                    if line := line.rstrip("\r\n"):
                        yield number, line
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        except LookupError as error:
            raise InputError(f"configuration key 'encoding': Python has no encoding '{self.encoding}'") from error
        except UnicodeError as error:
            raise InputError(f"{self.path}: not {self.encoding} text ({error})") from error


def rounded_off(number: str) -> float:
    """Return the difference between a number given as text and its float64 value."""
    if number.isdigit() and len(number) <= 15:  # float64 is exact for so few digits
        return 0.0
    return float(Decimal(number) - Decimal(float(number)))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
