"""Interactions in a Parquet file, read by the optional package pyarrow into arrays instead of a text for each value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.data.typed_file import TypedFile, places_in
from recbole_dealrec.errors import InputError


class ParquetFile(TypedFile):
    """A Parquet file whose columns are named ``name:type`` as in an atomic file, type token or float.

    Tokens are texts or whole numbers, floats are numbers.
    """

    def header(self) -> tuple[int, list[str]]:
        return 0, open_parquet(self.path).schema_arrow.names

    def check_rows(self, wanted: Mapping[str, str]) -> None:
        """Raise InputError if a column is absent or of another type; its values are checked when they are read."""
        self.check_columns(wanted)

    def check_numbers(self, name: str) -> None:
        """Raise InputError at the first row whose value in column ``name`` is not a finite number."""
        finite = np.isfinite(self.frame([name])[name].to_numpy())
        if not finite.all():
            raise self.error(int(np.argmin(finite)) + 1, f"{name} is missing, or not a finite number")

    def places(self, name: str) -> np.ndarray:
        """Return the position of each row in the order of a column's exact values, as ``AtomicFile.places``."""
        return places_in(np.argsort(self._values(name, "float").to_numpy(), kind="stable"))

    def row_number(self, index: int) -> int:
        return index + 1

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """Return some columns: tokens as texts, of which equal ones are one object, and floats as float64.

        Raises:
            InputError: a column is a sequence, or holds neither texts nor numbers, or the file is damaged.
        """
        kinds, read = self.columns(), {"token": _texts, "float": _numbers}
        if sequences := [name for name in names if kinds[name] not in read]:
            column = f"{sequences[0]}:{kinds[sequences[0]]}"
            raise InputError(f"{self.path}: column '{column}' is no token or float; leave it out of load_col")
        return pd.DataFrame({name: read[kinds[name]](self._values(name, kinds[name])) for name in names})

    def _values(self, name: str, kind: str) -> Any:
        """Return a column as pyarrow has it, after a check of its type."""
        import pyarrow as pa

        column = f"{name}:{kind}"
        try:
            values = open_parquet(self.path, column).read([column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error
        stored = values.type
        if kind == "token" and pa.types.is_dictionary(stored):
            stored = stored.value_type
        fits = pa.types.is_floating(stored) if kind == "float" else _is_text(stored)
        if not (fits or pa.types.is_integer(stored)):
            wanted = "numbers" if kind == "float" else "texts or whole numbers"
            raise InputError(f"{self.path}: column '{column}' holds {stored}; store {wanted}")
        return values


def open_parquet(path: Any, *coded: str) -> Any:
    """Return pyarrow's ``ParquetFile``; columns of texts named in ``coded`` are read as numbers and a dictionary.

    Raises:
        InputError: pyarrow is not installed, or the file is no Parquet file.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow") from error
    try:
        return parquet.ParquetFile(path, read_dictionary=list(coded))
    except ArrowException as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error


def _is_text(stored: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(stored) or pa.types.is_large_string(stored)


def _texts(values: Any) -> np.ndarray:
    """Return texts, None where there is none; object [n]."""
    import pyarrow as pa

    coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    chunks = coded.unify_dictionaries().chunks
    if not chunks:
        return np.empty(0, dtype=object)
    texts = np.append(chunks[0].dictionary.cast(pa.string()).to_numpy(zero_copy_only=False), None)
    codes = [chunk.indices.cast(pa.int32()).fill_null(len(texts) - 1).to_numpy() for chunk in chunks]
    return texts[np.concatenate(codes)]


def _numbers(values: Any) -> np.ndarray:
    """Return numbers, NaN where there is none; float64 [n]."""
    return values.to_numpy().astype(np.float64, copy=False)
