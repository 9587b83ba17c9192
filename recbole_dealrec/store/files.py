"""Atomic writes of files and folders, and their checksums."""

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

_SCRATCH = ".scratch"  # suffix of temporary folders
_BLOCK = 1 << 20  # bytes that are read at a time for a checksum


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path``, a file or a folder, when the block ends without an error.

    The content is flushed to the disk before the replacement.

    Raises:
        InputError: the disk is full.
    """
    # The inner check runs before the scratch folder is removed, while the disk is still full.
    with report_full_disk(path), _scratch_folder(path) as scratch, report_full_disk(path):
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
    """Remove the leftovers of interrupted writes from a folder that no process writes to."""
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
def report_full_disk(path: Path) -> Iterator[None]:
    """Turn an error of a full disk, while ``path`` is written, into an InputError."""
    try:
        yield
    except Exception as error:
        # Libraries raise errors of many types for a full disk; some repeat the system's message.
        if isinstance(error, InputError) or not (os.strerror(errno.ENOSPC) in str(error) or _is_full(path.parent)):
            raise
        raise InputError(f"{path}: no space left on the disk; free some, then run the same command again") from error


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free == 0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or all files of a folder, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
