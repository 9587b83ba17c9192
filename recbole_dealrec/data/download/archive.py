"""Zip archives from elsewhere, looked at before anything is unpacked."""

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

_MOST_EXPANSION = 200  # times the archive; text shrinks about tenfold, what shrinks more is made to fill a disk
# What zipfile raises for archives that are cut short, altered, encrypted or of another compression.
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, RuntimeError)


def unpack(archive: Path, files: Mapping[str, Path]) -> None:
    """Unpack one file of each wanted suffix, whatever its folder in the archive.

    Args:
        archive: zip archive.
        files: where to write the file with a suffix such as ``.inter``, by suffix.

    Raises:
        InputError: a name leaves the archive's folder, a member is a link, the archive says that it is larger than the
            disk or a text would be, it is damaged, or it has no file, or several, of a suffix. Nothing is written then,
            unless the damage is inside a wanted file.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_members(archive, members)
            wanted = {suffix: _member(archive, members, suffix) for suffix in files}
            for suffix, member in wanted.items():
                with opened.open(member) as stream, open(files[suffix], "wb") as file:
                    shutil.copyfileobj(stream, file, 2**20)  # never more than the size that was checked
    except InputError:
        raise
    except (*_DAMAGES, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place before the file's beginning
            raise
        raise InputError(f"{archive}: a damaged archive, or none that can be read ({error}); remove it") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name = PurePosixPath(member.orig_filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or re.match("[A-Za-z]:|.*\0", str(name), re.DOTALL):
            raise InputError(f"{archive}: holds '{member.orig_filename}', a path outside its folder; not unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive}: holds '{member.filename}', a link; not unpacked")
    size = sum(member.file_size for member in members)
    most = _MOST_EXPANSION * archive.stat().st_size
    free = shutil.disk_usage(archive.parent).free
    if size > most:
        raise InputError(f"{archive}: unpacks to {size} bytes, more than {_MOST_EXPANSION} times its own; not unpacked")
    if size > free:
        raise InputError(f"{archive}: unpacks to {size} bytes, and {free} are free on the disk; free some")


def _member(archive: Path, members: list[zipfile.ZipInfo], suffix: str) -> zipfile.ZipInfo:
    names = [PurePosixPath(member.filename).name for member in members]
    found = [
        member
        for member, name in zip(members, names, strict=True)
        if name.endswith(suffix) and not name.startswith(".")  # what macOS adds
    ]
    if len(found) != 1:
        what = "titles" if suffix == ".item" else "interactions"
        raise InputError(f"{archive.name}: has {len(found)} files *{suffix}, where one is needed for the {what}")
    return found[0]
