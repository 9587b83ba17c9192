"""What a source of interactions and titles is, and how its text is read."""

import csv
import gzip
import html
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from recbole_dealrec.data.convert.interactions import Row
from recbole_dealrec.errors import InputError

_NO_TEXT = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_LINE = 64 * 2**20  # characters; a file that is one line must not fill the memory


class Source(Protocol):
    """Interactions with titles, read row by row."""

    def rows(self) -> Iterator[Row]:
        """The interactions.

        Raises:
            InputError: the first row that cannot be used.
        """

    def titles(self) -> Iterator[tuple[str, str]]:
        """Items and their titles; an item may come more than once, or with an empty title.

        Raises:
            InputError: the first row that cannot be used.
        """


def open_text(path: Path) -> TextIO:
    """A text file in UTF-8, perhaps compressed by gzip."""
    opener: Callable = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line.

    Raises:
        InputError: the file cannot be read, ends early, is no UTF-8, or has a line without end.
    """
    try:
        with open_text(path) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), start=1):
                if len(line) == _LONGEST_LINE:
                    raise InputError(f"{path}, row {number}: longer than {_LONGEST_LINE} characters; not taken")
                yield number, line
    except (OSError, EOFError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be read, perhaps cut short ({error})") from error


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of each line that is not blank.

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
    """Number of the last line and cells of each record, header included.

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
    """A finite number in a cell.

    Raises:
        InputError: it is none.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise InputError(f"{path}, row {row}: {name} is {value!r}, which is no number")
    return result


def title_text(title: str) -> str:
    """A title on one line: HTML entities decoded, control characters and runs of white space made single spaces."""
    return " ".join(_NO_TEXT.sub(" ", html.unescape(title)).split())


def column_places(header: Sequence[str], wanted: dict[str, tuple[str, ...]], path: Path) -> dict[str, int]:
    """Place of each wanted column, by the first of its names that the header has.

    Raises:
        InputError: a column is absent.
    """
    names = [name.strip().lower() for name in header]
    places = {}
    for column, choices in wanted.items():
        found = [names.index(choice) for choice in choices if choice in names]
        if not found:
            raise InputError(f"{path}: no column {' or '.join(choices)} (found {', '.join(header)})")
        places[column] = found[0]
    return places
