"""CSV files: MicroLens as published, or a table of user, item, time and title."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.data.convert.interactions import Row
from recbole_dealrec.data.convert.source import column_numbers, csv_rows, number, time_number

_NAMES = {
    "user": ("user", "user_id", "userid"),
    "item": ("item", "item_id", "itemid", "video", "videoid", "movieid"),
    "time": ("time", "timestamp"),
    "title": ("title",),
    "rating": ("rating",),
}


@dataclass(frozen=True)
class Table:
    """CSV with a header; other columns are ignored, and ``rating`` may be absent.

    Attributes:
        interactions: file with the columns user, item and time (or timestamp).
        catalogue: file with the columns item and title; it may be the same file.
    """

    interactions: Path
    catalogue: Path

    @classmethod
    def found_in(cls, source: Path) -> "Table | None":
        """Return MicroLens's ``*_pairs.csv`` and ``*_title*.csv`` in a folder, or one CSV file, or None."""
        if source.is_file():
            return cls(source, source) if source.name.endswith((".csv", ".csv.gz")) else None
        pairs, titles = sorted(source.glob("*_pairs.csv")), sorted(source.glob("*_title*.csv"))
        return cls(pairs[0], titles[0]) if len(pairs) == len(titles) == 1 else None

    def rows(self, rated: bool) -> Iterator[Row]:
        records = csv_rows(self.interactions)
        _, header = next(records, (1, []))
        rated = rated and "rating" in (name.strip().lower() for name in header)
        wanted = ["user", "item", "time", *["rating"] * rated]
        columns = column_numbers(header, {key: _NAMES[key] for key in wanted}, self.interactions)
        for row, cells in records:
            yield Row(
                cells[columns["user"]],
                cells[columns["item"]],
                time_number(cells[columns["time"]], self.interactions, row, "time"),
                number(cells[columns["rating"]], self.interactions, row, "rating") if rated else None,
            )

    def titles(self) -> Iterator[tuple[str, str]]:
        records = csv_rows(self.catalogue)
        _, header = next(records, (1, []))
        columns = column_numbers(header, {key: _NAMES[key] for key in ("item", "title")}, self.catalogue)
        for _, cells in records:
            yield cells[columns["item"]], cells[columns["title"]]
