"""Atomic files of a new dataset folder."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.yaml_file import read_yaml
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
    return write_parts(_rows(sequences), folder, name)


def write_parts(rows: Iterable[tuple[int, str]], folder: Path, name: str, columns: str = "") -> dict[str, int]:
    """Write RecBole's benchmark files from rows that are given with their part, an index in ``PARTS``.

    Args:
        rows: part and cells of each row: user, history, target and what ``columns`` names.
        folder: the dataset's folder.
        name: name of the dataset.
        columns: names of further columns, each after a tab.

    Returns:
        Number of rows of each part.

    Raises:
        InputError: a part has no row.
    """
    counts = dict.fromkeys(PARTS, 0)
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.{part}.inter", "w", encoding="utf-8")) for part in PARTS]
        for file in files:
            file.write(f"user_id:token\titem_id_list:token_seq\titem_id:token{columns}\n")
        for part, cells in rows:
            files[part].write(f"{cells}\n")
            counts[PARTS[part]] += 1
    for part, count in counts.items():
        if not count:
            raise InputError(f"{name}: too few interactions for a split by time; the {part} part has no row")
    return counts


def _rows(sequences: Iterable[UserSequence]) -> Iterator[tuple[int, str]]:
    for user, train, valid, test in sequences:
        for part, (history, targets) in enumerate([(train[:-1], train[-1:]), (train, valid), (train + valid, test)]):
            if history:
                known = " ".join(history[-LONGEST_HISTORY:])
                yield from ((part, f"{user}\t{known}\t{target}") for target in targets)


def write_properties(file: Path, words: Mapping[str, str], split: bool, timed: bool = False) -> None:
    """Write the configuration keys of a dataset.

    Args:
        file: the file.
        words: words for prompts, by key.
        split: whether the dataset has benchmark files.
        timed: whether these have a column of times.
    """
    comments = {"prompt_noun": "What is recommended.", "prompt_verb": "What users do with it."}
    lines = [
        f"# Keys of the dataset {file.stem}; --config_files and the command line override them.",
        "title_field: title  # (str) Column that holds the titles.",
        *(f"{key}: {word}  # (str) {comments[key]}" for key, word in words.items()),
    ]
    if split:
        columns = ", ".join(["user_id", "item_id_list", "item_id", *["timestamp"] * timed])
        lines += [
            f"benchmark_filename: [{', '.join(PARTS)}]  # (list) {file.stem}.train.inter and so on.",
            f"load_col: {{inter: [{columns}]}}  # (dict) History and target of each row.",
            "alias_of_item_id: [item_id_list]  # (list) The history shares the item ids.",
        ]
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")


def prompt_words(name: str, base: str, layout: Layout | None) -> dict[str, str]:
    """Return the words for prompts that a dataset's keys need; none if the package has some for its name.

    Args:
        name: name of the dataset.
        base: name of the dataset that it is a fold of, or its own.
        layout: layout of a published collection, which has its own words; None for any other.
    """
    if layout:
        return {"prompt_noun": layout.noun, "prompt_verb": layout.verb}
    known, known_base = (properties_folder() / "dataset" / f"{each}.yaml" for each in (name, base))
    if known.is_file():
        return {}
    words = {"prompt_noun": "item", "prompt_verb": "chosen"}
    return {key: read_yaml(known_base).get(key, word) for key, word in words.items()} if known_base.is_file() else words
