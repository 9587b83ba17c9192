"""The search space of a tuning: RecBole's parameter file, and the algorithms that search it."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_dealrec.errors import InputError

ALGORITHMS = ("exhaustive", "random", "bayes")
_NUMBERS = {"uniform": 2, "quniform": 3, "loguniform": 2}


def check_search(params_file: str, space: Mapping[str, dict[str, list]], fixed: Mapping[str, Any], algo: str) -> None:
    """Raise InputError if ``algo`` cannot search a space, or a key of it is also given for all trials.

    Args:
        params_file: file of the space.
        space: see ``parameter_space``.
        fixed: keys of all trials.
        algo: one of ``ALGORITHMS``.
    """
    if algo not in ALGORITHMS:
        raise InputError(f"no algo '{algo}'; choose one of {', '.join(ALGORITHMS)}")
    if algo == "exhaustive" and space.keys() != {"choice"}:
        raise InputError(f"{params_file}: only choices can be tried exhaustively; use --algo=random or bayes")
    if duplicates := {key for keys in space.values() for key in keys} & fixed.keys():
        raise InputError(f"{params_file}: '{min(duplicates)}' is also given for all trials; remove one of them")


def parameter_space(params_file: str) -> dict[str, dict[str, list]]:
    """Read RecBole's parameter file.

    Its lines are ``key choice [1, 2]``, ``key uniform low,high``, ``key quniform low,high,step`` and ``key loguniform
    low,high`` (natural logarithms), or begin with ``#``. RecBole evaluates choices as Python; here they are literals.

    Returns:
        Mapping from kind of range to key to values or limits, the ``params_dict`` of HyperTuning.

    Raises:
        InputError: the file cannot be read, or a line has another form.
    """
    try:
        lines = Path(params_file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"params_file '{params_file}': cannot be read ({error})") from error
    space: dict[str, dict[str, list]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            key, kind, values = _parameter(line, f"{params_file}, line {number}")
            space.setdefault(kind, {})[key] = values
    if not space:
        raise InputError(f"params_file '{params_file}': names no key")
    return space


def _parameter(line: str, place: str) -> tuple[str, str, list]:
    key, kind, text = [*line.split(maxsplit=2), "", ""][:3]
    try:
        values = ast.literal_eval(text if kind == "choice" else f"[{text}]")
    except (ValueError, SyntaxError):
        values = None
    if kind == "choice" and isinstance(values, list) and values:
        return key, kind, values
    if (
        isinstance(values, list)
        and len(values) == _NUMBERS.get(kind)
        and all(isinstance(v, int | float) for v in values)
    ):
        return key, kind, values
    raise InputError(f"{place}: has to be 'key choice [a, b]' or 'key uniform|quniform|loguniform low,high[,step]'")
