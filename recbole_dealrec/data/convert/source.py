"""The interface of a source of interactions and titles, and readers of its text files."""

import csv
import gzip
import html
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TextIO

from recbole_dealrec.data.convert.interactions import Row
from recbole_dealrec.errors import InputError

_CONTROL_CHARACTERS = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_LINE = 64 * 2**20  # characters; bounds the memory for a file of one line


class Source(Protocol):
    """Interactions with titles, read row by row."""

    def rows(self, rated: bool) -> Iterator[Row]:
        """Yield the interactions.

        Args:
            rated: whether to read ratings, where there are some.

        Raises:
            InputError: a row is invalid.
        """

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield items and titles; an item may come more than once, or with an empty title.

        Raises:
            InputError: a row is invalid.
        """


def open_text(path: Path) -> TextIO:
    """Open a text file in UTF-8, plain or gzip."""
    opener: Callable = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line.

    Raises:
        InputError: the file cannot be read, is truncated, is not UTF-8, or has a line that is too long.
    """
    try:
        with open_text(path) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), start=1):
                if len(line) == _LONGEST_LINE:
                    raise InputError(f"{path}, row {number}: longer than {_LONGEST_LINE} characters; not taken")
                yield number, line
    except UnicodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save the file as such ({error})") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: cut short or damaged ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of each line that is not blank.

    Raises:
        InputError: a line is no JSON object.
    """
    for number, line in lines(path):
        if not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, row {number}: not JSON ({error})") from error
            if not isinstance(value, dict):
                raise InputError(f"{path}, row {number}: no JSON object")
            yield number, value


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line and the cells of each record, header included.

    Raises:
        InputError: a record has more or fewer cells than the header.
    """
    reader = csv.reader((line for _, line in lines(path)), strict=True)
    width = None
    try:
        for cells in reader:
            width = width or len(cells)
            if cells and len(cells) != width:
                raise InputError(f"{path}, row {reader.line_num}: {len(cells)} columns where the header has {width}")
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: not CSV ({error})") from error


def number(value: Any, path: Path, row: int, name: str) -> float:
    """Return a cell's value as a number; raise InputError if it is no finite number."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise InputError(f"{path}, row {row}: {name} is {value!r}, which is no number")
    return result


def time_number(value: Any, path: Path, row: int, name: str) -> int | float:
    """Return a cell's value as a number that is exactly as given or, if it is a fraction, as near as any other is.

    Raises:
        InputError: it is no finite number, or has more digits than a fraction may have to be kept apart from others.
    """
    result = number(value, path, row, name)
    exact = Decimal(value if isinstance(value, str | int) else repr(result))
    if exact == exact.to_integral_value() and abs(exact) < 2**63:
        return int(exact)
    if Decimal(repr(result)) != exact:
        raise InputError(f"{path}, row {row}: {name} is {value}, too many digits; write an integer of a smaller unit")
    return result


def title_text(title: str) -> str:
    """Return a title with HTML entities decoded and runs of control characters and white space made single spaces."""
    return " ".join(_CONTROL_CHARACTERS.sub(" ", html.unescape(title)).split())


def column_numbers(header: Sequence[str], wanted: dict[str, tuple[str, ...]], path: Path) -> dict[str, int]:
    """Return the number of each wanted column by one of its names; raise InputError if none or several are there."""
    names = [name.strip().lower() for name in header]
    numbers = {}
    for column, choices in wanted.items():
        found = [place for place, name in enumerate(names) if name in choices]
        if not found:
            raise InputError(f"{path}: no column {' or '.join(choices)} (found {', '.join(header)})")
        if len(found) > 1:
            several = " and ".join(header[place].strip() for place in found)
            raise InputError(f"{path}: the columns {several} could each be the {column}; rename or remove one")
        numbers[column] = found[0]
    return numbers
