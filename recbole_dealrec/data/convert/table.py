"""Tables to read from, in chunks: delimited text, JSON lines, Parquet, atomic files and DataFrames."""

import ast
import codecs
import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from logging import getLogger
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.convert.text_file import lines, read_errors, text_stream
from recbole_dealrec.data.parquet_file import open_parquet
from recbole_dealrec.errors import InputError

_CHUNK_ROWS = 2_000


class Table(ABC):
    """Rows under named columns.

    Attributes:
        name: name of the table in errors.
        is_text: whether ids are text; else they are kept as they are.
    """

    name: str
    is_text = True

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the columns; raise InputError if the table cannot be read."""

    @abstractmethod
    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield the rows under some of the columns in chunks; the index has the number of each row.

        Raises:
            InputError: the table cannot be read, or a row is malformed.
        """

    def error(self, row: int, reason: str) -> InputError:
        """Return an InputError about a row."""
        return InputError(f"{self.name}, row {row}: {reason}")


@dataclass(frozen=True)
class _FileTable(Table):
    path: Path
    encoding: str = "utf-8-sig"

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Delimited(_FileTable):
    """Text with quotes and the separator that is most frequent in the first line; or MovieLens's ``.dat``."""

    def columns(self) -> list[str]:
        return _DAT_COLUMNS.get(self.path.name) or [cell.strip() for cell in next(self._chunks(1)).iloc[0]]

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        names = self.columns()
        for chunk in self._chunks(_CHUNK_ROWS):
            chunk.index += 1
            if chunk.shape[1] != len(names):
                raise InputError(f"{self.path}: {chunk.shape[1]} columns, where {len(names)} are expected")
            if (short := chunk.isna().any(axis=1)).any():
                row = int(short.idxmax())
                raise self.error(row, f"{chunk.loc[row].count()} columns where the header has {len(names)}")
            if 1 in chunk.index and self.path.name not in _DAT_COLUMNS:
                chunk = chunk.drop(index=1)
            yield chunk[[names.index(column) for column in columns]].set_axis(list(columns), axis=1)

    def _chunks(self, rows: int) -> Iterator[pd.DataFrame]:
        is_dat = self.path.name in _DAT_COLUMNS
        with read_errors(self.path, self.encoding), text_stream(self.path, self.encoding) as stream:
            separator = "::" if is_dat else max(",;\t|", key=stream.readline().count)
            stream.seek(0)
            options = {"quoting": csv.QUOTE_NONE} if is_dat else {}
            try:
                # Only the python engine distinguishes a row that is too short from one with empty cells.
                with pd.read_csv(
                    stream, sep=separator, header=None, dtype=str, keep_default_na=False, engine="python",
                    chunksize=rows, **options,
                ) as reader:  # fmt: skip
                    yield from reader
            except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
                raise InputError(f"{self.path}: not CSV ({error})") from error


_DAT_COLUMNS = {
    "ratings.dat": ["userId", "movieId", "rating", "timestamp"],
    "movies.dat": ["movieId", "title", "genres"],
}


@dataclass(frozen=True)
class JsonLines(_FileTable):
    """A JSON object, or a Python dictionary, on each line.

    Attributes:
        nested: name of a list of objects in each line; each is a row, with the line's other values.
    """

    nested: str = ""

    def columns(self) -> list[str]:
        return list(dict.fromkeys(chain.from_iterable(islice(self._records(), 1))))[1:]

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        rows = ((record[_ROW], [record.get(column) for column in columns]) for record in self._records())
        yield from _chunked(rows, columns)

    def _records(self) -> Iterator[dict[str, Any]]:
        for number, line in lines(self.path, self.encoding):
            if line.isspace():
                continue
            record = {_ROW: number, **self._parsed(number, line)}
            if not self.nested:
                yield record
                continue
            inner = record.pop(self.nested, None)
            if not isinstance(inner, list) or not all(isinstance(entry, dict) for entry in inner):
                raise self.error(number, f"{self.nested} is not a list of objects")
            yield from ({**record, **entry} for entry in inner)

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        value: Any = None
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            try:
                value = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                raise self.error(number, f"neither JSON nor a Python dictionary ({error})") from error
        if not isinstance(value, dict):
            raise self.error(number, "not a JSON object")
        return value


_ROW = ("row",)  # cannot be a name in JSON


@dataclass(frozen=True)
class Parquet(_FileTable):
    """A Parquet file, read with the optional package pyarrow."""

    def columns(self) -> list[str]:
        with read_errors(self.path, self.encoding):
            return list(open_parquet(self.path).schema_arrow.names)

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        with read_errors(self.path, self.encoding):
            start = 1
            for batch in open_parquet(self.path).iter_batches(_CHUNK_ROWS, columns=list(dict.fromkeys(columns))):
                frame = batch.to_pandas(integer_object_nulls=True, date_as_object=False)
                frame.index = range(start, start + len(frame))
                start += len(frame)
                yield frame[list(columns)]


@dataclass(frozen=True)
class AtomicTable(_FileTable):
    """An atomic file; rows of ``.item`` that are too short or long are left out; published archives have some."""

    def columns(self) -> list[str]:
        return list(self._file.columns())

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        names = self.columns()
        places = [names.index(column) for column in columns]
        broken: list[int] = []
        rows = self._items(broken) if self.path.suffix == ".item" else self._interactions()
        yield from _chunked(((number, [cells[place] for place in places]) for number, cells in rows), columns)
        if broken:
            getLogger().warning(
                f"{self.path.name}: {len(broken)} rows have more or fewer columns than the header and are left "
                f"out; the first is row {broken[0]}; their items may have no title"
            )

    @property
    def _file(self) -> AtomicFile:
        return AtomicFile(self.path, encoding="utf-8" if self.encoding == "utf-8-sig" else self.encoding)

    def _interactions(self) -> Iterator[tuple[int, list[str]]]:
        columns = self._file.columns()
        for number, cells in islice(self._file.rows(), 1, None):
            if len(cells) != len(columns):
                raise self._file.width_error(number, cells, columns)
            yield number, cells

    def _items(self, broken: list[int]) -> Iterator[tuple[int, list[str]]]:
        width = len(self._file.columns())
        for number, cells in islice(self._file.rows(), 1, None):
            if len(cells) == width:
                yield number, ["" if cell == "nan" else cell for cell in cells]
            else:
                broken.append(number)


@dataclass(frozen=True)
class FrameTable(Table):
    """A DataFrame of pandas, or of a library whose DataFrames have ``to_pandas``, such as polars."""

    frame: pd.DataFrame
    name: str
    is_text = False

    def columns(self) -> list[str]:
        return list(self.frame.columns)

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        frame = self.frame[list(dict.fromkeys(columns))].reset_index(drop=True)
        categorical = frame.select_dtypes("category")
        yield frame.astype({column: values.cat.categories.dtype for column, values in categorical.items()})

    def error(self, row: int, reason: str) -> InputError:
        return InputError(f"{self.name}, row {row}, counted from 0: {reason}")


def frame_table(value: Any, name: str) -> FrameTable:
    """Return the table of a DataFrame, ``name`` in errors; raise InputError if it is no DataFrame or has no row."""
    if not isinstance(value, pd.DataFrame) and hasattr(value, "columns") and hasattr(value, "to_pandas"):
        value = value.to_pandas()
    if not isinstance(value, pd.DataFrame):
        raise InputError(f"{name}: has to be a DataFrame of pandas or polars or a path, not {type(value).__name__}")
    if value.empty:
        raise InputError(f"{name}: holds no row")
    return FrameTable(value, name)


def file_table(path: Path, encoding: str | None = None) -> Table | None:
    """Return the table in a file, None if its ending is none of ``ENDINGS``.

    Args:
        path: the file.
        encoding: encoding of text; None for UTF-8, or MovieLens's own encoding for its ``.dat``.
    """
    if not path.is_file() or not path.name.endswith(ENDINGS):
        return None
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if encoding is None:  # MovieLens up to 1M, which has users.dat, is in Latin-1
        is_latin = ending == "dat" and path.with_name("users.dat").exists()
        encoding = "latin-1" if is_latin else "utf-8-sig"
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise InputError(f"encoding: Python has no encoding '{encoding}'") from error
    return _KINDS[ending](path, encoding)


_KINDS = {
    **dict.fromkeys(("csv", "tsv", "txt", "dat"), Delimited), **dict.fromkeys(("json", "jsonl", "ndjson"), JsonLines),
    "parquet": Parquet, "inter": AtomicTable, "item": AtomicTable,
}  # fmt: skip
_PACKED = [f".{kind}.gz" for kind, table in _KINDS.items() if table in (Delimited, JsonLines)]
ENDINGS = (*(f".{kind}" for kind in _KINDS), *_PACKED)


def _chunked(rows: Iterable[tuple[int, list[Any]]], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield numbered rows as DataFrames of objects."""
    rows = iter(rows)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        numbers, cells = zip(*chunk, strict=True)
        yield pd.DataFrame(list(cells), columns=list(columns), index=list(numbers), dtype=object)
