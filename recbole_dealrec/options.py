"""What the property files say of each configuration key, for ``--help`` and the reference."""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recbole
import yaml

from recbole_dealrec.config import properties_folder, property_files
from recbole_dealrec.values import read_yaml

_OPTION = re.compile(r"^(?P<key>\w+):.*#\s*\((?P<type>[^)]+)\)\s*(?P<comment>.*?)\s*$")
_ORDER = ("overall", "model", "llm", "sampler", "dataset")
_MOST_SHOWN = 48  # characters of a default in the help
_KEY_COLUMNS = 34


@dataclass(frozen=True)
class Option:
    """A configuration key: type and comment as its property file has them, default as YAML gives it."""

    key: str
    type: str
    default: Any
    comment: str

    def shown_default(self) -> str:
        """The default on one line, as the command line takes it; a long text is cut."""
        if self.default is None:
            return "~"
        if isinstance(self.default, str) and "\n" in self.default:
            return textwrap.shorten(json.dumps(self.default), _MOST_SHOWN, placeholder="...")
        flow = yaml.safe_dump(self.default, default_flow_style=True, width=float("inf"), allow_unicode=True)
        shown = " ".join(flow.removesuffix("\n...\n").split())
        return shown if len(shown) <= _MOST_SHOWN else f"{shown[: _MOST_SHOWN - 3]}..."


@dataclass(frozen=True)
class Group:
    """Options under one comment line of a property file."""

    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Section:
    """A property file: its path without suffix, such as ``model/TIGER``, its first line, and its groups."""

    name: str
    title: str
    groups: tuple[Group, ...]


def read_section(file: Path, name: str) -> Section:
    """Groups of options of a property file: a line ``key: value  # (type) Sentence.`` each, a comment above a group.

    Raises:
        InputError: the file cannot be read or is not YAML.
    """
    defaults, groups, title = read_yaml(file), [], ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            text = line.lstrip("# ").strip()
            title = title or text
            groups.append((text, []))
        elif found := _OPTION.match(line):
            if not groups:
                groups.append((title, []))
            key = found["key"]
            groups[-1][1].append(Option(key, found["type"], defaults[key], found["comment"]))
    return Section(name, title, tuple(Group(text, tuple(options)) for text, options in groups if options))


def sections() -> list[Section]:
    """This package's property files: overall, models, the embedded language model, samplers, datasets."""
    folder = properties_folder()
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in property_files()]
    names.sort(key=lambda name: (_ORDER.index(name.partition("/")[0]), name))
    return [read_section(folder / f"{name}.yaml", name) for name in names]


def recbole_section() -> Section:
    """RecBole's own keys, but for those that ``overall.yaml`` of this package or each of its models sets."""
    ours = sections()
    models = [_keys(section) for section in ours if section.name.startswith("model/")]
    hidden = _keys(ours[0]) | set.intersection(*models)
    file = Path(recbole.__file__).parent / "properties" / "overall.yaml"
    section = read_section(file, "RecBole")
    groups = [Group(g.title, tuple(option for option in g.options if option.key not in hidden)) for g in section.groups]
    return Section("RecBole", "RecBole's own keys", tuple(group for group in groups if group.options))


def help_text(width: int) -> str:
    """All configuration keys by group, wrapped to ``width`` columns."""
    order = "configuration keys, as --key=value; the later wins: overall, model, llm, dataset, sampler"
    lines = textwrap.wrap(order, width)
    for section in filter(lambda section: section.groups, sections()):
        lines += ["", *textwrap.wrap(f"{section.name}: {section.title}", width)]
        for group in section.groups:
            if group.title != section.title:
                lines += ["", *textwrap.wrap(f"  {group.title}", width, subsequent_indent="  ")]
            for option in group.options:
                lines += _option_lines(option, width)
    lines += ["", "RecBole's own keys with their defaults; https://recbole.io/docs explains them"]
    for group in recbole_section().groups:
        pairs = ", ".join(f"{option.key} {option.shown_default()}" for option in group.options)
        lines += ["", f"  {group.title}", *textwrap.wrap(pairs, width, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)


def _keys(section: Section) -> set[str]:
    return {option.key for group in section.groups for option in group.options}


def _option_lines(option: Option, width: int) -> Iterator[str]:
    indent = " " * _KEY_COLUMNS
    head, text = f"    --{option.key}", f"({option.type}) {option.comment} [default: {option.shown_default()}]"
    first = f"{head:<{_KEY_COLUMNS}}" if len(head) < _KEY_COLUMNS - 1 else indent
    if first == indent:
        yield head
    yield from textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)
