"""Titles of the catalogue, read from ``<dataset>.item`` unchanged.

RecBole's reader splits titles, merges equal ones, reads words such as NA as missing and fails on a leading quotation
mark, so it is not used for them.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from logging import getLogger

import numpy as np

from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.prompt import checked_text
from recbole_dealrec.errors import InputError

TITLE = "{title}"  # the prompt_item that contains only the title


def read_titles(file: AtomicFile, id_field: str, title_field: str) -> dict[str, str]:
    """Return the titles of items, with single spaces only, by item token; items without a title are left out.

    Args:
        file: item file.
        id_field: column of the item tokens.
        title_field: column of the titles, ``token`` or ``token_seq``.

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
    titles: dict[str, str] = {}
    for number, row in _item_rows(file, title_column):
        title = " ".join(row[title_column].split())
        if titles.setdefault(row[id_column], title) != title:
            raise file.error(number, f"item '{row[id_column]}' has a different title in an earlier row; keep one")
    return {item: title for item, title in titles.items() if title}


def read_item_texts(file: AtomicFile, id_field: str, title_field: str, template: str) -> dict[str, str]:
    """Return the texts of items in prompts, on one line each, by item token.

    Args:
        file: item file, checked by ``read_titles``.
        id_field: column of the item tokens.
        title_field: column that ``{title}`` stands for.
        template: text with columns in braces (``prompt_item``).

    Raises:
        InputError: the template has a field that is not a column.
    """
    places = {name: place for place, name in enumerate(file.columns())}
    title_column, id_column = places[title_field], places[id_field]
    places = {**places, "title": title_column}
    checked_text("prompt_item", template, set(places))
    texts: dict[str, str] = {}
    for _, row in _item_rows(file, title_column):
        text = template.format(**{name: row[place] for name, place in places.items()})
        texts.setdefault(row[id_column], " ".join(text.split()))
    return texts


def _item_rows(file: AtomicFile, title_column: int) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each item."""
    columns = file.columns()
    last = len(columns) - 1
    splits = last if title_column == last else -1  # a separator inside the last column belongs to the title
    for number, row in islice(file.rows(splits), 1, None):
        if len(row) != len(columns):
            raise file.width_error(number, row, columns)
        yield number, row


def n_sharing(titles: Sequence[str]) -> int:
    """Return how many of the titles are equal to another one."""
    return sum(count for count in Counter(titles).values() if count > 1)


def distinct_titles(titles: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Return the titles; a title that several items have is followed by the item's token."""
    counts = Counter(titles)
    return [f"{title} [{token}]" if counts[title] > 1 else title for title, token in zip(titles, tokens, strict=True)]


def cut_titles(titles: Sequence[str], is_long: np.ndarray, limit: int, length: Callable[[str], int]) -> list[str]:
    """Return the titles, with long ones cut to ``limit`` tokens, and log how many are cut.

    Args:
        titles: the titles.
        is_long: whether a title is to be cut, bool [n].
        limit: maximum tokens of a cut title.
        length: returns the number of tokens of a text.
    """
    cut, long = list(titles), np.flatnonzero(is_long)
    for number in long:
        beginnings = range(1, len(titles[number]) + 1)
        end = bisect_right(beginnings, limit, key=lambda size: length(titles[number][:size]))  # noqa: B023
        cut[number] = titles[number][:end].rstrip()
    if len(long):
        getLogger().warning(
            f"{len(long)} titles have more tokens than fit into a prompt and are cut to {limit} in prompts; the "
            f"first is '{cut[long[0]]} ...'; raise max_prompt_length to keep them whole"
        )
    return cut
