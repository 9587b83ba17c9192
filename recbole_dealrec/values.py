"""Reading configuration values: YAML files, strings and command lines. Nothing is evaluated."""

import ast
import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from recbole_dealrec.errors import InputError
from recbole_dealrec.keys import TEXT_KEYS

_MOST_NODES = 100_000  # of a document whose aliases are written out; a configuration has some hundred


class YamlLoader(yaml.SafeLoader):
    """Safe YAML as RecBole reads it: 1e-3 is a float, a date stays text.

    A key that a mapping has twice and aliases that expand without end are errors.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"its aliases expand to more than {_MOST_NODES} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # How SafeLoader itself fails on a scalar that is not of the type its tag or form names.
            raise ConstructorError(problem=f"'{node.value}' is no {node.tag}", problem_mark=node.start_mark) from error

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        if isinstance(node, yaml.MappingNode):
            _check_keys_differ(node)
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def _expanded_size(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Number of nodes below and including ``node``, those behind an alias counted each time; infinite for a cycle."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = math.inf  # until it is known, as for a node inside itself
        children = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[node] = 1 + sum(_expanded_size(child, known) for child in children)
    return known[node]


def _check_keys_differ(node: yaml.MappingNode) -> None:
    keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    for (_, name), count in keys.items():
        if count > 1:
            raise ConstructorError(problem=f"key '{name}' stands there twice", problem_mark=node.start_mark)


def _load(text: str) -> Any:
    """Value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or YAML that is not taken.
    """
    try:
        return yaml.load(text, Loader=YamlLoader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error


def parse_value(text: str) -> Any:
    """Value of a command line or dictionary string: a YAML scalar or collection, else a Python literal, else the text.

    Nothing is evaluated. Quotes keep a text a text.
    """
    try:
        value = _load(text)
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
        arguments: ``--key=value``, ``--key value`` or ``--flag`` (true) each; values as ``parse_value`` reads them,
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
        content = _load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{file}: expected 'key: value' lines, found {type(content).__name__}")
    return content or {}
