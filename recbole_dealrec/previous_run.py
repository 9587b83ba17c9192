"""What a run takes over from an earlier one, made before its dataset grew: surrogates and effort scores."""

import hashlib
import json
import re
from collections.abc import Set
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError
from recbole_dealrec.run_folder import check_outputs, read_json, recorded_checksums

MEASURED_EFFORT = "measured_effort.npz"
_TAKEN_OVER = re.compile(rf"surrogate(-\d+)?\.(safetensors|json)|{re.escape(MEASURED_EFFORT)}")


class PreviousRun:
    """Run folder whose surrogates and effort scores a run starts from; only reads.

    Args:
        path: the folder.

    Raises:
        InputError: no run folder, a run whose selection is not finished or that keeps neither surrogates nor effort
            scores in its own folder, or an output that was altered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_outputs(path, ["config.yaml", "scores.csv"])
        self._checksums = {
            name: checksums for name, checksums in recorded_checksums(path).items() if _TAKEN_OVER.fullmatch(name)
        }
        if not self._checksums:
            raise InputError(
                f"previous_run '{path}': no surrogate or effort score lies in it; name a run by itself, not one of a "
                "comparison or a tuning, whose sampler needs them"
            )
        check_outputs(path, sorted(self._checksums))

    @classmethod
    def of(cls, config: Config) -> "PreviousRun | None":
        """The one that the key ``previous_run`` names, if any."""
        return cls(Path(config["previous_run"])) if config["previous_run"] else None

    def check_keys(self, config: Config, names: Set[str]) -> None:
        """Refuse a run that what is here does not suit.

        Raises:
            InputError: the two runs differ in one of the keys ``names``.
        """
        before, now = read_yaml(self.path / "config.yaml"), config.resolved()
        for name in sorted(names):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"previous_run '{self.path}': {name} is {before.get(name)!r} there and {now.get(name)!r} here; "
                    "they have to agree, or set previous_run to ~"
                )

    @property
    def content(self) -> str:
        """SHA-256 of all that can be taken over, wherever the folder lies."""
        return hashlib.sha256(json.dumps(self._checksums, sort_keys=True).encode()).hexdigest()

    def has_surrogate(self, number: int) -> bool:
        """Whether it has trained its surrogate of this number."""
        return set(surrogate_files(number)) <= self._checksums.keys()

    def surrogate(self, number: int) -> tuple[dict[str, Tensor], list[str]]:
        """Weights of a surrogate by name, and the item tokens by internal item id."""
        weights, finished = surrogate_files(number)
        return load_file(self.path / weights), read_json(self.path / finished)["items"]

    def efforts(self) -> dict[bytes, float]:
        """Effort scores by the keys of their samples; none if the language model scored no sample."""
        if MEASURED_EFFORT not in self._checksums:
            return {}
        with np.load(self.path / MEASURED_EFFORT) as kept:
            return dict(zip(map(bytes, kept["keys"]), kept["scores"].tolist(), strict=True))


def surrogate_files(number: int) -> tuple[str, str]:
    """Files of the weights and of the finished training of a run's surrogate."""
    name = f"surrogate-{number}" if number else "surrogate"
    return f"{name}.safetensors", f"{name}.json"
