"""Atomic files of a new dataset folder."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.data.convert.interactions import LONGEST_HISTORY, Interactions, UserSequence
from recbole_dealrec.data.convert.layout import Layout
from recbole_dealrec.data.convert.times import time_texts
from recbole_dealrec.errors import InputError

PARTS = ("train", "valid", "test")
_CHUNK_ROWS = 100_000
# What RecBole would misread: white space, quotation marks, words for a missing value, its padding token.
_MISREAD = re.compile(r'[\s"%]')
_RESERVED = {
    "[PAD]", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``folder`` that is renamed to it when complete, and removed otherwise.

    Raises:
        InputError: ``folder`` is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; remove it, or give another folder")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_token(value: str) -> str:
    """Return an id for an atomic file: what RecBole would misread is percent-encoded, as in URLs.

    ``urllib.parse.unquote`` gives the id back.
    """
    token = _MISREAD.sub(lambda found: quote(found[0], safe=""), value)
    if token in _RESERVED or not token.isprintable():
        return "".join(f"%{byte:02X}" for byte in value.encode("utf-8", "surrogatepass"))
    return token


def write_interactions(interactions: Interactions, file: Path) -> None:
    """Write ``.inter`` with user, item and time.

    Args:
        interactions: the interactions, with tokens as ids.
        file: the file.
    """
    users, items = np.array(interactions.users, object), np.array(interactions.items, object)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, len(interactions), _CHUNK_ROWS):
            chunk = interactions[start : start + _CHUNK_ROWS]
            times = time_texts(chunk.time, chunk.digits)
            rows = zip(users[chunk.user], items[chunk.item], times, strict=True)
            stream.writelines(f"{user}\t{item}\t{time}\n" for user, item, time in rows)


def write_items(rows: Iterable[Sequence[str]], texts: Iterable[str], file: Path) -> None:
    """Write ``.item`` with item, title (empty if the item has none) and further texts.

    Args:
        rows: the cells of each item.
        texts: names of the columns of further texts.
        file: the file.
    """
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("\t".join(f"{name}:token" for name in ("item_id", "title", *texts)) + "\n")
        stream.writelines("\t".join(row) + "\n" for row in rows)


def write_benchmark(sequences: Iterable[UserSequence], folder: Path, name: str) -> dict[str, int]:
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
            raise InputError(f"{name}: too few interactions for a split by time; the {part} part has no row")
    return counts


def write_properties(file: Path, layout: Layout | None, split: bool) -> None:
    """Write the configuration keys of a dataset; with words for prompts unless the package has some for its name.

    Args:
        file: the file.
        layout: layout of a published collection, which has its own words; None for any other.
        split: whether the dataset has benchmark files.
    """
    lines = [
        f"# Keys of the dataset {file.stem}; --config_files and the command line override them.",
        "title_field: title  # (str) Column that holds the titles.",
    ]
    if layout or not (properties_folder() / "dataset" / file.name).is_file():
        noun, verb = (layout.noun, layout.verb) if layout else ("item", "chosen")
        lines += [
            f"prompt_noun: {noun}  # (str) What is recommended.",
            f"prompt_verb: {verb}  # (str) What users do with it.",
        ]
    if split:
        lines += [
            f"benchmark_filename: [{', '.join(PARTS)}]  # (list) {file.stem}.train.inter and so on.",
            "load_col: {inter: [user_id, item_id_list, item_id]}  # (dict) History and target of each row.",
            "alias_of_item_id: [item_id_list]  # (list) The history shares the item ids.",
        ]
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
