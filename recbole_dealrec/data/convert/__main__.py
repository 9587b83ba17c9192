"""``convert``: published or own data as RecBole's atomic files."""

import argparse
import sys
from pathlib import Path

from recbole_dealrec.data.convert import Columns, convert


def main(arguments: list[str]) -> int:
    """Convert as the arguments describe, print a summary, and return the exit code.

    Raises:
        InputError: as ``convert``.
    """
    chosen = _parser().parse_args(arguments)
    texts = tuple(filter(None, (name.strip() for name in chosen.text_cols.split(","))))
    columns = Columns(chosen.user_col, chosen.item_col, chosen.time_col, chosen.title_col, chosen.rating_col, texts)
    summary = convert(
        chosen.source, chosen.folder, chosen.min_rating, chosen.core, chosen.split, chosen.items, columns,
        chosen.encoding, chosen.folds,
    )  # fmt: skip
    print(summary)
    print(f"{chosen.folder}: written; use it with --dataset={summary.name}")
    for number in range(1, chosen.folds + 1):
        name = f"{summary.name}-fold{number}"
        print(f"{Path(chosen.folder).with_name(name)}: written; use it with --dataset={name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-dealrec convert",
        description="Write published or own data as RecBole's atomic files.",
    )
    parser.add_argument("source", help="folder, or file of interactions: .csv, .jsonl, .parquet, ...; also .gz")
    parser.add_argument("folder", help="new folder; its name is the dataset name")
    parser.add_argument("--items", help="file of items and titles, if they are in a second file")
    for kind in ("user", "item", "time", "title", "rating"):
        parser.add_argument(f"--{kind}_col", help=f"column of the {kind}, if it has no usual name")
    parser.add_argument("--text_cols", default="", help="further columns of items for prompts: genre,brand")
    parser.add_argument("--encoding", help="encoding of text files (UTF-8)")
    parser.add_argument("--min_rating", type=float, help="lowest rating that is kept (the paper: 4)")
    parser.add_argument("--core", type=int, default=0, help="fewest interactions of a user and an item (the paper: 5)")
    parser.add_argument("--split", action="store_true", help="write the paper's split by global time as well, 8:1:1")
    parser.add_argument("--folds", type=int, default=0, help="write rolling folds of time as datasets NAME-fold1, ...")
    return parser


if __name__ == "__main__":
    from recbole_dealrec.cli.command import main as command

    sys.exit(command(["convert", *sys.argv[1:]]))
