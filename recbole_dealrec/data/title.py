"""Titles of the catalogue, read from ``<dataset>.item`` as they are written there.

RecBole's own reader splits titles, merges equal ones and reads words such as NA as missing (and fails on a leading
quotation mark), so titles never pass through it.
"""

from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path

from recbole_dealrec.errors import InputError


def read_titles(file: Path, id_field: str, title_field: str, tokens: Sequence[str], separator: str = "\t") -> list[str]:
    """Title of each item of the catalogue.

    Args:
        file: atomic item file; its header names the columns as ``name:type``.
        id_field: column of the item tokens.
        title_field: column of the titles, ``token`` or ``token_seq``.
        tokens: the catalogue's item tokens, by internal id; entry 0 is RecBole's padding.
        separator: column separator.

    Returns:
        Titles by internal id; entry 0 is empty. White space inside a title is reduced to single spaces. An item without
        a title is called by its token.

    Raises:
        InputError: the file or a column is absent, or a row has too few columns.
    """
    rows = _rows(file, separator)
    _, header = next(rows, (1, []))
    columns = {name.split(":")[0]: place for place, name in enumerate(header)}
    for field in (id_field, title_field):
        if field not in columns:
            raise InputError(f"{file}: no column '{field}' (found {', '.join(columns) or 'none'}); set title_field")
    id_column, title_column = columns[id_field], columns[title_field]
    last = len(columns) - 1
    titles: dict[str, str] = {}
    for number, row in rows:
        if len(row) <= max(id_column, title_column):
            raise InputError(f"{file}, row {number}: {len(row)} columns where the header has {len(columns)}")
        # A tab inside the last column belongs to the title.
        title = separator.join(row[last:]) if title_column == last else row[title_column]
        titles[row[id_column]] = " ".join(title.split())
    return _aligned(titles, tokens, file)


def _rows(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and columns of each line that is not blank."""
    try:
        with open(file, encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip("\r\n"):
                    yield number, line.rstrip("\r\n").split(separator)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; titles are needed to prompt a language model") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason})") from error


def _aligned(titles: dict[str, str], tokens: Sequence[str], file: Path) -> list[str]:
    untitled = [token for token in tokens[1:] if not titles.get(token)]
    if len(untitled) == len(tokens) - 1:
        raise InputError(f"{file}: none of the {len(untitled)} items of the interactions has a title")
    if untitled:
        getLogger().warning(
            f"{file}: {len(untitled)} items have no title and are called by their id, the first is {untitled[0]}"
        )
    return ["", *(titles.get(token) or token for token in tokens[1:])]
