"""Property files and the options they list, for ``--help`` and the reference."""

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_dealrec.compat import recbole_folder
from recbole_dealrec.config.registry import load_all, registered_keys
from recbole_dealrec.config.rows import ALWAYS, KEYS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError

_OPTION = re.compile(r"^(?P<key>\w+):.*#\s*\((?P<type>[^)]+)\)\s*(?P<comment>.*?)\s*$")
_ORDER = ("overall", "model", "llm", "sampler", "dataset")
_MOST_SHOWN = 48  # characters of a default in the help text


def recbole_properties() -> Path:
    """Return the folder of RecBole's default properties."""
    return recbole_folder() / "properties"


def recbole_default(key: str) -> Any:
    """Return RecBole's default of a key in its ``overall.yaml``."""
    return read_yaml(recbole_properties() / "overall.yaml")[key]


def properties_folder() -> Path:
    """Return the folder of the default properties, inside an installed package or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def package_defaults(model: str, dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return this package's defaults of a run; weaker files are read first, and may choose the stronger ones.

    Args:
        model: name of the model.
        dataset: name of the dataset.
        given: keys that override all files.
    """
    folder, defaults = properties_folder(), {}

    def read(name: str) -> None:
        file = folder / f"{name}.yaml"
        defaults.update(read_yaml(file) if file.is_file() else {})

    read("overall")
    read(f"model/{model}")
    if given.get("llm_path", defaults.get("llm_path")) == "tiny":
        read("llm/tiny")
    read(f"dataset/{dataset}")
    defaults.update(own_keys(dataset, given))
    read(f"sampler/{given.get('sampler', defaults.get('sampler'))}")
    return defaults


def own_keys_file(dataset: str, given: Mapping[str, Any]) -> Path:
    """Return the file with a dataset's own keys, which is next to its data."""
    return Path(str(given.get("data_path", recbole_default("data_path")))).expanduser() / dataset / f"{dataset}.yaml"


def own_keys(dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of ``own_keys_file``, none if there is no such file."""
    file = own_keys_file(dataset, given)
    return read_yaml(file) if file.is_file() else {}


@cache
def property_files() -> list[Path]:
    """Return the files with keys and their defaults, without the presets and the files for Accelerate."""
    folder = properties_folder()
    return sorted({*folder.glob("**/*.yaml")} - {*folder.glob("accelerate/*.yaml"), *folder.glob("preset/*.yaml")})


def preset_file(name: str) -> Path:
    """Return the configuration file of a preset.

    Raises:
        InputError: there is no such preset.
    """
    files = {file.stem: file for file in sorted(properties_folder().glob("preset/*.yaml"))}
    if name not in files:
        raise InputError(f"no preset '{name}'; choose one of {', '.join(files)}")
    return files[name]


@dataclass(frozen=True)
class Option:
    """A configuration key with type, default and comment of its property file."""

    key: str
    type: str
    default: Any
    comment: str

    def shown_default(self) -> str:
        """Return the default on one line, in the form of the command line; a long text is cut."""
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
    """Read a property file: a line ``key: value  # (type) Sentence.`` for each key, a comment above a group.

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
    """Return this package's property files: overall, models, the tiny language model, samplers, datasets."""
    folder = properties_folder()
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in property_files()]
    names.sort(key=lambda name: (_ORDER.index(name.partition("/")[0]), name))
    return [read_section(folder / f"{name}.yaml", name) for name in names]


def registered_sections() -> list[Section]:
    """Return the keys of registered models, scorers and samplers, by class."""
    load_all()
    options: dict[str, list[Option]] = {}
    for owner, key in registered_keys():
        options.setdefault(owner, []).append(Option(key.name, key.kind.type, key.default, key.comment))
    title = "keys of its own"
    return [Section(owner, title, (Group(title, tuple(keys)),)) for owner, keys in options.items()]


def recbole_section() -> Section:
    """Return RecBole's keys that have an effect, without those of ``overall.yaml`` or of each model of this package."""
    ours = sections()
    models = [_keys(section) for section in ours if section.name.startswith("model/")]
    hidden = _keys(ours[0]) | set.intersection(*models) | {key.name for key in KEYS.values() if key.idle is ALWAYS}
    section = read_section(recbole_properties() / "overall.yaml", "RecBole")
    groups = [Group(g.title, tuple(option for option in g.options if option.key not in hidden)) for g in section.groups]
    return Section("RecBole", "RecBole's own keys", tuple(group for group in groups if group.options))


def _keys(section: Section) -> set[str]:
    return {option.key for group in section.groups for option in group.options}
