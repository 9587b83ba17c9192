"""Cost of fine-tuning on all candidates: measured if such a run is next to this one, else estimated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.store.files import read_json

_STEPS = ("data", "language model", "fine-tuning")  # whose keys decide the cost of fine-tuning on all samples


@dataclass(frozen=True)
class FullCost:
    """Cost of fine-tuning on all candidates.

    Attributes:
        seconds: wall time.
        measured: whether it was measured; an estimate assumes as many epochs at the same speed.
    """

    seconds: float
    measured: bool


def full_cost(folder: Path, config: Config, result: dict[str, Any]) -> FullCost | None:
    """Return the cost of fine-tuning on all candidates; None if it is unknown.

    Args:
        folder: run folder; a run of the sampler Full with the same keys is searched next to it.
        config: configuration of the run.
        result: ``selected``, ``n_candidates`` and ``seconds`` of the run.
    """
    share, seconds = len(result["selected"]) / result["n_candidates"], result["seconds"].get("fine-tuning")
    if share == 1:
        return None
    for beside in sorted(folder.parent.glob(f"{config['dataset']}-{config['model']}-Full-*")):
        measured = _measured(beside, config, result["n_candidates"])
        if measured is not None:
            return FullCost(measured, True)
    return FullCost(seconds / share, False) if seconds else None


def _measured(folder: Path, config: Config, n_candidates: int) -> float | None:
    """Return the seconds of fine-tuning of a finished run on as many candidates with the same keys, else None."""
    files = folder / "config.yaml", folder / "result.json"
    if not all(file.is_file() for file in files):
        return None
    keys, result = read_yaml(files[0]), read_json(files[1])
    compared = {name: value for name, value in config.resolved().items() if key_of(name).step in _STEPS}
    is_same = result["n_candidates"] == n_candidates and all(keys.get(name) == compared[name] for name in compared)
    return result["seconds"].get("fine-tuning") if is_same else None
