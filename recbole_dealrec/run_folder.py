"""The run folder: where each stage leaves its output, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Outputs of the stages of one run, how long each stage took, and which others it used.

    Args:
        path: the folder; made if absent.
        shared: folder of the stages that this run has in common with others, if those are not kept here.
    """

    def __init__(self, path: Path, shared: "RunFolder | None" = None) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._file = path / "stages.json"
        self._stages: dict[str, dict[str, Any]] = read_json(self._file) if self._file.exists() else {}
        self._open = shared._open if shared else [_OpenStage()]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage, and of each shared stage that was used, without the stages inside it."""
        own = {name: stage["seconds"] for name, stage in self._stages.items()}
        used = {name: seconds for stage in self._stages.values() for name, seconds in stage["used"].items()}
        return {**used, **own}

    def cost(self, name: str, without: str | None = None) -> float:
        """Seconds of a finished stage and of all stages it used but one, whenever and for whichever run those ran."""
        stage = self._stages[name]
        return stage["seconds"] + sum(seconds for used, seconds in stage["used"].items() if used != without)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log and time a stage; its time is kept once it ends without an error."""
        getLogger().info(f"stage {name}")
        self._open.append(_OpenStage())
        start = perf_counter()
        try:
            yield
        finally:
            total = perf_counter() - start
            ended = self._open.pop()
            self._open[-1].inner_seconds += total
        own = total - ended.inner_seconds
        self._stages[name] = {"seconds": round(own, 3), "used": ended.used}
        write_json(self._file, self._stages)
        self.reuse(name)
        getLogger().info(f"stage {name} took {own:.1f} s")

    def reuse(self, name: str) -> None:
        """Note that the stage that is going on uses a finished one."""
        if stage := self._stages.get(name):
            self._open[-1].used.update({**stage["used"], name: stage["seconds"]})


@dataclass
class _OpenStage:
    """A stage that is going on: seconds of the stages inside it, and seconds of each stage it used."""

    inner_seconds: float = 0.0
    used: dict[str, float] = field(default_factory=dict)
