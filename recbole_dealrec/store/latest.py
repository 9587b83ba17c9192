"""``latest`` in ``checkpoint_dir``: the run or comparison that ended last."""

import os
import tempfile
from logging import getLogger
from pathlib import Path

from recbole_dealrec.store.files import report_full_disk

LATEST = "latest"


def point_latest(folder: Path) -> None:
    """Point ``latest`` next to a folder to it: a relative link, or a file with its name if links are not supported.

    A folder of that name, which a copy that follows links creates, is not changed; a warning is logged.
    """
    latest = folder.parent / LATEST
    if latest.is_dir() and not latest.is_symlink():
        getLogger().warning(f"{latest}: is a folder, not a link, and is not changed; remove it")
        return
    with report_full_disk(latest), tempfile.TemporaryDirectory(prefix=f".{LATEST}.", dir=folder.parent) as scratch:
        pointer = Path(scratch) / LATEST
        try:
            pointer.symlink_to(folder.name, target_is_directory=True)
        except OSError:
            pointer.write_text(folder.name, encoding="utf-8")
        os.replace(pointer, latest)


def named_folder(path: Path) -> Path:
    """Return a path, or the folder that it names if it is a ``latest`` file."""
    is_name = path.name == LATEST and path.is_file()
    return path.parent / path.read_text(encoding="utf-8") if is_name else path
