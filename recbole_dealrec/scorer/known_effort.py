"""Effort of the samples that are new; that of the others is known from the run before the dataset grew."""

import hashlib
import json
from logging import getLogger

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.distributed import processes
from recbole_dealrec.model.loss import IGNORED_LABEL
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.previous_run import MEASURED_EFFORT, PreviousRun
from recbole_dealrec.run_folder import RunFolder
from recbole_dealrec.scorer.effort import EffortScorer

KEY_BYTES = 16


class KnownEffortScorer:
    """The effort score; samples that a previous run has scored with the same language model are not scored again.

    Each score is kept with a key for the next run: see :func:`sample_keys`.

    Args:
        effort: scores samples by the language model.
        folder: run folder that keeps keys and scores.
        previous: run whose scores are taken over.
    """

    def __init__(self, effort: EffortScorer, folder: RunFolder, previous: PreviousRun | None = None) -> None:
        self.effort = effort
        self.llm = effort.llm
        self.folder = folder
        self.previous = previous
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Effort of each sample, float64 [n].

        Raises:
            InputError: as ``EffortScorer.score``.
        """
        fingerprint = self.llm.fingerprint()
        keys, scores = processes.on_main(lambda: self._known(samples, fingerprint))
        rest = np.flatnonzero(np.isnan(scores))
        if self.previous:
            why = "" if len(rest) < len(scores) else "; the language model is another, or every sample is new"
            taken_over = f"effort: {len(scores) - len(rest)} scores taken over from {self.previous.path}"
            getLogger().info(f"{taken_over}, {len(rest)} to be computed{why}")
        if len(rest):
            scores[rest] = self.effort.score(samples[rest])
        self._keep(keys, scores)
        return scores

    def _known(self, samples: CandidateSamples, fingerprint: str) -> tuple[np.ndarray, np.ndarray]:
        """Keys, and the scores that are known, NaN for the others."""
        keys = sample_keys(self.llm, fingerprint, samples, self.effort.config["effort_parameters"])
        known = self.previous.efforts() if self.previous else {}
        return keys, np.array([known.get(bytes(key), np.nan) for key in keys])

    def _keep(self, *part: np.ndarray) -> None:
        self._kept.append(part)
        keys, scores = map(np.concatenate, zip(*self._kept, strict=True))
        with self.folder.output(MEASURED_EFFORT) as path, open(path, "wb") as stream:
            np.savez(stream, keys=keys, scores=scores)


def sample_keys(
    llm: LLMRecommender, fingerprint: str, samples: CandidateSamples, effort_parameters: str | list[str]
) -> np.ndarray:
    """BLAKE2b of all that the effort of each sample depends on, uint8 [n, ``KEY_BYTES``].

    That is the language model, by its ``fingerprint``, of whose parameters the gradient is taken, and the tokens that
    are read and written.
    """
    of_model = hashlib.blake2b(f"{fingerprint}\n{json.dumps(effort_parameters)}\n".encode(), digest_size=KEY_BYTES)
    keys = np.empty((len(samples), KEY_BYTES), dtype=np.uint8)
    for index, batch in llm.batches(samples):
        tokens, mask, labels = (batch[name].numpy() for name in ("input_ids", "attention_mask", "labels"))
        for row, sample in enumerate(index):
            read = tokens[row][mask[row] == 1]
            hashed = of_model.copy()
            hashed.update(np.concatenate([[len(read)], read, labels[row][labels[row] != IGNORED_LABEL]]).tobytes())
            keys[sample] = np.frombuffer(hashed.digest(), dtype=np.uint8)
    return keys
