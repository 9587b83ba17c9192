"""The run folder: outputs that are there whole and unaltered, or not at all."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import atomic_path, checksum, read_json, remove_scratch, write_json

UNFINISHED = ".unfinished"
_CHECKSUMS = "checksums.json"


class RunFolder:
    """Outputs of a run, each with its checksum in ``checksums.json``.

    An output whose checksum does not match when the folder is opened, or that has none, is not used.

    Args:
        path: the folder; made if absent.
        written: whether outputs are kept; what is written to a folder that is not written to is thrown away.

    Attributes:
        checksums: checksums of each output by its name; two while it is replaced.
    """

    def __init__(self, path: Path, written: bool = True) -> None:
        self.path = path
        self.written = written
        self.checksums: dict[str, list[str]] = {}
        if written:
            path.mkdir(parents=True, exist_ok=True)
            self.checksums = self._read_whole_outputs()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, *names: str) -> bool:
        """Return whether there are outputs of all these names, whole and unaltered."""
        return all(name in self.checksums for name in names)

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Give a temporary path that becomes the output ``name``, file or folder, if the block ends without error."""
        if not self.written:
            with tempfile.TemporaryDirectory() as thrown_away:
                yield Path(thrown_away) / name
            return
        with atomic_path(self / name) as path:
            yield path
            written = checksum(path)
            # Whenever it is interrupted, the older one or the new one is there, and its checksum is known.
            self._record(name, [*self.checksums.get(name, []), written])
        self._record(name, [written])

    def output_json(self, name: str, content: Any) -> None:
        """Write an output of indented JSON."""
        with self.output(name) as path:
            write_json(path, content)

    def read_json(self, name: str, default: Any = None) -> Any:
        """Return the content of an output of JSON, or ``default`` if there is none."""
        return read_json(self / name) if self.has(name) else default

    def discard(self, name: str) -> None:
        """Remove an output, a file, if there is one."""
        if self.checksums.pop(name, None) and self.written:
            write_json(self / _CHECKSUMS, self.checksums)
            (self / name).unlink()

    def discard_unfinished(self, beginning: str = "") -> None:
        """Remove the outputs that only an interrupted run needs: those that end in ``UNFINISHED``.

        Args:
            beginning: of the names of what is removed.
        """
        for name in [name for name in self.checksums if name.startswith(beginning) and name.endswith(UNFINISHED)]:
            self.discard(name)

    def _record(self, name: str, checksums: list[str]) -> None:
        self.checksums[name] = checksums
        write_json(self / _CHECKSUMS, self.checksums)

    def _read_whole_outputs(self) -> dict[str, list[str]]:
        """Return the checksums of the outputs that match one of theirs; remove what an interrupted write left."""
        remove_scratch(self.path)
        try:
            recorded = read_json(self / _CHECKSUMS)
        except FileNotFoundError:
            return {}
        except ValueError:
            getLogger().warning(f"{self / _CHECKSUMS}: not JSON any more; every step of this folder is computed again")
            return {}
        whole = {}
        for name, expected in recorded.items():
            found = _checksum_if_there(self / name)
            if found in expected:
                whole[name] = [found]
            else:
                getLogger().warning(f"{self / name}: missing, or altered since it was written; it is computed again")
        return whole


def whole_outputs(path: Path) -> set[str]:
    """Return the names of the outputs of a run folder that are as they were written; only reads."""
    try:
        recorded = read_json(path / _CHECKSUMS)
    except (FileNotFoundError, ValueError):
        return set()
    return {name for name, expected in recorded.items() if _checksum_if_there(path / name) in expected}


def check_outputs(path: Path, names: Sequence[str]) -> None:
    """Raise InputError if a run folder lacks one of its outputs, or has one that was altered; only reads.

    Raises:
        InputError: there is no such folder, its run is not finished, or an output was altered.
    """
    try:
        recorded = read_json(path / _CHECKSUMS)
    except OSError as error:
        raise InputError(f"{path}: no run folder; a run's log names its own") from error
    except ValueError as error:
        raise InputError(f"{path / _CHECKSUMS}: not JSON any more; run the same command again") from error
    for name in names:
        if name not in recorded:
            raise InputError(f"{path}: the run is not finished, there is no {name} yet; run the same command again")
        if _checksum_if_there(path / name) not in recorded[name]:
            raise InputError(f"{path / name}: missing, or altered since it was written; run the same command again")


def _checksum_if_there(path: Path) -> str | None:
    return checksum(path) if path.exists() else None
