"""Command line: python -m recbole_dealrec.data.convert SOURCE FOLDER [--min_rating=4 --core=5 --split]."""

import argparse
import sys

from recbole_dealrec.data.convert import convert
from recbole_dealrec.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_dealrec.data.convert", description="Write published data as RecBole's atomic files."
    )
    parser.add_argument("source", help="folder or CSV file; the format is detected")
    parser.add_argument("folder", help="new folder; its name is the dataset's")
    parser.add_argument("--min_rating", type=float, help="lowest rating that is kept (the paper: 4)")
    parser.add_argument("--core", type=int, default=0, help="fewest interactions of a user and an item (the paper: 5)")
    parser.add_argument("--split", action="store_true", help="write the paper's split by global time as well, 8:1:1")
    chosen = parser.parse_args(arguments)
    try:
        counts = convert(chosen.source, chosen.folder, chosen.min_rating, chosen.core, chosen.split)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{chosen.folder}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
