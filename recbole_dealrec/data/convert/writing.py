"""Atomic files of a new dataset folder."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_dealrec.data.convert.interactions import LONGEST_HISTORY, Interactions, Sequence
from recbole_dealrec.errors import InputError

PARTS = ("train", "valid", "test")
_CHUNK_ROWS = 100_000
# What RecBole would misread: white space, a leading quotation mark, a word for a missing value.
_INVALID_TOKEN = re.compile(r'.*\s|"|$', re.DOTALL)
_MISSING = {
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that is renamed to it when complete, and removed otherwise.

    Raises:
        InputError: ``folder`` is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; remove it, or name another folder")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_tokens(tokens: Iterable[str], noun: str) -> None:
    """Raise InputError if RecBole would misread an identifier in an atomic file.

    Args:
        tokens: identifiers.
        noun: noun for them in the error, such as ``user``.
    """
    for token in tokens:
        if token in _MISSING or _INVALID_TOKEN.match(token) or not token.isprintable():
            raise InputError(
                f"{noun} '{token}': atomic files cannot hold this identifier; it has to be printable text without "
                "white space that begins with no quotation mark and is no word such as NA; rename it"
            )


def write_interactions(interactions: Interactions, file: Path) -> None:
    """Write ``.inter`` with user, item and time, grouped by user, each user's rows in their order."""
    order = np.argsort(interactions.user, kind="stable")
    users, items = np.array(interactions.users, object), np.array(interactions.items, object)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, len(order), _CHUNK_ROWS):
            chunk = interactions[order[start : start + _CHUNK_ROWS]]
            frame = pd.DataFrame({"user": users[chunk.user], "item": items[chunk.item], "time": chunk.time})
            frame.to_csv(stream, sep="\t", header=False, index=False, quoting=3)


def write_titles(titles: Mapping[str, str], items: Iterable[str], file: Path) -> None:
    """Write ``.item`` with item and title, which is empty for an item without one."""
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("item_id:token\ttitle:token\n")
        stream.writelines(f"{item}\t{titles.get(item, '')}\n" for item in items)


def write_benchmark(sequences: Iterable[Sequence], folder: Path, name: str) -> dict[str, int]:
    """Write RecBole's benchmark files ``<name>.train.inter``, ``.valid.inter`` and ``.test.inter`` as the authors do.

    Training has a row per user, with the last training item as target. Validation has a row per validation item, whose
    history is all training items; test has a row per test item, whose history is all earlier items.

    Returns:
        Number of rows of each part.

    Raises:
        InputError: a part has no row.
    """
    counts = dict.fromkeys(PARTS, 0)
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.{part}.inter", "w", encoding="utf-8")) for part in PARTS]
        for file in files:
            file.write("user_id:token\titem_id_list:token_seq\titem_id:token\n")
        for user, train, valid, test in sequences:
            rows = (train[:-1], train[-1:]), (train, valid), (train + valid, test)
            for part, file, (history, targets) in zip(PARTS, files, rows, strict=True):
                if history:
                    history = " ".join(history[-LONGEST_HISTORY:])
                    file.writelines(f"{user}\t{history}\t{target}\n" for target in targets)
                    counts[part] += len(targets)
    for part, rows in counts.items():
        if not rows:
            raise InputError(f"{name}: too few interactions for a split by time, the {part} part has no row")
    return counts
