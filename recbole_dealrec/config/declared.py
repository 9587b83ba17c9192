"""Classes that this package registers by name, read from its source, because importing them takes seconds."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def declared(package: str) -> dict[str, str]:
    """Return the first docstring line of each class in a package that is decorated with ``@register...("name")``.

    Args:
        package: name of a package, which is not imported.

    Returns:
        Line by name.
    """
    (folder,) = find_spec(package).submodule_search_locations
    classes = {}
    for file in sorted(Path(folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "register" in text else ():
            for name in _registered(node):
                classes[name] = first_line(ast.get_docstring(node))
    return classes


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring, without its markup."""
    return (docstring or "no description").strip().splitlines()[0].replace("``", "")


def _registered(node: ast.stmt) -> Iterator[str]:
    """Yield the names under which a class is registered."""
    for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
            function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if function.startswith("register"):
                yield call.args[0].value
