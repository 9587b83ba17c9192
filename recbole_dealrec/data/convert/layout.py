"""Which columns of which files hold users, items, times, ratings and titles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.data.convert.table import Table
from recbole_dealrec.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a source; None where they are to be detected.

    Attributes:
        user: user of an interaction.
        item: item of an interaction, and of a title; if they have two names, both separated by a comma.
        time: time of an interaction.
        title: title of an item.
        rating: rating of an interaction.
        texts: further columns of an item.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    title: str | None = None
    rating: str | None = None
    texts: tuple[str, ...] = ()

    def name(self, kind: str) -> str | None:
        """Return the name that is given for a kind of column; ``key`` is the item of a title."""
        if kind in ("item", "key") and self.item:
            return self.item.split(",")[-1 if kind == "key" else 0]
        return None if kind == "key" else getattr(self, kind)


@dataclass(frozen=True)
class Layout:
    """The columns of a published collection.

    Attributes:
        user, item, time, rating, title: names of the columns; ``rating`` is None where it has none.
        noun, verb: words for prompts.
        key: column of the item in the file of titles, if it has another name there.
        nested: name of the list in each line that holds the interactions.
        time_format: how dates are written, if not as in ISO 8601; interactions without such a date are left out.
    """

    user: str
    item: str
    time: str
    rating: str | None
    title: str
    noun: str
    verb: str
    key: str | None = None
    nested: str = ""
    time_format: str | None = None

    def has_interactions(self, columns: Sequence[str]) -> bool:
        """Return whether a file with these columns holds the collection's interactions."""
        inner = () if self.nested else (self.item, self.time, self.rating)
        return {self.user, self.nested, *inner} - {"", None} <= set(columns)

    def has_titles(self, columns: Sequence[str]) -> bool:
        """Return whether a file with these columns holds the collection's titles."""
        return {self.key or self.item, self.title} <= set(columns) and self.user not in columns


PUBLISHED = (
    # Amazon Reviews 2023, then 2014 and 2018
    Layout("user_id", "parent_asin", "timestamp", "rating", "title", "product", "bought"),
    Layout("reviewerID", "asin", "unixReviewTime", "overall", "title", "product", "bought"),
    # Steam: steam_reviews and australian_user_reviews, each with steam_games
    Layout("username", "product_id", "date", None, "app_name", "game", "played", key="id"),
    Layout(
        "user_id", "item_id", "posted", "recommend", "app_name", "game", "played", key="id", nested="reviews",
        time_format="Posted %B %d, %Y.",
    ),
    Layout("user_id", "business_id", "date", "stars", "name", "place", "visited"),  # Yelp
    Layout("userId", "movieId", "timestamp", "rating", "title", "movie", "watched"),  # MovieLens
)  # fmt: skip
_USUAL = {
    "user": ("user", "user_id", "userid", "reviewerid", "username"),
    "item": ("item", "item_id", "itemid", "video", "videoid", "movieid", "parent_asin", "asin", "business_id"),
    "time": ("time", "timestamp", "datetime", "date", "unixreviewtime"),
    "title": ("title",),
    "rating": ("rating", "overall", "stars"),
}
_USUAL["key"] = _USUAL["item"]
_NOUNS = {"key": "item"}


def folder_layout(tables: Sequence[Table], source: Path, given: Columns) -> tuple[Layout | None, Table, Table]:
    """Return the layout of a folder (None if it is no published collection), its interactions and its titles.

    Raises:
        InputError: there is not one file of each.
    """
    columns = {table: table.columns() for table in tables}
    for layout in (*PUBLISHED, None):
        events = [table for table in tables if _has_interactions(layout, columns[table], given)]
        titles = [table for table in tables if _has_titles(layout, columns[table], given)]
        if layout is None or events and titles:
            break
    if (len(events), len(titles)) != (1, 1):
        raise InputError(
            f"{source}: {len(events)} files with users, items and times and {len(titles)} with items and titles; put "
            "one of each into it, or name them: one as the source, the other with items"
        )
    return layout, events[0], titles[0]


def files_layout(events: Table, titles: Table) -> Layout | None:
    """Return the layout of a published collection that two files have, if any."""
    for layout in PUBLISHED:
        if layout.has_interactions(events.columns()) and layout.has_titles(titles.columns()):
            return layout
    return None


def column_of(table: Table, kind: str, given: Columns, usual: str | None = None) -> str:
    """Return the name of a table's column.

    Args:
        table: the table.
        kind: user, item, time, title, rating, or key, the item of a title.
        given: names that are given.
        usual: the name in the source's layout, if it has one.

    Raises:
        InputError: there is no such column, or there are several.
    """
    columns, name = table.columns(), given.name(kind)
    if name is None and columns.count(usual) == 1:
        return usual
    found = candidates(columns, kind, given)
    if not found:
        wanted = f"'{name}'" if name else f"for the {_NOUNS.get(kind, kind)}"
        listed = ", ".join(map(str, columns)) or "none"
        raise InputError(f"{table.name}: no column {wanted} (found {listed}); {_hint(kind)}")
    if len(found) > 1:
        several = f"{' and '.join(map(str, found))} could each be the {_NOUNS.get(kind, kind)}"
        raise InputError(f"{table.name}: the columns {several}; {_hint(kind)}")
    return found[0]


def candidates(columns: Sequence[str], kind: str, given: Columns) -> list[str]:
    """Return the columns that may be of a kind: the given one, those with a usual name, or any title."""
    if name := given.name(kind):
        return [column for column in columns if column == name]
    found = [column for column in columns if str(column).strip().lower() in _USUAL[kind]]
    return found or [column for column in columns if kind == "title" and str(column).lower().endswith("title")]


def _hint(kind: str) -> str:
    """Return what to do if a column is not found."""
    if kind == "key":
        return "name it with item_col, after a comma: item_col=ITEM,ITEM_HERE"
    return f"name it with {kind}_col" + (", or its file with items" if kind == "title" else "")


def _has_interactions(layout: Layout | None, columns: Sequence[str], given: Columns) -> bool:
    if layout:
        return layout.has_interactions(columns)
    return all(candidates(columns, kind, given) for kind in ("user", "item", "time"))


def _has_titles(layout: Layout | None, columns: Sequence[str], given: Columns) -> bool:
    if layout:
        return layout.has_titles(columns)
    with_titles = all(candidates(columns, kind, given) for kind in ("key", "title"))
    return with_titles and not candidates(columns, "user", given)
