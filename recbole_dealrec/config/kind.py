"""Kinds of values: the type of a configuration key and the range of its values."""

import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # not allowed in paths and UTF-8 files
_NUMBER = r"\s*([-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?))\s*"
_INTERVAL = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}[\])]", re.IGNORECASE)
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")  # RecBole uses info for any other name
# RecBole uses adam for any other name; its sparse_adam is for sparse gradients, which no model here has.
_OPTIMISERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")
_TRACKERS = ("tensorboard", "wandb", "mlflow")  # also the names of their packages
_EVALUATION = {"split", "order", "group_by", "mode"}


@dataclass(frozen=True)
class Kind:
    """The type and range of the values of a key.

    Args:
        type: type as property files and ``--help`` name it: str, int, float, bool, list or dict.
        description: description of a valid value, for the error: "a number above 0".
        accepts: returns whether a value is of this kind.
        text: whether a string is used literally, so that neither ``no`` nor ``{history}`` is parsed as YAML.
        path: whether it may name a file or folder, with ``~`` for the home folder.
    """

    type: str
    description: str
    accepts: Callable[[Any], bool]
    text: bool = False
    path: bool = False


def one_of(*choices: str) -> Kind:
    """Return the kind whose values are ``choices``."""
    return Kind("str", f"one of {', '.join(choices)}", lambda value: value in choices, text=True)


def or_none(kind: Kind) -> Kind:
    """Return the kind whose values are those of ``kind`` and None, given as ``~``."""
    return Kind(kind.type, f"~ or {kind.description}", lambda value: value is None or kind.accepts(value))


def or_auto(kind: Kind) -> Kind:
    """Return the kind whose values are those of ``kind`` and ``auto``."""
    accepts = lambda value: value == "auto" or kind.accepts(value)  # noqa: E731
    return Kind(f"str or {kind.type}", f"auto or {kind.description}", accepts)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _is_list(value: Any, is_entry: Callable[[Any], bool] = _is_text) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_columns(value: Any) -> bool:
    return isinstance(value, dict) and all(columns == "*" or _is_list(columns) for columns in value.values())


def _is_evaluation(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= _EVALUATION and isinstance(value.get("mode", ""), str | dict)


def _is_interval(value: Any) -> bool:
    found = [_INTERVAL.fullmatch(part.strip()) for part in value.split(";")] if _is_text(value) else [None]
    return all(part and float(part[1]) <= float(part[2]) for part in found)


def _is_filters(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_interval(kept) or isinstance(kept, list) for kept in value.values())


def _is_clipping(value: Any) -> bool:
    return isinstance(value, dict) and {"max_norm"} <= value.keys() <= {"max_norm", "norm_type"}


def tracker_names(value: str | list[str] | None) -> list[str]:
    """Return the names in a value of ``log_with``: a list, or a string with commas."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value or [])


def _is_trackers(value: Any) -> bool:
    names = tracker_names(value) if _is_text(value) or _is_list(value) else []
    usable = all(name in _TRACKERS and importlib.util.find_spec(name) for name in names)
    return usable and 0 < len(names) == len(set(names))


def _caseless(*choices: str) -> Kind:
    return replace(one_of(*choices), accepts=lambda value: _is_text(value) and value.lower() in choices)


ANY = Kind("str", "any value", lambda value: True)
FLAG = Kind("bool", "True or False", lambda value: isinstance(value, bool))
COUNT = Kind("int", "a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
COUNT_OR_ZERO = Kind("int", "a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
POSITIVE = Kind("float", "a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Kind("float", "a number of at least 0", lambda value: _is_number(value) and value >= 0)
RATIO = Kind("float", "a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
SHARE = Kind("float", "a number in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1)
TEXT = Kind("str", "a non-empty string", lambda value: _is_text(value) and value != "", text=True)
ANY_TEXT = Kind("str", "a string, quoted if it begins with a brace", _is_text, text=True)
NAMES = Kind("list", "a list of names", lambda value: _is_list(value) and bool(value))
PATTERNS = Kind("list", "a list of patterns", _is_list)

# Kinds of one or two keys each.
SEED = Kind("int", "a whole number from 0 to 4294967295", lambda value: _is_whole(value) and 0 <= value < 2**32)
DEVICES = Kind(
    "str", "a number, or several separated by commas", lambda value: _is_text(value) or _is_whole(value), text=True
)
FOLDER, ANY_FOLDER = replace(TEXT, path=True), replace(ANY_TEXT, path=True)
CHECKPOINT = replace(FOLDER, description="a string that names a checkpoint")
FILES = Kind("list", "a list of names", _is_list)
INTERVAL = Kind("str", "an interval such as [5,inf), or several separated by semicolons", _is_interval)
FILTERS = Kind("dict", "a mapping from columns to intervals such as [4,inf) or lists of values", _is_filters)
COLUMNS = Kind("dict", "a mapping from suffixes of files to lists of columns", _is_columns)
CLIPPING = Kind("dict", "a mapping with max_norm and optionally norm_type", _is_clipping)
EVALUATION = Kind("dict", f"a mapping with the keys {', '.join(sorted(_EVALUATION))}", _is_evaluation)
OPTIMISER, LOG_LEVEL = _caseless(*_OPTIMISERS), _caseless(*_LOG_LEVELS)
TRACKERS = Kind(
    "str or list",
    f'one or more of {", ".join(_TRACKERS)} whose packages are installed: pip install -e ".[tracking]"',
    _is_trackers,
)
METRICS = Kind(
    "list", "the name of a metric or a list of them", lambda value: _is_text(value) or _is_list(value) and bool(value)
)
CUTOFFS = Kind(
    "list", "a whole number of at least 1 or a list of them",
    lambda value: COUNT.accepts(value) or _is_list(value, COUNT.accepts) and bool(value),
)  # fmt: skip
PRECISION = replace(one_of("no", "fp16", "bf16"), description='one of "no" (quoted in YAML), fp16, bf16')
AUTO_OR_FLAG = Kind(
    "str or bool", "auto, True or False", lambda value: value == "auto" or isinstance(value, bool)
)
EXPONENT = or_auto(NOT_NEGATIVE)
PARAMETERS = Kind(
    "str or list", "last, all or a list of patterns", lambda value: value in ("last", "all") or _is_list(value)
)
