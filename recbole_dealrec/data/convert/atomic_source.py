"""RecBole's processed datasets: ``.inter`` and ``.item`` files to filter and split."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from logging import getLogger
from pathlib import Path

from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.convert.interactions import Row
from recbole_dealrec.data.convert.source import number, time_number
from recbole_dealrec.errors import InputError


@dataclass(frozen=True)
class AtomicSource:
    """One ``.inter`` file with user_id, item_id, timestamp and perhaps rating; one ``.item`` file with item_id and
    title, or a column such as movie_title."""

    interactions: AtomicFile
    catalogue: AtomicFile

    @classmethod
    def found_in(cls, source: Path) -> "AtomicSource | None":
        if not source.is_dir():
            return None
        inter, item = sorted(source.glob("*.inter")), sorted(source.glob("*.item"))
        return cls(AtomicFile(inter[0]), AtomicFile(item[0])) if len(inter) == len(item) == 1 else None

    def rows(self, rated: bool) -> Iterator[Row]:
        file = self.interactions
        columns = self._column_numbers(file, "user_id", "item_id", "timestamp")
        rating = list(file.columns()).index("rating") if rated and "rating" in file.columns() else None
        width = len(file.columns())
        for row, cells in islice(file.rows(), 1, None):
            if len(cells) != width:
                raise file.width_error(row, cells, file.columns())
            user, item, time = (cells[column] for column in columns)
            value = None if rating is None else number(cells[rating], file.path, row, "rating")
            yield Row(user, item, time_number(time, file.path, row, "timestamp"), value)

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield items and titles; rows with too many or few columns are left out, as published archives have some."""
        file = self.catalogue
        columns = list(file.columns())
        named = [name for name in columns if name == "title"] or [name for name in columns if name.endswith("title")]
        if len(named) > 1:
            several = " and ".join(named)
            raise InputError(f"{file.path}: the columns {several} could each be the title; rename one to title")
        item, title = self._column_numbers(file, "item_id", named[0] if named else "title")
        width, broken = len(file.columns()), []
        for row, cells in islice(file.rows(), 1, None):
            if len(cells) == width:
                yield cells[item], "" if cells[title] == "nan" else cells[title]
            else:
                broken.append(row)
        if broken:
            getLogger().warning(
                f"{file.path.name}: {len(broken)} rows have another number of columns than the header and are left "
                f"out, the first is row {broken[0]}; their items may be without title"
            )

    @staticmethod
    def _column_numbers(file: AtomicFile, *names: str) -> list[int]:
        columns = list(file.columns())
        for name in names:
            if name not in columns:
                raise InputError(f"{file.path}: no column '{name}' (found {', '.join(columns)})")
        return [columns.index(name) for name in names]
