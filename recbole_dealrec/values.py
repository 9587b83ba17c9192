"""Reading configuration values: YAML files, strings and command lines. Nothing is evaluated."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_dealrec.errors import InputError
from recbole_dealrec.keys import TEXT_KEYS


class YamlLoader(yaml.SafeLoader):
    """Safe YAML as RecBole reads it: 1e-3 is a float, a date stays text."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def parse_value(text: str) -> Any:
    """Value of a command line or dictionary string: a YAML scalar or collection, else a Python literal, else the text.

    Nothing is evaluated. Quotes keep a text a text.
    """
    try:
        value = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError:
        value = text
    if value != text:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def parse_command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Configuration keys of a command line.

    Args:
        arguments: ``--key=value``, ``--key value`` or ``--flag`` (true) each; values as :func:`parse_value` reads them,
            but those of keys that hold text as they are.

    Raises:
        InputError: a word that belongs to no key, or a key given twice with different values.
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
    """Value of a key given as a string."""
    return text if key in TEXT_KEYS else parse_value(text)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Mapping in a YAML file (empty file: empty mapping).

    Raises:
        InputError: the file is absent, is not YAML, or holds no mapping.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=YamlLoader)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{file}: expected 'key: value' lines, found {type(content).__name__}")
    return content or {}
