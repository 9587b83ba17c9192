"""DataFrames of interactions written as atomic files, and the selection returned as a DataFrame."""

import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.errors import InputError

FRAME = "frame"  # name of the dataset
_DATA_KEYS = {"data_path", "load_col", "benchmark_filename"}


class Ids(NamedTuple):
    """The DataFrames' users and items, by their numbers in the atomic files."""

    users: pd.Index
    items: pd.Index


@contextmanager
def dataset_written(
    interactions: pd.DataFrame, items: pd.DataFrame, keys: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Ids]]:
    """Write DataFrames as atomic files in a temporary folder, and yield configuration keys of the dataset and its ids.

    Args:
        interactions: as for ``recbole_dealrec.select_fewshot``.
        items: as for ``recbole_dealrec.select_fewshot``.
        keys: the user's configuration keys; ``checkpoint_dir`` is the temporary folder by default.

    Raises:
        InputError: a column or a value is missing, an item has two titles, or a key cannot be used.
    """
    if given := sorted(keys.keys() & _DATA_KEYS):
        raise InputError(f"configuration key '{given[0]}': the data are those of the DataFrames; leave it out")
    config = Config("BIGRec", FRAME, config_dict=keys)
    user, item, time = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
    interactions = _columns("interactions", interactions, (user, item, time), ids=(user, item))
    items = _columns("items", items, (item, config["title_field"]), ids=(item,))
    rows = interactions[[user, item]].assign(**{time: _timestamps(interactions[time])})
    titles = _titles(items.set_index(item)[config["title_field"]], pd.Index(rows[item].unique()))
    rows = rows[rows[item].isin(titles.index)]
    user_codes, users = rows[user].factorize()
    item_codes, catalogue = rows[item].factorize()
    rows = rows.assign(**{user: user_codes, item: item_codes})
    with tempfile.TemporaryDirectory() as folder:
        _write_atomic(Path(folder) / FRAME, rows, titles.tolist(), config)
        data_keys = {"data_path": folder, "load_col": {"inter": [user, item, time]}}
        yield {"checkpoint_dir": f"{folder}/saved", **keys, **data_keys}, Ids(users, catalogue)


def selection_frame(
    dataset: SequentialDataset,
    samples: CandidateSamples,
    columns: Mapping[str, np.ndarray],
    prompts: Iterable[Mapping[str, Any]],
    ids: Ids,
) -> pd.DataFrame:
    """Return the DataFrame of ``recbole_dealrec.select_fewshot``.

    Args:
        dataset: training part of the dataset.
        samples: the selected samples.
        columns: the sampler's columns, arrays [n] by name.
        prompts: the texts of each selected sample by name.
        ids: users and items by their numbers.
    """
    user_numbers, item_numbers = (
        np.array([-1, *map(int, dataset.field2id_token[field][1:])]) for field in (dataset.uid_field, dataset.iid_field)
    )
    histories = [samples.history(row) for row in range(len(samples))]
    sample_columns = {
        "user": ids.users[user_numbers[samples.user_id]],
        "history": [ids.items[item_numbers[history]].tolist() for history in histories],
        "target": ids.items[item_numbers[samples.item_id]],
        "history_titles": [[samples.title(item) for item in history] for history in histories],
        "target_title": [samples.title(item) for item in samples.item_id],
    }
    return pd.concat([pd.DataFrame({**sample_columns, **columns}), pd.DataFrame(list(prompts))], axis=1)


def token_text(value: Any) -> str:
    """Return an id or a title as text; pandas keeps whole numbers as floats where others of a column are missing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _columns(name: str, frame: pd.DataFrame, columns: tuple[str, ...], ids: tuple[str, ...]) -> pd.DataFrame:
    """Return the columns that are needed, categories as their values; raise InputError if they cannot be used."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{name}: has to be a DataFrame of pandas, not {type(frame).__name__}")
    found = list(frame.columns)
    for column in columns:
        if found.count(column) > 1:
            raise InputError(f"{name}: {found.count(column)} columns are named '{column}'; rename or drop the others")
        if column not in found:
            listed = ", ".join(map(str, found)) or "none"
            raise InputError(f"{name}: no column '{column}' (found {listed}); rename yours, or name it by its key")
    if frame.empty:
        raise InputError(f"{name}: holds no row")
    frame = frame[list(columns)]
    categorical = frame.select_dtypes("category")
    frame = frame.astype({column: values.cat.categories.dtype for column, values in categorical.items()})
    for column in columns if name == "interactions" else ids:
        if (missing := frame[column].isna()).any():
            raise InputError(f"{name}, row {int(np.argmax(missing))} from 0: {column} is missing; drop the row")
    for column in ids:
        hashable = frame[column].map(lambda value: isinstance(value, Hashable))
        if not hashable.all():
            row = int(np.argmin(hashable))
            kind = type(frame[column].iloc[row]).__name__
            raise InputError(f"{name}, row {row} from 0: {column} is a {kind}; an id has to be a text or a number")
    return frame


def _timestamps(times: pd.Series) -> Sequence[Any]:
    """Return times as numbers or text of numbers that are exactly as given, datetimes as seconds since 1970."""
    if pd.api.types.is_datetime64_any_dtype(times):
        return _seconds(times)
    try:
        numbers = times.to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"interactions: {times.name} holds a value that is no number or datetime ({error})") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"interactions, row {int(np.argmin(np.isfinite(numbers)))} from 0: {times.name} is not finite")
    return times.to_numpy()


def _seconds(times: pd.Series) -> list[str]:
    """Return datetimes as seconds since 1970 in decimals, as fine as the column is."""
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[times.dt.unit]
    return [f"{Decimal(count).scaleb(-digits):f}" for count in times.astype(np.int64)]


def _titles(given: pd.Series, found: pd.Index) -> pd.Series:
    """Return the titles, each on one line, of those of the ``found`` items that have one."""
    titles = given.dropna().map(_one_line)
    titles = titles[titles != ""].groupby(level=0).unique()
    several = titles[titles.map(len) > 1]
    if len(several):
        raise InputError(f"items: item '{several.index[0]}' has {len(several.iloc[0])} titles; keep one of them")
    titled = found.isin(titles.index)
    if not titled.any():
        raise InputError(
            f"items: none of the {len(found)} items of the interactions has a title; see that ids are of one type"
        )
    if not titled.all():
        getLogger().warning(
            f"items: {(~titled).sum()} items of the interactions have no title and are left out, the first is "
            f"{found[~titled][0]}"
        )
    return titles.map(lambda texts: texts[0]).reindex(found[titled])


def _one_line(value: Any) -> str:
    """Return a value as text on one line, valid in an atomic file."""
    text = token_text(value).replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return " ".join(text.split())


def _write_atomic(folder: Path, rows: pd.DataFrame, titles: list[str], config: Config) -> None:
    """Write atomic files in which users and items are numbers."""
    folder.mkdir()
    kinds = ("token", "token", "float")
    header = [f"{name}:{kind}" for name, kind in zip(rows, kinds, strict=True)]
    rows.to_csv(folder / f"{FRAME}.inter", sep=config["field_separator"], index=False, header=header)
    with open(folder / f"{FRAME}.item", "w", encoding="utf-8") as stream:
        separator = config["field_separator"]
        stream.write(f"{config['ITEM_ID_FIELD']}:token{separator}{config['title_field']}:token_seq\n")
        stream.writelines(f"{code}{separator}{title}\n" for code, title in enumerate(titles))
