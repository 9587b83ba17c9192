"""Titles of the catalogue, read from ``<dataset>.item`` unchanged.

RecBole's reader splits titles, merges equal ones, reads words such as NA as missing and fails on a leading quotation
mark, so it is not used for them.
"""

from collections.abc import Sequence
from itertools import islice
from logging import getLogger
from pathlib import Path

from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.errors import InputError


def read_titles(file: AtomicFile, id_field: str, title_field: str, tokens: Sequence[str]) -> list[str]:
    """Return the title of each item of the catalogue.

    Args:
        file: item file.
        id_field: column of the item tokens.
        title_field: column of the titles, ``token`` or ``token_seq``.
        tokens: item tokens by internal id; entry 0 is RecBole's padding.

    Returns:
        Titles by internal id, with single spaces only; entry 0 is empty. The title of an item without one is its token.

    Raises:
        InputError: the file or a column is absent, a row has too many or few columns, or an item has two titles.
    """
    if not file.path.is_file():
        raise InputError(f"{file.path}: no such file; titles are needed to prompt a language model")
    columns = file.columns()
    for field in (id_field, title_field):
        if field not in columns:
            found = ", ".join(columns) or "none"
            raise InputError(f"{file.path}: no column '{field}' (found {found}); set title_field")
    id_column, title_column = (list(columns).index(field) for field in (id_field, title_field))
    last = len(columns) - 1
    splits = last if title_column == last else -1  # a separator inside the last column belongs to the title
    titles: dict[str, str] = {}
    for number, row in islice(file.rows(splits), 1, None):
        if len(row) != len(columns):
            raise file.width_error(number, row, columns)
        title = " ".join(row[title_column].split())
        if titles.setdefault(row[id_column], title) != title:
            raise file.error(number, f"item '{row[id_column]}' has another title than above; keep one of the rows")
    return _titles_by_id(titles, tokens, file.path)


def _titles_by_id(titles: dict[str, str], tokens: Sequence[str], file: Path) -> list[str]:
    untitled = [token for token in tokens[1:] if not titles.get(token)]
    if len(untitled) == len(tokens) - 1:
        raise InputError(f"{file}: none of the {len(untitled)} items of the interactions has a title")
    if untitled:
        getLogger().warning(
            f"{file}: {len(untitled)} items have no title and are called by their id, the first is {untitled[0]}"
        )
    return ["", *(titles.get(token) or token for token in tokens[1:])]
