"""Unpacking of zip archives that are checked first."""

import errno
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from recbole_dealrec.errors import InputError

_MOST_EXPANSION = 200  # times the archive's size; text shrinks about tenfold, a zip bomb far more
# Errors of zipfile for archives that are truncated, altered, encrypted or of unknown compression.
_DAMAGE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, RuntimeError)


def unpack(archive: Path, files: Mapping[str, Path]) -> None:
    """Unpack one file of each suffix from any folder of the archive.

    Args:
        archive: zip archive.
        files: path to write, by suffix such as ``.inter``.

    Raises:
        InputError: a path leaves the archive's folder, a member is a link, the unpacked size exceeds the disk or that
            of text, the archive is damaged, or a suffix does not have exactly one file. Nothing is written then, unless
            a wanted file itself is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_members(archive, members)
            wanted = {suffix: _find_member(archive, members, suffix) for suffix in files}
            for suffix, member in wanted.items():
                with opened.open(member) as stream, open(files[suffix], "wb") as file:
                    shutil.copyfileobj(stream, file, 2**20)  # zipfile reads no more than the checked size
    except InputError:
        raise
    except (*_DAMAGE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset before the file's beginning
            raise
        raise InputError(f"{archive}: a damaged or unreadable archive ({error}); remove it") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name = PurePosixPath(member.orig_filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or re.match("[A-Za-z]:|.*\0", str(name), re.DOTALL):
            raise InputError(f"{archive}: holds '{member.orig_filename}', a path outside its folder; not unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive}: holds '{member.filename}', a link; not unpacked")
    size = sum(member.file_size for member in members)
    limit = _MOST_EXPANSION * archive.stat().st_size
    free = shutil.disk_usage(archive.parent).free
    if size > limit:
        raise InputError(f"{archive}: unpacks to {size} bytes, over {_MOST_EXPANSION} times its own size; not unpacked")
    if size > free:
        raise InputError(f"{archive}: unpacks to {size} bytes, but only {free} are free on the disk; free some")


def _find_member(archive: Path, members: list[zipfile.ZipInfo], suffix: str) -> zipfile.ZipInfo:
    names = [PurePosixPath(member.filename).name for member in members]
    found = [
        member
        for member, name in zip(members, names, strict=True)
        if name.endswith(suffix) and not name.startswith(".")  # files that macOS adds
    ]
    if len(found) != 1:
        content = "titles" if suffix == ".item" else "interactions"
        raise InputError(f"{archive.name}: has {len(found)} files *{suffix}, but needs exactly one for the {content}")
    return found[0]
