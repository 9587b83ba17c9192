"""Times as exact numbers: numbers stay as they are, dates become seconds since 1970."""

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.errors import InputError

_MOST = 2**63


def read_times(values: pd.Series, name: str, error: Callable[[int, str], InputError]) -> np.ndarray:
    """Return times exactly: int64 [n] for whole numbers, datetime64[ns] [n] for dates, else Decimals [n].

    Args:
        values: numbers, texts of numbers, datetimes, or dates in ISO 8601 (UTC if they name no zone); the first one
            decides whether they are dates.
        name: name of the column.
        error: returns the error about a row, given its number in the index.

    Raises:
        InputError: a value is neither a number nor a date.
    """
    if pd.api.types.is_datetime64_any_dtype(values) or _is_date(values.iloc[0]):
        return _dates(values, name, error)
    try:
        numbers = pd.to_numeric(values).to_numpy()
    except (ValueError, TypeError, OverflowError):
        numbers = np.array([None])
    if numbers.dtype.kind == "i":
        return numbers.astype(np.int64)
    exact = np.array([_exact(value) for value in values], object)
    if wrong := [place for place, number in enumerate(exact) if number is None]:
        row = values.index[wrong[0]]
        raise error(row, f"{name} is '{values.iloc[wrong[0]]}', which is neither a finite number nor an ISO 8601 date")
    return exact


def whole_times(chunks: Sequence[np.ndarray], name: str) -> tuple[np.ndarray, int]:
    """Return times of all chunks as int64 [n] and the digits after their point; if these are too many, Decimals [n].

    Raises:
        InputError: some chunks have dates, others numbers.
    """
    if len({chunk.dtype.kind == "M" for chunk in chunks}) > 1:
        raise InputError(f"{name}: has dates and numbers; use only one of them")
    if chunks[0].dtype.kind == "M":
        return _shortened(np.concatenate(chunks).astype(np.int64), 9)
    if all(chunk.dtype.kind == "i" for chunk in chunks):
        return np.concatenate(chunks), 0
    exact = [number for chunk in chunks for number in map(Decimal, chunk.tolist())]
    digits = max(0, *(-number.normalize().as_tuple().exponent for number in exact))
    scaled = [number.scaleb(digits) for number in exact] if digits < 19 else [Decimal(_MOST)]
    if max(map(abs, scaled)) < _MOST:
        return np.array([int(number) for number in scaled], np.int64), digits
    return np.array(exact, object), 0


def time_texts(times: np.ndarray, digits: int) -> list[str]:
    """Return times of ``whole_times`` as texts of decimal numbers."""
    if times.dtype == object:
        return [f"{time:f}" for time in times]
    if not digits:
        return times.astype(str).tolist()
    return [f"{Decimal(int(time)).scaleb(-digits):f}" for time in times]


def _shortened(times: np.ndarray, digits: int) -> tuple[np.ndarray, int]:
    """Return times without the trailing zeros that all of them have."""
    for fewer in (0, 3, 6):
        if not (times % (scale := 10 ** (digits - fewer))).any():
            return times // scale, fewer
    return times, digits


def _is_date(value: Any) -> bool:
    """Return whether a value is a date and not a number."""
    return _exact(value) is None and pd.notna(_date(value))


def _date(value: Any) -> Any:
    try:
        return pd.to_datetime(value, format="ISO8601", utc=True)
    except (ValueError, TypeError, OverflowError):
        return pd.NaT


def _dates(values: pd.Series, name: str, error: Callable[[int, str], InputError]) -> np.ndarray:
    try:
        return pd.to_datetime(values, format="ISO8601", utc=True).to_numpy("datetime64[ns]")
    except (ValueError, TypeError, OverflowError):
        row = next(row for row, value in values.items() if pd.isna(_date(value)))
        raise error(row, f"{name} is '{values[row]}', which is not an ISO 8601 date") from None


def _exact(value: Any) -> Decimal | None:
    """Return a finite number exactly as it is written, None for anything else."""
    try:
        number = Decimal(repr(float(value)) if isinstance(value, float | np.floating) else str(value).strip())
        return number if number.is_finite() and abs(float(number)) < float("inf") else None
    except (InvalidOperation, ValueError, OverflowError):
        return None
