"""DataFrames or files of interactions written as atomic files, and the selection returned as a DataFrame."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.data.convert.interactions import Interactions
from recbole_dealrec.data.convert.item_text import ItemTexts
from recbole_dealrec.data.convert.layout import Columns, files_layout
from recbole_dealrec.data.convert.source import Source, existing_table, found_source, token_text
from recbole_dealrec.data.convert.table import Table, frame_table
from recbole_dealrec.data.convert.writing import write_interactions, write_items
from recbole_dealrec.errors import InputError

__all__ = ["FRAME", "Ids", "dataset_written", "selection_frame", "token_text"]

FRAME = "frame"  # name of the dataset
_DATA_KEYS = {
    "data_path", "load_col", "benchmark_filename", "title_field", "field_separator", "encoding", "USER_ID_FIELD",
    "ITEM_ID_FIELD", "TIME_FIELD",
}  # fmt: skip


class Ids(NamedTuple):
    """The users and items of the data, by their numbers in the atomic files."""

    users: pd.Index
    items: pd.Index


@contextmanager
def dataset_written(
    interactions: Any, items: Any, keys: Mapping[str, Any], columns: Columns | None = None, encoding: str | None = None
) -> Iterator[tuple[dict[str, Any], Ids]]:
    """Write data as atomic files in a temporary folder, and yield configuration keys of the dataset and its ids.

    Args:
        interactions: as for ``recbole_dealrec.select_fewshot``.
        items: as for ``recbole_dealrec.select_fewshot``.
        keys: the user's configuration keys; ``checkpoint_dir`` is the temporary folder by default.
        columns: names of columns; None to detect them.
        encoding: encoding of text files; None for UTF-8.

    Raises:
        InputError: a column or a value is missing, an item has two titles, or a key cannot be used.
    """
    if given := sorted(keys.keys() & _DATA_KEYS):
        raise InputError(f"configuration key '{given[0]}': the data come from interactions and items; leave it out")
    Config("BIGRec", FRAME, config_dict=keys)  # raises for invalid keys before anything is read
    source = _source(interactions, items, columns or Columns(), encoding)
    rows = Interactions.of(source.interactions(rated=False))
    catalogue = _catalogue(source, rows)
    titled = np.array([item in catalogue.texts for item in rows.items])
    rows, item_codes = rows[titled[rows.item]], np.flatnonzero(titled)
    numbered = replace(rows, users=[*range(len(rows.users))], items=[*range(len(rows.items))])
    cells = ((str(code), *catalogue.texts[rows.items[code]]) for code in item_codes)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / FRAME
        folder.mkdir()
        write_interactions(numbered, folder / f"{FRAME}.inter")
        write_items(cells, source.texts, folder / f"{FRAME}.item")
        ids = Ids(pd.Index(rows.users), pd.Index(rows.items))
        yield {"checkpoint_dir": f"{parent}/saved", **keys, "data_path": parent}, ids


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


def _source(interactions: Any, items: Any, columns: Columns, encoding: str | None) -> Source:
    """Return the source of two DataFrames, or of paths."""
    if items is None and isinstance(interactions, str | Path):
        return found_source(Path(interactions).expanduser(), None, columns, encoding)
    events = _table(interactions, "interactions", encoding)
    titles = events if items is None else _table(items, "items", encoding)
    return Source.of(events, titles, columns, files_layout(events, titles))


def _table(data: Any, name: str, encoding: str | None) -> Table:
    if isinstance(data, str | Path):
        return existing_table(Path(data).expanduser(), encoding)
    return frame_table(data, name)


def _catalogue(source: Source, rows: Interactions) -> ItemTexts:
    """Return the titles; raise InputError if an item has two."""
    catalogue = ItemTexts.of(source.titles(), set(rows.items), source.items.name)
    if catalogue.n_retitled and not source.items.is_text:
        raise InputError(f"{source.items.name}: item '{catalogue.retitled}' has 2 titles; keep one of them")
    if untitled := [item for item in rows.items if item not in catalogue.texts]:
        getLogger().warning(
            f"{source.items.name}: {len(untitled)} items of the interactions have no title and are left out; the first "
            f"is {untitled[0]}"
        )
    return catalogue
