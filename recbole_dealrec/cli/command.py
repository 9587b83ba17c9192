"""The command and its subcommands. Heavy modules are imported only when they are needed."""

import os
import sys
import traceback
from importlib import import_module
from typing import NamedTuple

from recbole_dealrec.errors import InputError, closest


class Subcommand(NamedTuple):
    """A module with ``main(arguments: list[str]) -> int``, and a description of what it does."""

    module: str
    purpose: str


SUBCOMMANDS = {
    "run": Subcommand("recbole_dealrec.cli.run", "one run, or a comparison of several samplers or seeds (the default)"),
    "compare": Subcommand("recbole_dealrec.cli.compare", "a comparison of samplers over seeds"),
    "select": Subcommand("recbole_dealrec.cli.select", "a run up to its selection, for use with other tools"),
    "recommend": Subcommand("recbole_dealrec.cli.recommendation", "the best items for histories, from a finished run"),
    "runs": Subcommand("recbole_dealrec.cli.runs", "the runs and comparisons of a folder, with their metrics"),
    "tune": Subcommand("recbole_dealrec.cli.tune", "the best values of keys, found by validation"),
    "convert": Subcommand("recbole_dealrec.data.convert.__main__", "published or own data as a dataset folder"),
    "doctor": Subcommand("recbole_dealrec.cli.doctor", "versions, devices and missing packages"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, print an error as one line, and return the exit code.

    Args:
        arguments: words of the command line; the first is a subcommand, else ``run`` is meant; None for ``sys.argv``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words, debug = [word for word in given if word != "--debug"], "--debug" in given
    try:
        name = _subcommand(words)
        return import_module(SUBCOMMANDS[name].module).main(words)
    except InputError as error:
        rank = int(os.environ.get("RANK", 0))
        print(f"error: {f'process {rank}: ' if rank else ''}{error}", file=sys.stderr)
        _show_traceback(debug)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {_told(error)}; --debug shows the traceback", file=sys.stderr)
        _show_traceback(debug)
        return 1


def _show_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _subcommand(words: list[str]) -> str:
    """Return the subcommand, after removing it from the words; ``run`` if they begin with an option."""
    if not words or words[0].startswith("-"):
        return "run"
    if words[0] not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        raise InputError(f"no subcommand '{words[0]}'; choose one of {known}{closest(words[0], SUBCOMMANDS)}")
    return words.pop(0)


def _told(error: Exception) -> str:
    """Return an unexpected error as one line, with its file and line and what may help."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {' '.join(str(error).split())} ({frame.filename}:{frame.lineno})"
    if "torch" in sys.modules:
        from recbole_dealrec.model.memory import out_of_memory

        told += "; lower tokens_per_batch, micro_batch_size or eval_batch_size" if out_of_memory(error) else ""
    return told
