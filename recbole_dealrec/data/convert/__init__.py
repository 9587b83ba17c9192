"""Conversion of published or own data to atomic files: ``recbole-dealrec convert SOURCE FOLDER``."""

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from recbole_dealrec.data.convert.fold import MOST_FOLDS, time_folds
from recbole_dealrec.data.convert.interactions import Interactions
from recbole_dealrec.data.convert.item_text import ItemTexts
from recbole_dealrec.data.convert.layout import Columns
from recbole_dealrec.data.convert.released import AuthorsFolder
from recbole_dealrec.data.convert.source import Source, found_source
from recbole_dealrec.data.convert.writing import (
    atomic_token,
    new_folder,
    prompt_words,
    write_benchmark,
    write_interactions,
    write_items,
    write_properties,
)
from recbole_dealrec.data.data_summary import DataSummary
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import progress_bar

__all__ = ["Columns", "convert"]

_OF_TIME = "8:1:1 by time; train has a row per user, valid and test a row per target"


def convert(
    source: str | Path,
    folder: str | Path,
    min_rating: float | None = None,
    core: int = 0,
    split: bool = False,
    items: str | Path | None = None,
    columns: Columns | None = None,
    encoding: str | None = None,
    folds: int = 0,
) -> DataSummary:
    """Convert published or own data to a dataset folder of atomic files; the folder's name is the dataset name.

    Ids that an atomic file cannot hold are percent-encoded. ``<name>.yaml`` in the folder has the dataset's keys. Folds
    are datasets of their own, ``<name>-fold1`` and so on, beside ``folder``.

    Args:
        source: file of interactions, as CSV, JSON lines, Parquet or ``.inter``; or folder with one and a file of
            titles, such as those of Amazon Reviews, MovieLens, MicroLens, Steam and Yelp; or data folder of the
            authors' repository.
        folder: new folder.
        min_rating: lowest rating to keep; None keeps all (the paper: 4).
        core: fewest interactions of users and items to keep; 0 keeps all (the paper: 5).
        split: whether to write RecBole's benchmark files, split 8:1:1 by global time as in the paper, as well. Of
            the authors' data, only their split is written.
        items: file of titles; None if they are in ``source``.
        columns: names of columns; None to detect them.
        encoding: encoding of text files; None for UTF-8.
        folds: number of rolling folds of time, at most 8: each trains on all before a tenth of the interactions,
            validates on it and tests on the next one. Their benchmark files have a row for each target, with its time.

    Raises:
        InputError: the source has none of these formats or is invalid; ``folder`` is not created then.
    """
    if not 0 <= folds <= MOST_FOLDS:
        raise InputError(f"folds: {folds} is not from 1 to {MOST_FOLDS}; each is a tenth later than the one before")
    source, folder = Path(source).expanduser(), Path(folder).expanduser().absolute()
    released = AuthorsFolder.found_in(source)
    if released and (min_rating is not None or core):
        raise InputError(f"{source}: these data are filtered and split already; leave min_rating and core out")
    if released and folds:
        raise InputError(f"{source}: these data have no times; leave folds out")
    with new_folder(folder) as new:
        if released:
            return _convert_split(released, new, folder.name)
        items = Path(items).expanduser() if items else None
        found = found_source(source, items, columns or Columns(), encoding)
        kept = _interactions(found, folder.name, min_rating, core)
        catalogue, tokens = _write_rows(found, kept, new, folder.name)
        parts = write_benchmark(tokens.sequences(), new, folder.name) if split else {}
        write_properties(new / f"{folder.name}.yaml", prompt_words(folder.name, folder.name, found.layout), split)
        drifted = _write_folds(found, tokens, new, folder, folds) if folds else {}
    return _summary(folder.name, found, kept, catalogue, parts, drifted)


def _interactions(source: Source, name: str, min_rating: float | None, core: int) -> Interactions:
    """Return the interactions to keep, in time order."""
    shown = progress_bar(source.interactions(rated=min_rating is not None), desc=name, unit=" chunks")
    kept = Interactions.of(shown, min_rating).in_time_order()
    if core:
        kept = kept.k_core(core)
        if not len(kept):
            raise InputError(f"{name}: no user and item with {core} interactions is left; lower core")
    return kept


def _write_rows(source: Source, kept: Interactions, new: Path, name: str) -> tuple[ItemTexts, Interactions]:
    """Write items and interactions; return the catalogue, and the interactions with tokens as ids."""
    items = kept.used_items()
    catalogue = ItemTexts.of(source.titles(), set(items), name)
    blank = ("",) * (1 + len(source.texts))
    rows = ((atomic_token(item), *catalogue.texts.get(item, blank)) for item in items)
    write_items(rows, source.texts, new / f"{name}.item")
    tokens = replace(kept, users=[*map(atomic_token, kept.users)], items=[*map(atomic_token, kept.items)])
    write_interactions(tokens[np.argsort(tokens.user, kind="stable")], new / f"{name}.inter")
    return catalogue, tokens


def _write_folds(source: Source, tokens: Interactions, base: Path, folder: Path, count: int) -> dict[str, str]:
    """Write folds as datasets beside ``folder``, whose files are in ``base`` yet; return what each holds, by name."""
    notes = {}
    with ExitStack() as stack:
        for fold in time_folds(tokens.time, count):
            name = fold.name(folder.name)
            new = stack.enter_context(new_folder(folder.with_name(name)))
            shutil.copyfile(base / f"{folder.name}.item", new / f"{name}.item")
            parts = fold.write(tokens, new, folder.name)
            write_properties(new / f"{name}.yaml", prompt_words(name, folder.name, source.layout), True, timed=True)
            notes[f"fold {fold.number}"] = ", ".join(f"{part} {rows:,} rows" for part, rows in parts.items())
    return notes


def _summary(
    name: str, source: Source, kept: Interactions, catalogue: ItemTexts, parts: dict[str, int], folds: dict[str, str]
) -> DataSummary:
    dropped = {**kept.dropped, "without a full date": sum(source.undated)}
    left_out = [f"{rows:,} {reason}" for reason, rows in dropped.items() if rows]
    items = len(kept.used_items())
    notes = {
        "left out": f"{', '.join(left_out) or 'no'} interactions",
        **catalogue.notes(items),
        "repeated": f"{kept.n_repeated():,} interactions repeat user, item and time of another one",
        **folds,
    }
    scale = 10**kept.digits
    span = float(kept.time.min()) / scale, float(kept.time.max()) / scale
    split = f"{_OF_TIME}; {kept.n_of_new_users():,} interactions of users without a training row are left out"
    return DataSummary(name, len(kept.used_users()), items, len(kept), span, notes, parts, split if parts else "")


def _convert_split(source: AuthorsFolder, new: Path, name: str) -> DataSummary:
    users, items, interactions = set(), set(), 0
    for user, *parts in source.sequences():
        users.add(user)
        items.update(*parts)
        interactions += sum(map(len, parts))
    catalogue = ItemTexts.of(source.titles(), items, name)
    order = dict.fromkeys([*catalogue.texts, *sorted(items)])
    rows = ((atomic_token(item), *catalogue.texts.get(item, ("",))) for item in order)
    write_items(rows, (), new / f"{name}.item")
    counts = write_benchmark(source.sequences(), new, name)
    write_properties(new / f"{name}.yaml", prompt_words(name, name, None), split=True)
    notes = catalogue.notes(len(items))
    return DataSummary(name, len(users), len(items), interactions, None, notes, counts, f"from the authors; {_OF_TIME}")
