"""Names of the folders that runs are kept in, after all that determines what comes out."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.config import STEPS, Config
from recbole_dealrec.config.registry import key_of

DATA = "data"  # among the contents that determine what comes out
_SURROGATES = ("data", "surrogate")
_SURROGATE_SCORES = (*_SURROGATES, "influence")
_LLM_SCORES = ("data", "language model", "effort")


@dataclass(frozen=True)
class Folders:
    """Where a run keeps what it makes.

    Attributes:
        run: folder of one run: one sampler, one seed.
        surrogates: folder of the surrogates, whatever is computed on them.
        surrogate_scores: folder of scores that are computed on surrogates alone, whichever recommender is fine-tuned.
        llm_scores: folder of scores of the language model before fine-tuning, however samples are selected.
        effort: folder of the effort scores that are known by their content.
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
            contents: fingerprint of the data under ``DATA``, and of each checkpoint that a key names under the key.
            root: where the folders lie.
        """
        dataset, model, surrogate = config["dataset"], config["model"], config["surrogate_model"]
        # Of a part of the samples, influence tells which part.
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
    """Return twelve hexadecimal digits of the data and of the keys that change these steps."""
    values = {
        key.name: contents.get(key.name, value)
        for key, value in ((key_of(name), value) for name, value in config.resolved().items())
        if key.step in steps
    }
    known = json.dumps({**values, DATA: contents[DATA]}, sort_keys=True, default=str)
    return hashlib.sha256(known.encode()).hexdigest()[:12]
