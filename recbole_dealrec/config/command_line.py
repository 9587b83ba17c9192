"""Values of configuration keys from the command line or a dictionary, parsed without evaluating code."""

import ast
from collections.abc import Mapping, Sequence, Set
from os import PathLike, fspath
from typing import Any

import yaml

from recbole_dealrec.config.registry import key_of, load_all
from recbole_dealrec.config.yaml_file import load_yaml
from recbole_dealrec.errors import InputError


def parse_value(text: str) -> Any:
    """Return the value of a string: a YAML scalar or collection, else a Python literal, else the text itself."""
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        value = text
    if value != text:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def parse_command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse configuration keys from a command line.

    Args:
        arguments: ``--key=value``, ``--key value`` or ``--flag`` (true) each; values are parsed by ``value_of``.

    Raises:
        InputError: a word belongs to no key, or a key is given twice with different values.
    """
    parsed: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise InputError(f"command line: '{word}' is not an option; write --key=value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        value = value_of(key, text)
        if parsed.get(key, value) != value:
            raise InputError(f"command line: --{key} is given twice with different values")
        parsed[key] = value
    return parsed


def value_of(key: str, text: str) -> Any:
    """Return the value of a key given as a string: itself for keys that hold text, else parsed by ``parse_value``."""
    if key_of(key) is None:
        load_all()
    known = key_of(key)
    return text if known is not None and known.kind.text else parse_value(text)


def converted(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys given in Python or on a command line with their values as in YAML."""
    values = {key: plain_value(value) for key, value in keys.items()}
    return {key: value_of(key, value) if isinstance(value, str) else value for key, value in values.items()}


def plain_value(value: Any) -> Any:
    """Return a Python value as in YAML: paths as text, arrays and tuples as lists, NumPy numbers as plain ones."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return {plain_value(name): plain_value(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # arrays, tensors and their numbers
        return value.tolist()
    if isinstance(value, list | tuple | range | Set):
        return [plain_value(entry) for entry in (sorted(value) if isinstance(value, Set) else value)]
    return value
