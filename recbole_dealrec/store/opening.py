"""Run folders that all processes of a run see: the main one writes to them, and no other run does meanwhile."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from logging import getLogger
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import RunFolder

_PROCESS = "process-"  # begins the names of the folders of processes that are not the main one


@contextmanager
def opened(path: Path) -> Iterator[RunFolder]:
    """Open a run folder that no other run works in; wait for one that does.

    Raises:
        InputError: it cannot be made, or a process of this run does not see it.
    """
    with _locked(path) if processes.is_main() else nullcontext():
        folder = RunFolder(path, written=processes.is_main())
        agree(folder)
        yield folder


def agree(folder: RunFolder) -> None:
    """Wait for all processes of the run, and tell them what the main one has written.

    Raises:
        InputError: this process does not see the folder.
    """
    folder.checksums = processes.broadcast(folder.checksums)
    if not folder.path.is_dir():
        raise InputError(
            f"checkpoint_dir: process {processes.rank()} does not see {folder.path}; with several machines it has "
            "to be on a file system that all of them share"
        )


def process_folder(folder: RunFolder) -> RunFolder:
    """Return where this process keeps what no other asks for: the folder itself in the main process."""
    return folder if folder.written else RunFolder(folder / f"{_PROCESS}{processes.rank()}")


def discard_unfinished(folder: RunFolder, beginning: str = "") -> None:
    """Remove what only an interrupted run needs, that of the other processes included; these wait until it is gone.

    Args:
        folder: run folder.
        beginning: of the names of what is removed.
    """
    folder.discard_unfinished(beginning)
    if folder.written:
        for path in folder.path.glob(f"{_PROCESS}*"):
            own = RunFolder(path)
            own.discard_unfinished(beginning)
            if not own.checksums:
                shutil.rmtree(path)
    agree(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"checkpoint_dir '{path.parent}': cannot hold a folder ({error.strerror})") from error
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        getLogger().info(f"another process works in {path}; waiting until it ends")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
