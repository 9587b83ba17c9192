"""The run folder: where each stage leaves its output, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Works for a file as for a folder; an older one is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        written = scratch / path.name
        yield written
        if path.is_dir() and written.exists():
            os.replace(path, scratch / f"{path.name}.older")
        os.replace(written, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class RunFolder:
    """Outputs of the stages of one run, and how long each stage took.

    Args:
        path: the folder; made if absent.

    Attributes:
        seconds: wall time of each stage, without the stages it started in turn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._seconds_file = path / "seconds.json"
        self.seconds: dict[str, float] = read_json(self._seconds_file) if self._seconds_file.exists() else {}
        self._inner = [0.0]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log and time a stage; its time is kept once it ends without an error."""
        getLogger().info(f"stage {name}")
        self._inner.append(0.0)
        start = perf_counter()
        try:
            yield
        finally:
            total = perf_counter() - start
            own = total - self._inner.pop()
            self._inner[-1] += total
        self.seconds[name] = round(own, 3)
        write_json(self._seconds_file, self.seconds)
        getLogger().info(f"stage {name} took {own:.1f} s")
