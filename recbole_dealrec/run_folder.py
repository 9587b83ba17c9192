"""The run folder: where each stage leaves its output, whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock, Timeout

from recbole_dealrec import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.peak_memory import PeakMemory

UNFINISHED = ".unfinished"
_BLOCK = 1 << 20  # bytes that are read at a time for a checksum
_SCRATCH = ".scratch"  # ends the names of temporary folders
_PROCESS = "process-"  # begins the names of the folders of processes that are not the main one
_STAGES, _CHECKSUMS = "stages.json", "checksums.json"
_SPENT = f"seconds.json{UNFINISHED}"


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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Works for a file as for a folder; an older one is replaced. What was written is on the disk before it does.

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
    """A file itself, or all files of a folder, in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder."""
    hashed = hashlib.sha256()
    for file in _files(path):
        hashed.update(f"{file.relative_to(path).as_posix()}\n{file.stat().st_size}\n".encode())
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                hashed.update(block)
    return hashed.hexdigest()


def _checksum_if_there(path: Path) -> str | None:
    return checksum(path) if path.exists() else None


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def whole_outputs(path: Path) -> set[str]:
    """Names of the outputs of a run folder that are as they were written; only reads."""
    try:
        recorded = read_json(path / _CHECKSUMS)
    except (FileNotFoundError, ValueError):
        return set()
    return {name for name, expected in recorded.items() if _checksum_if_there(path / name) in expected}


def recorded_checksums(path: Path) -> dict[str, list[str]]:
    """Checksums of the outputs of a run folder as they were written, by name.

    Raises:
        InputError: there is no such folder.
    """
    try:
        return read_json(path / _CHECKSUMS)
    except OSError as error:
        raise InputError(f"{path}: no run folder; a run's log names its own") from error
    except ValueError as error:
        raise InputError(f"{path / _CHECKSUMS}: not JSON any more; run the same command again") from error


def check_outputs(path: Path, names: Sequence[str]) -> None:
    """Refuse a run folder that lacks one of its outputs, or has one that is not as it was written; only reads.

    Raises:
        InputError: there is no such folder, its run is not finished, or an output was altered.
    """
    recorded = recorded_checksums(path)
    for name in names:
        if name not in recorded:
            raise InputError(f"{path}: the run is not finished, there is no {name} yet; run the same command again")
        if _checksum_if_there(path / name) not in recorded[name]:
            raise InputError(f"{path / name}: missing, or altered since it was written; run the same command again")


class RunFolder:
    """Outputs of the stages of one run, how long each stage took, its peak memory, and which others it used.

    Every output has a checksum in ``checksums.json``. One whose checksum does not match when the folder is opened, or
    that has none, is not used. Of several processes the main one alone writes; what the others write is thrown away,
    and at the end of each stage they learn what there is.

    Args:
        path: the folder; made if absent.
        shared: folder of the stages that this run has in common with others, if those are not kept here.
        written: whether outputs are kept.
    """

    def __init__(self, path: Path, shared: "RunFolder | None" = None, written: bool = True) -> None:
        self.path = path
        self.written = written
        self._checksums: dict[str, list[str]] = {}
        self._stages: dict[str, dict[str, Any]] = {}
        self._spent: dict[str, float] = {}
        self._open = shared._open if shared else [_OpenStage(perf_counter())]
        self._memory = shared._memory if shared else PeakMemory()
        if written:
            path.mkdir(parents=True, exist_ok=True)
            self._checksums = self._read_whole_outputs()
            self._stages = read_json(self / _STAGES) if self.has(_STAGES) else {}
            self._spent = read_json(self / _SPENT) if self.has(_SPENT) else {}

    @classmethod
    @contextmanager
    def opened(cls, path: Path, shared: "RunFolder | None" = None) -> Iterator["RunFolder"]:
        """A run folder that no other run works in; waits for one that does.

        Raises:
            InputError: it cannot be made, or a process of this run does not see it.
        """
        with _locked(path) if processes.is_main() else nullcontext():
            folder = cls(path, shared, processes.is_main())
            folder.synchronise()
            yield folder

    def synchronise(self) -> None:
        """Wait for all processes of the run, and learn what the main one has written.

        Raises:
            InputError: this process does not see the folder.
        """
        self._checksums, self._stages = processes.broadcast((self._checksums, self._stages))
        if not self.path.is_dir():
            raise InputError(
                f"checkpoint_dir: process {processes.number()} does not see {self.path}; with several machines it has "
                "to be on a file system that all of them share"
            )

    @cached_property
    def own(self) -> "RunFolder":
        """Where this process keeps what no other asks for; the folder itself if this process writes to it."""
        return self if self.written else RunFolder(self / f"{_PROCESS}{processes.number()}")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether there is an output of this name, whole and unaltered."""
        return name in self._checksums

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes the output ``name``, file or folder, when the block ends without an error.

        With one that ends in ``UNFINISHED``, the seconds of the stage that is going on are kept for ``go_on_from``.
        """
        if not self.written:
            with tempfile.TemporaryDirectory() as thrown_away:
                yield Path(thrown_away) / name
            return
        with atomic_path(self / name) as path:
            yield path
            written = checksum(path)
            # Whenever it is interrupted, the older one or the new one is there, and its checksum is known.
            self._record(name, [*self._checksums.get(name, []), written])
        self._record(name, [written])
        if name.endswith(UNFINISHED) and name != _SPENT:
            self._spent[name] = self._open[-1].seconds()
            self.output_json(_SPENT, self._spent)

    def go_on_from(self, name: str) -> None:
        """Count for the stage that is going on what an interrupted run had spent on it up to an unfinished output."""
        stage = self._open[-1]
        stage.earlier_seconds = max(stage.earlier_seconds, self._spent.get(name, 0.0))

    def add_seconds(self, seconds: float) -> None:
        """Count for the stage that is going on what another run had spent on a part of it."""
        self._open[-1].earlier_seconds += seconds

    def _record(self, name: str, checksums: list[str]) -> None:
        self._checksums[name] = checksums
        write_json(self / _CHECKSUMS, self._checksums)

    def output_json(self, name: str, content: Any) -> None:
        """Write an output of indented JSON."""
        with self.output(name) as path:
            write_json(path, content)

    def discard(self, name: str) -> None:
        """Remove an output, a file, if there is one."""
        if self._checksums.pop(name, None) and self.written:
            write_json(self / _CHECKSUMS, self._checksums)
            (self / name).unlink()

    def discard_unfinished(self) -> None:
        """Remove what only an interrupted run needs: outputs that end in ``UNFINISHED``, processes' own."""
        for name in [name for name in self._checksums if name.endswith(UNFINISHED)]:
            self.discard(name)
        self._spent = {}
        if self.written:
            for folder in self.path.glob(f"{_PROCESS}*"):
                shutil.rmtree(folder)
        else:
            self.__dict__.pop("own", None)  # the main process removes it

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage, and of each shared stage that was used, without the stages inside it."""
        own = {name: stage["seconds"] for name, stage in self._stages.items()}
        used = {name: seconds for stage in self._stages.values() for name, seconds in stage["used"].items()}
        return {**used, **own}

    @property
    def memory(self) -> dict[str, dict[str, float]]:
        """Peak memory in MiB of the main process, as ``PeakMemory`` names it, in the stages of :attr:`seconds`."""
        return {name: peak for stage in self._stages.values() for name, peak in stage.get("memory", {}).items()}

    def cost(self, name: str, without: str | None = None) -> float:
        """Seconds of a finished stage and of all stages it used but one, whenever and for whichever run those ran.

        NaN if they were not kept.
        """
        if name not in self._stages:
            return float("nan")
        stage = self._stages[name]
        return stage["seconds"] + sum(seconds for used, seconds in stage["used"].items() if used != without)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log and measure a stage, which all processes take part in.

        Time and memory do not count the stages inside, and are kept once the stage ends without an error.
        """
        getLogger().info(f"stage {name}")
        self._open[-1].note(self._memory.take())
        self._open.append(_OpenStage(perf_counter()))
        try:
            with self._memory.watched():
                yield
        finally:
            ended = self._open.pop()
            own = ended.seconds()
            ended.note(self._memory.take())
            self._open[-1].inner_seconds += perf_counter() - ended.start
        memory = {**ended.used_memory, name: ended.memory}
        self._stages[name] = {"seconds": round(own, 3), "used": ended.used, "memory": memory}
        self.output_json(_STAGES, self._stages)
        self.synchronise()
        self.reuse(name)
        getLogger().info(f"stage {name} took {own:.1f} s")

    def reuse(self, name: str) -> None:
        """Note that the stage that is going on uses a finished one."""
        if stage := self._stages.get(name):
            self._open[-1].used.update({**stage["used"], name: stage["seconds"]})
            self._open[-1].used_memory.update(stage.get("memory", {}))

    def _read_whole_outputs(self) -> dict[str, list[str]]:
        """Checksums of the outputs that match one of theirs; what is left of an interrupted write is removed."""
        remove_scratch(self.path)
        try:
            recorded = read_json(self / _CHECKSUMS)
        except FileNotFoundError:
            return {}
        except ValueError:
            getLogger().warning(f"{self / _CHECKSUMS}: not JSON any more; every stage of this folder is computed again")
            return {}
        whole = {}
        for name, expected in recorded.items():
            found = _checksum_if_there(self / name)
            if found in expected:
                whole[name] = [found]
            else:
                getLogger().warning(f"{self / name}: missing, or altered since it was written; it is computed again")
        return whole


@dataclass
class _OpenStage:
    """A stage that is going on: its start, the seconds of an interrupted run before it and of the stages inside it, its
    peak memory, and both of each stage it used."""

    start: float
    earlier_seconds: float = 0.0
    inner_seconds: float = 0.0
    memory: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    used_memory: dict[str, dict[str, float]] = field(default_factory=dict)

    def seconds(self) -> float:
        """Its own until now."""
        return perf_counter() - self.start - self.inner_seconds + self.earlier_seconds

    def note(self, memory: dict[str, float]) -> None:
        """Peak memory in a part of the stage."""
        for name, value in memory.items():
            self.memory[name] = max(value, self.memory.get(name, 0.0))
