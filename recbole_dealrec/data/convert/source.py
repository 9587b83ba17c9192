"""A source: interactions and items in standard columns, independent of the file format."""

import html
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.data.convert.layout import Columns, Layout, candidates, column_of, files_layout, folder_layout
from recbole_dealrec.data.convert.table import ENDINGS, JsonLines, Table, file_table
from recbole_dealrec.data.convert.times import read_times
from recbole_dealrec.errors import InputError

_CONTROL_CHARACTERS = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """Interactions and items of two tables, or of one.

    Attributes:
        events: table of interactions.
        items: table of titles; it may be the same table.
        columns: the columns of ``events``, and the title.
        key: column of the item in ``items``.
        texts: further columns of ``items``, by their new names.
        layout: the layout, if the source is a published collection.
        undated: numbers of interactions left out because they have no date, by chunk.
    """

    events: Table
    items: Table
    columns: Columns
    key: str
    texts: Mapping[str, str]
    layout: Layout | None = None
    undated: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, events: Table, items: Table, given: Columns, layout: Layout | None = None) -> "Source":
        """Return the source of two tables.

        Args:
            events: table of interactions.
            items: table of titles.
            given: names of columns that are given.
            layout: their layout, if they are a published collection.

        Raises:
            InputError: a column is not found, or several columns match.
        """
        if layout and layout.nested and isinstance(events, JsonLines):
            events = replace(events, nested=layout.nested)
        usual = layout or Columns()
        named = {kind: column_of(events, kind, given, getattr(usual, kind)) for kind in ("user", "item", "time")}
        named["title"] = column_of(items, "title", given, usual.title)
        if candidates(events.columns(), "rating", given) or usual.rating:
            named["rating"] = column_of(events, "rating", given, usual.rating)
        told = given.name("key") in items.columns() or "," in (given.item or "")
        key = column_of(items, "key", given if told else Columns(), layout and (layout.key or layout.item))
        return cls(events, items, Columns(**named), key, _text_columns(items, given.texts, named["title"]), layout)

    def interactions(self, rated: bool) -> Iterator[pd.DataFrame]:
        """Yield interactions in chunks: ``user``, ``item``, ``time`` (see ``read_times``) and, if asked, ``rating``.

        Args:
            rated: whether to read ratings, float64, which are NaN where they are blank.

        Raises:
            InputError: ratings are asked for but there are none, or a row is invalid.
        """
        names, table = self.columns, self.events
        if rated and names.rating is None:
            raise InputError("min_rating: the source has no ratings; leave it out, or name the column with rating_col")
        wanted = [names.user, names.item, names.time, *[names.rating] * rated]
        for frame in table.frames(wanted):
            frame = frame.set_axis(["user", "item", "time", *["rating"] * rated], axis=1)
            if self.layout and self.layout.time_format:
                frame = self._dated(frame)
            if frame.empty:
                continue
            checked = {kind: _ids(frame[kind], getattr(names, kind), table) for kind in ("user", "item")}
            _check_present(frame["time"], names.time, table)
            checked["time"] = read_times(frame["time"], names.time, table.error)
            if rated:
                checked["rating"] = _ratings(frame["rating"], names.rating, table.error)
            yield pd.DataFrame({kind: pd.Series(values, frame.index) for kind, values in checked.items()})

    def titles(self) -> Iterator[tuple[Hashable, tuple[str, ...]]]:
        """Yield item, and its title and further texts; an item may occur more than once, or with an empty title.

        Rows without an item are left out.

        Raises:
            InputError: a row is invalid.
        """
        for frame in self.items.frames([self.key, self.columns.title, *self.texts.values()]):
            frame = frame.set_axis(range(frame.shape[1]), axis=1)
            frame = frame[~_missing(frame[0], self.items)]
            keys = _ids(frame[0], self.key, self.items)
            texts = [frame[place].map(title_text) for place in range(1, frame.shape[1])]
            yield from zip(keys, zip(*texts, strict=True), strict=True)

    def _dated(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the interactions whose date has the layout's format."""
        times = pd.to_datetime(frame["time"], format=self.layout.time_format, errors="coerce", utc=True)
        self.undated.append(int(times.isna().sum()))
        return frame.assign(time=times)[times.notna()]


def found_source(source: Path, items: Path | None, given: Columns, encoding: str | None) -> Source:
    """Return the source in a file or folder.

    Args:
        source: a file of interactions, or a folder with one and one of titles.
        items: file of titles; None if it is the same file, or another file of the folder.
        given: names of columns that are given.
        encoding: encoding of text files, None for the default.

    Raises:
        InputError: there is no source, or a column is not found.
    """
    if source.is_dir() and items is None:
        tables = [table for path in sorted(source.iterdir()) if (table := file_table(path, encoding))]
        layout, events, titles = folder_layout(tables, source, given)
        return Source.of(events, titles, given, layout)
    events = existing_table(source, encoding)
    titles = existing_table(items, encoding) if items else events
    return Source.of(events, titles, given, files_layout(events, titles))


def title_text(value: Any) -> str:
    """Return a cell as text, with HTML entities decoded, and single spaces for control characters and white space.

    A list becomes its entries separated by commas; a missing value becomes an empty string.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(filter(None, map(title_text, value)))
    if not isinstance(value, str):
        if value is None or isinstance(value, dict) or pd.isna(value):
            return ""
        value = token_text(value)
    return " ".join(_CONTROL_CHARACTERS.sub(" ", html.unescape(value)).split())


def token_text(value: Any) -> str:
    """Return an id or a title as text; pandas keeps whole numbers as floats if a column has missing values."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def existing_table(path: Path, encoding: str | None) -> Table:
    """Return the table in a file; raise InputError if there is none."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if table := file_table(path, encoding):
        return table
    raise InputError(f"{path}: not a file that ends in {', '.join(ENDINGS)}; rename it, or give another")


def _text_columns(items: Table, texts: tuple[str, ...], title: str) -> dict[str, str]:
    """Return the columns of further texts by their new names, with ``_`` for characters that names cannot have."""
    named: dict[str, str] = {}
    for name in texts:
        if name not in items.columns():
            found = ", ".join(map(str, items.columns()))
            raise InputError(f"{items.name}: no column '{name}' (found {found}); correct text_cols")
        if name != title:
            short = re.sub(r"\W", "_", name)
            if short in ("item_id", "title", *named):
                raise InputError(f"{items.name}: text_cols has {short} twice, again as '{name}'; leave it out")
            named[short] = name
    return named


def _missing(values: pd.Series, table: Table) -> pd.Series:
    if not table.is_text:
        return values.isna()
    # Comparing a column of arrays would compare their entries.
    is_plain = pd.api.types.infer_dtype(values) == "string"
    return values.isna() | (
        values == "" if is_plain else values.map(lambda value: isinstance(value, str) and not value)
    )


def _check_present(values: pd.Series, name: str, table: Table) -> None:
    if (missing := _missing(values, table)).any():
        raise table.error(missing.idxmax(), f"{name} is missing; drop the row")


def _ids(values: pd.Series, name: str, table: Table) -> pd.Series:
    """Return ids, as text if they are from a file; raise InputError if one is missing or neither text nor number."""
    _check_present(values, name, table)
    if pd.api.types.infer_dtype(values) == "string":
        return values
    if pd.api.types.is_object_dtype(values):
        valid = values.map(lambda value: isinstance(value, Hashable) and not isinstance(value, bool | tuple))
        if not valid.all():
            row = valid.idxmin()
            kind = type(values[row]).__name__
            raise table.error(row, f"{name} is a {kind}; an id has to be a string or a number")
    return values.map(token_text) if table.is_text else values


def _ratings(values: pd.Series, name: str, error: Callable[[int, str], InputError]) -> np.ndarray:
    """Return ratings, float64 [n], NaN where they are blank."""
    blank = values.isna() | (values == "")
    ratings = pd.to_numeric(values.where(~blank, np.nan), errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(ratings) & ~blank.to_numpy()
    if wrong.any():
        row = values.index[int(np.argmax(wrong))]
        raise error(row, f"{name} is '{values[row]}', which is not a number")
    return ratings
