"""The datasets, models and samplers to choose from."""

import textwrap
from pathlib import Path

from recbole_dealrec.config.declared import declared, first_line
from recbole_dealrec.config.properties import sections
from recbole_dealrec.config.registry import MODELS, SAMPLERS, Registry
from recbole_dealrec.data.download.known_dataset import IN_RECBOLE, archive_url
from recbole_dealrec.errors import InputError

_COLUMNS = 18


def list_text(data_path: str, width: int) -> str:
    """Return datasets, models and samplers with a line for each.

    Args:
        data_path: folder whose datasets are listed.
        width: columns of the terminal.
    """
    parts = {
        f"datasets (data_path: {data_path})": _datasets(Path(data_path)),
        "models": _registered(MODELS),
        "samplers": _registered(SAMPLERS),
    }
    return "\n\n".join(_part(title, rows, width) for title, rows in parts.items())


def _datasets(data_path: Path) -> dict[str, str]:
    """Return title and place of each dataset that has a property file or is in ``data_path``."""
    titles = {
        section.name.partition("/")[2]: section.title for section in sections() if section.name.startswith("dataset/")
    }
    files = (file for pattern in ("*/*.inter", "*/*.inter.parquet") for file in data_path.glob(pattern))
    there = {file.parent.name for file in files if file.name.startswith(f"{file.parent.name}.")}
    rows = {}
    for name in sorted(titles.keys() | there):
        if name == IN_RECBOLE:
            place = "comes with RecBole"
        elif name in there:
            place = "present"
        else:
            place = "absent; downloaded on first use" if archive_url(name) else "absent; put its files into data_path"
        rows[name] = f"{titles.get(name, 'no property file')} ({place})"
    return rows


def _registered(registry: Registry) -> dict[str, str]:
    """Return the first line and the declared keys of each class, or the error if it cannot be loaded."""
    rows = dict(declared(registry.module))
    for name in registry.names():
        if name in rows:
            continue
        try:
            rows[name] = first_line(registry.get(name).__doc__)
            keys = [f"--{key.name}" for key in registry.entries[name].keys]
            rows[name] += f" ({', '.join(keys)})" if keys else ""
        except (InputError, TypeError) as error:
            rows[name] = str(error)
    return dict(sorted(rows.items()))


def _part(title: str, rows: dict[str, str], width: int) -> str:
    lines = [title]
    for name, text in rows.items():
        start = f"  {name:<{_COLUMNS - 3}} "
        lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * _COLUMNS)
    return "\n".join(lines)
