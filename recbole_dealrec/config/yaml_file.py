"""Safe YAML for configurations."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from recbole_dealrec.errors import InputError


class YamlLoader(yaml.SafeLoader):
    """Load safe YAML as RecBole does: 1e-3 is a float and a date is text; a duplicate key is an error."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # SafeLoader raises these for a scalar that does not fit its tag.
            raise ConstructorError(problem=f"'{node.value}' is not {node.tag}", problem_mark=node.start_mark) from error

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


def _check_keys_differ(node: yaml.MappingNode) -> None:
    keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    for (_, name), count in keys.items():
        if count > 1:
            raise ConstructorError(problem=f"key '{name}' is given twice", problem_mark=node.start_mark)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or has a tag, type or duplicate key that is not accepted.
    """
    try:
        return yaml.load(text, Loader=YamlLoader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def read_yaml_files(files: Iterable[str | Path] | str | Path | None) -> dict[str, Any]:
    """Return the mapping of several YAML files, or of a single one; keys of later files win.

    Raises:
        InputError: as for ``read_yaml``.
    """
    merged: dict[str, Any] = {}
    for file in [files] if isinstance(files, str | Path) else files or ():
        merged.update(read_yaml(file))
    return merged


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, an empty one for an empty file.

    Raises:
        InputError: the file is absent, is not YAML, or holds no mapping.
    """
    try:
        content = load_yaml(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{file}: expected 'key: value' lines, found {type(content).__name__}")
    return content or {}
