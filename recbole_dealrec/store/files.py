"""Files and folders that are written whole or not at all, and their checksums."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_dealrec.errors import InputError

_SCRATCH = ".scratch"  # ends the names of temporary folders
_BLOCK = 1 << 20  # bytes that are read at a time for a checksum


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it when the block ends without an error.

    Works for a file as for a folder. What was written is on the disk before it takes the older one's place.

    Raises:
        InputError: the disk is full.
    """
    # Told inside too, where what was written still fills the disk.
    with _full_disk_told(path), _scratch_folder(path) as scratch, _full_disk_told(path):
        written = scratch / path.name
        yield written
        for file in _files(written):
            _flush(file)
        if path.is_dir() and written.exists():
            os.replace(path, scratch / f"{path.name}.older")
        os.replace(written, path)
        _flush(path.parent)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content, or of the names and contents of all files in a folder."""
    hashed = hashlib.sha256()
    for file in _files(path):
        hashed.update(f"{file.relative_to(path).as_posix()}\n{file.stat().st_size}\n".encode())
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                hashed.update(block)
    return hashed.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove_scratch(folder: Path) -> None:
    """Remove what interrupted writes left in a folder that nobody writes to."""
    for scratch in folder.glob(f".*{_SCRATCH}"):
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SCRATCH, dir=path.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The libraries that write files have errors of their own for it; some repeat the system's words.
        if isinstance(error, InputError) or not (os.strerror(errno.ENOSPC) in str(error) or _is_full(path.parent)):
            raise
        raise InputError(f"{path}: no space left on the disk; free some, and the same command goes on") from error


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free == 0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[Path]:
    """Return a file itself, or all files of a folder, in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
