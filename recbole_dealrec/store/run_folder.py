"""The run folder: outputs with checksums, written atomically."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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

    An output without a matching checksum when the folder is opened is not used.

    Args:
        path: the folder; created if absent.
        written: whether this process writes outputs; if not, what it writes is discarded.

    Attributes:
        checksums: checksums of each output by name; two while the output is replaced.
    """

    def __init__(self, path: Path, written: bool = True) -> None:
        self.path = path
        self.written = written
        self.checksums: dict[str, list[str]] = {}
        if written:
            path.mkdir(parents=True, exist_ok=True)
            self.checksums = self._read_checksums()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, *names: str) -> bool:
        """Return whether all these outputs exist unaltered."""
        return all(name in self.checksums for name in names)

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Yield a temporary path that becomes the output ``name``, file or folder, if the block ends without error."""
        if not self.written:
            with tempfile.TemporaryDirectory() as discarded:
                yield Path(discarded) / name
            return
        with atomic_path(self / name) as path:
            yield path
            written = checksum(path)
            # An interruption leaves the older or the new output, and the checksums of both are recorded.
            self._record(name, [*self.checksums.get(name, []), written])
        self._record(name, [written])

    @contextmanager
    def amended(self, name: str) -> Iterator[Path]:
        """Yield a copy of the output ``name``, a folder, that replaces it if the block ends without error."""
        with self.output(name) as path:
            shutil.copytree(self / name, path)
            yield path

    def output_json(self, name: str, content: Any) -> None:
        """Write ``content`` as an output of indented JSON."""
        with self.output(name) as path:
            write_json(path, content)

    def output_json_lines(self, name: str, rows: Iterable[Any]) -> None:
        """Write an output of one line of JSON for each row, with characters unescaped."""
        with self.output(name) as path, open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def read_json(self, name: str, default: Any = None) -> Any:
        """Return the content of a JSON output, or ``default`` if there is none."""
        return read_json(self / name) if self.has(name) else default

    def discard(self, name: str) -> None:
        """Remove an output file if it exists."""
        if self.checksums.pop(name, None) and self.written:
            (self / name).unlink()  # first, so that an interruption leaves no file that is not recorded
            write_json(self / _CHECKSUMS, self.checksums)

    def discard_unfinished(self, prefix: str = "") -> None:
        """Remove the outputs whose names begin with ``prefix`` and end in ``UNFINISHED``."""
        for name in [name for name in self.checksums if name.startswith(prefix) and name.endswith(UNFINISHED)]:
            self.discard(name)

    def _record(self, name: str, checksums: list[str]) -> None:
        self.checksums[name] = checksums
        write_json(self / _CHECKSUMS, self.checksums)

    def _read_checksums(self) -> dict[str, list[str]]:
        """Return the checksums of the unaltered outputs, after removing what interrupted writes left."""
        remove_scratch(self.path)
        try:
            recorded = read_json(self / _CHECKSUMS)
        except FileNotFoundError:
            return {}
        except ValueError:
            getLogger().warning(f"{self / _CHECKSUMS}: no longer JSON; every step of this folder is computed again")
            return {}
        intact = {}
        for name, expected in recorded.items():
            found = _checksum_if_there(self / name)
            if found in expected:
                intact[name] = [found]
            else:
                getLogger().warning(f"{self / name}: missing, or altered since it was written; it is computed again")
        return intact


def intact_outputs(path: Path) -> set[str]:
    """Return the names of the unaltered outputs of a run folder, without opening it."""
    try:
        recorded = read_json(path / _CHECKSUMS)
    except (FileNotFoundError, ValueError):
        return set()
    return {name for name, expected in recorded.items() if _checksum_if_there(path / name) in expected}


def check_outputs(path: Path, names: Sequence[str]) -> None:
    """Raise InputError if there is no run folder at ``path`` or one of the outputs is missing or altered."""
    try:
        recorded = read_json(path / _CHECKSUMS)
    except OSError as error:
        raise InputError(f"{path}: not a run folder; the log of a run names its folder") from error
    except ValueError as error:
        raise InputError(f"{path / _CHECKSUMS}: no longer JSON; run the same command again") from error
    for name in names:
        if name not in recorded:
            raise InputError(f"{path}: the run is not finished, there is no {name} yet; run the same command again")
        if _checksum_if_there(path / name) not in recorded[name]:
            raise InputError(f"{path / name}: missing, or altered since it was written; run the same command again")


def _checksum_if_there(path: Path) -> str | None:
    return checksum(path) if path.exists() else None
