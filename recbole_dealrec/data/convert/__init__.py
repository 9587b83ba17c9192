"""Conversion of published data to atomic files: ``python -m recbole_dealrec.data.convert SOURCE FOLDER``."""

from collections.abc import Container, Iterator
from pathlib import Path

from recbole_dealrec.data.convert.amazon import Amazon
from recbole_dealrec.data.convert.atomic_source import AtomicSource
from recbole_dealrec.data.convert.interactions import Interactions
from recbole_dealrec.data.convert.released import AuthorsFolder
from recbole_dealrec.data.convert.source import Source, title_text
from recbole_dealrec.data.convert.table import Table
from recbole_dealrec.data.convert.writing import (
    check_tokens,
    new_folder,
    write_benchmark,
    write_interactions,
    write_titles,
)
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import progress_bar

__all__ = ["convert"]

_FORMATS = (AuthorsFolder, Table, AtomicSource, Amazon)


def convert(
    source: str | Path, folder: str | Path, min_rating: float | None = None, core: int = 0, split: bool = False
) -> dict[str, int]:
    """Convert published data to a dataset folder of atomic files; the folder's name is the dataset's.

    Args:
        source: data folder of the authors' repository; folder with MicroLens's CSV files; folder with a category of
            Amazon Reviews 2018 or 2023 (JSON lines of reviews and of metadata, plain or gzip); folder with one
            ``.inter`` and one ``.item`` file; or a CSV file with the columns user, item, time and title.
        folder: new folder.
        min_rating: lowest rating to keep; None keeps all (the paper: 4).
        core: fewest interactions of users and items to keep; 0 keeps all (the paper: 5).
        split: whether to write RecBole's benchmark files, split 8:1:1 by global time as in the paper, too. Of the
            authors' data, only their split is written.

    Returns:
        Numbers of users, items, interactions, and rows of each part of the split.

    Raises:
        InputError: the source has none of these formats or is invalid; ``folder`` is not created then.
    """
    source, folder = Path(source).expanduser(), Path(folder).expanduser().absolute()
    data = _detect_format(source)
    with new_folder(folder) as new:
        if isinstance(data, AuthorsFolder):
            if min_rating is not None or core:
                raise InputError(f"{source}: these data are filtered and split already; leave min_rating and core out")
            return _convert_split(data, new, folder.name)
        return _convert_rows(data, new, folder.name, min_rating, core, split)


def _detect_format(source: Path) -> AuthorsFolder | Source:
    """Return the source in the first format that it has; raise InputError if it has none."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    for kind in _FORMATS:
        if found := kind.found_in(source):
            return found
    raise InputError(
        f"{source}: none of the formats that can be converted: a folder with title_maps.npy and sequential_*.txt, with "
        "*_pairs.csv and *_titles.csv, with JSON lines of Amazon reviews and metadata, or with one .inter and one "
        ".item file; or a .csv file with user, item, time and title"
    )


def _convert_rows(
    source: Source, new: Path, name: str, min_rating: float | None, core: int, split: bool
) -> dict[str, int]:
    rows = source.rows(rated=min_rating is not None)
    shown = progress_bar(rows, desc=name, unit=" rows", unit_scale=True)
    interactions = Interactions.of(shown, min_rating).in_time_order()
    if core:
        interactions = interactions.k_core(core)
        if not len(interactions):
            raise InputError(f"{name}: no user and item with {core} interactions is left; lower core")
    users, items = interactions.used_users(), interactions.used_items()
    check_tokens(users, "user")
    check_tokens(items, "item")
    write_titles(_first_titles(source.titles(), set(items), name), items, new / f"{name}.item")
    write_interactions(interactions, new / f"{name}.inter")
    parts = write_benchmark(interactions.sequences(), new, name) if split else {}
    return {"users": len(users), "items": len(items), "interactions": len(interactions), **parts}


def _convert_split(source: AuthorsFolder, new: Path, name: str) -> dict[str, int]:
    users, items, interactions = set(), set(), 0
    for user, *parts in source.sequences():
        users.add(user)
        items.update(*parts)
        interactions += sum(map(len, parts))
    titles = _first_titles(source.titles(), items, name)
    check_tokens([*users, *items], "user or item")
    write_titles(titles, dict.fromkeys([*titles, *sorted(items)]), new / f"{name}.item")
    parts = write_benchmark(source.sequences(), new, name)
    return {"users": len(users), "items": len(items), "interactions": interactions, **parts}


def _first_titles(pairs: Iterator[tuple[str, str]], items: Container[str], name: str) -> dict[str, str]:
    """Return each item's first non-empty title; raise InputError if no item has one."""
    titles: dict[str, str] = {}
    for item, title in pairs:
        if item in items and item not in titles and (text := title_text(title)):
            titles[item] = text
    if not titles:
        raise InputError(f"{name}: none of the items has a title; titles are needed to prompt a language model")
    return titles
