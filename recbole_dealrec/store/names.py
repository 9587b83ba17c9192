"""Names of the folders of runs, with a fingerprint of the data and keys that determine their content."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.config import STEPS, Config
from recbole_dealrec.config.registry import key_of

DATA = "data"  # the data's fingerprint in the mapping of fingerprints
_SURROGATES = ("data", "surrogate")
_SURROGATE_SCORES = (*_SURROGATES, "influence")
_LLM_SCORES = ("data", "language model", "effort")


@dataclass(frozen=True)
class Folders:
    """The folders that a run writes to.

    Attributes:
        run: one run, of one sampler and one seed.
        surrogates: weights of the surrogates.
        surrogate_scores: scores computed only on surrogates, shared by all recommenders.
        llm_scores: scores of the language model before fine-tuning, shared by all samplers.
        effort: effort scores, looked up by the network and the sample's tokens, shared by all runs.
    """

    run: Path
    surrogates: Path
    surrogate_scores: Path
    llm_scores: Path
    effort: Path

    @classmethod
    def of(cls, config: Config, contents: Mapping[str, str], root: Path) -> "Folders":
        """Return the folders of a run.

        Args:
            config: configuration of the run.
            contents: fingerprint of the data under ``DATA``, and of each checkpoint under the key that names it.
            root: parent folder.
        """
        dataset, model, surrogate = config["dataset"], config["model"], config["surrogate_model"]
        # With a ratio below 1, the influence decides which samples are scored.
        llm_scores = _LLM_SCORES if config["effort_sample_ratio"] == 1 else {*_LLM_SCORES, *_SURROGATE_SCORES}
        steps_by_name = {
            f"{dataset}-{model}-{config['sampler']}": STEPS,
            f"{dataset}-{surrogate}-surrogates": _SURROGATES,
            f"{dataset}-{surrogate}-scores": _SURROGATE_SCORES,
            f"{dataset}-{model}-scores": llm_scores,
        }
        paths = [root / f"{name}-{fingerprint(config, contents, steps)}" for name, steps in steps_by_name.items()]
        return cls(*paths, root / "effort")


def fingerprint(config: Config, contents: Mapping[str, str], steps: Collection[str]) -> str:
    """Return twelve hexadecimal digits that identify the data and the values of the keys of these steps."""
    values = {
        key.name: contents.get(key.name, value)
        for key, value in ((key_of(name), value) for name, value in config.resolved().items())
        if key.step in steps
    }
    text = json.dumps({**values, DATA: contents[DATA]}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
