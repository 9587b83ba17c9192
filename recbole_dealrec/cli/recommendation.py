"""``recommend``: the best items for histories or users, from a finished run."""

import argparse
import sys
from pathlib import Path

from recbole_dealrec.errors import InputError
from recbole_dealrec.store.latest import named_folder
from recbole_dealrec.store.run_folder import check_outputs

_ABOUT_SCORE = (
    "score: minus the logarithm of the item's distance, which ranges from 1 (the model's first item) to 2 (its last) "
    "before the run's re-weighting; comparable only within one history"
)


def main(arguments: list[str]) -> int:
    """Print the recommendations that the arguments ask for, and return the exit code.

    Raises:
        InputError: invalid input; an unfinished run is reported before PyTorch is imported.
    """
    options = _parser().parse_args(arguments)
    lines = None if options.user else options.history or _lines(options.histories)
    histories = lines and [line.split() for line in lines]
    check_outputs(named_folder(Path(options.run_dir)), ["result.json"])
    from recbole_dealrec.recommend import recommend

    found = recommend(options.run_dir, histories, options.k, options.exclude_history, options.user)
    if options.json:
        print(found.to_json(orient="records", lines=True, force_ascii=False), end="")
    else:
        shown = found.assign(score=found["score"].round(4) + 0.0)  # + 0.0 turns -0.0 into 0.0
        print(f"{shown.to_string(index=False)}\n{_ABOUT_SCORE}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-dealrec recommend", allow_abbrev=False,
        description="The best items for histories or users, from a finished run.", epilog=_ABOUT_SCORE,
    )  # fmt: skip
    parser.add_argument("run_dir", help="folder of the run, such as saved/latest")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--user", action="append", help="user token; the history is taken from the data; repeatable")
    given.add_argument("--history", action="append", help="item tokens, oldest first, separated by spaces; repeatable")
    given.add_argument("--histories", metavar="FILE", help="file with such a history on each line; - reads stdin")
    parser.add_argument("--k", type=int, default=10, help="number of items for each history (10)")
    parser.add_argument("--exclude_history", action="store_true", help="leave the items of the history out")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each item instead of a table")
    return parser


def _lines(file: str) -> list[str]:
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error})") from error
