"""Run folders shared by the processes of one run: rank 0 writes to them under a lock."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import CONSOLE
from recbole_dealrec.store.run_folder import RunFolder

_PROCESS = "process-"  # prefix of the folders of ranks above 0


@contextmanager
def opened(path: Path) -> Iterator[RunFolder]:
    """Open a run folder, after waiting for any other run that holds its lock.

    Raises:
        InputError: the folder cannot be created, or a process of this run does not see it.
    """
    with _locked(path) if processes.is_main() else nullcontext():
        folder = RunFolder(path, written=processes.is_main())
        synchronize(folder)
        yield folder


def synchronize(folder: RunFolder) -> None:
    """Wait for all processes of the run, and copy the checksums of rank 0 to every process.

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
    """Return this process's private folder: ``folder`` itself on rank 0, a subfolder on the others."""
    return folder if folder.written else RunFolder(folder / f"{_PROCESS}{processes.rank()}")


def discard_unfinished(folder: RunFolder, prefix: str = "") -> None:
    """Remove the unfinished outputs of all processes whose names begin with ``prefix``, and wait until it is done."""
    folder.discard_unfinished(prefix)
    if folder.written:
        for path in folder.path.glob(f"{_PROCESS}*"):
            private = RunFolder(path)
            private.discard_unfinished(prefix)
            if not private.checksums:
                shutil.rmtree(path)
    synchronize(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"checkpoint_dir '{path.parent}': no folder can be made in it ({error.strerror})") from error
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        CONSOLE.info(f"another process is working in {path}; waiting until it ends")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
