"""How the language model represents samples, and how far they are from the validation samples."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.scorer import LLM, Scorer, ScorerInputs, register_scorer
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress

_MOST_VALID = 1000
_MOST_DISTANCES = 500_000_000  # 2 GB of float32


@register_scorer("llm_representation")
class LLMRepresentationScorer(Scorer):
    """What the language model makes of each history before it is fine-tuned; the target has no part in it.

    Args:
        llm: recommender, whose ``represent`` says which hidden state this is.
        checkpoint: keeps the representations as they come.
    """

    needs = (LLM,)

    def __init__(self, llm: LLMRecommender, checkpoint: ScoreCheckpoint | None = None) -> None:
        self.llm = llm
        self.checkpoint = checkpoint or ScoreCheckpoint()

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "LLMRepresentationScorer":
        return cls(inputs.llm, ScoreCheckpoint(inputs.folder))

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return hidden states, float32 [n, d]."""
        compute = lambda batch: self.llm.represent(batch).cpu().numpy()  # noqa: E731
        return self.checkpoint.score("llm_representation", samples.rows, _batches(self.llm, samples), compute)


@register_scorer("valid_distance")
class ValidDistanceScorer(Scorer):
    """Euclidean distance of each sample to each of some validation samples.

    A sample is represented by what the language model, before it is fine-tuned, makes of its history and target.

    Args:
        llm: recommender, whose ``represent`` says which hidden state this is.
        valid_samples: of the validation part.
        config: reads ``seed``, which draws at most 1,000 of them, and fewer where there would be over 500 million
            distances.
        checkpoint: keeps the distances as they come.
    """

    needs = (LLM,)

    def __init__(
        self,
        llm: LLMRecommender,
        valid_samples: CandidateSamples,
        config: Config,
        checkpoint: ScoreCheckpoint | None = None,
    ) -> None:
        self.llm = llm
        self.valid_samples = valid_samples
        self.config = config
        self.checkpoint = checkpoint or ScoreCheckpoint()

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "ValidDistanceScorer":
        valid_samples = CandidateSamples.from_dataset(inputs.splits.valid)
        return cls(inputs.llm, valid_samples, inputs.config, ScoreCheckpoint(inputs.folder))

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return distances, float32 [n, m]."""
        goals = self._goals(min(_MOST_VALID, max(1, _MOST_DISTANCES // len(samples))))
        compute = lambda batch: torch.cdist(self.llm.represent(batch), goals).cpu().numpy()  # noqa: E731
        batches = _batches(self.llm, samples, with_targets=True)
        return self.checkpoint.score("valid_distance", samples.rows, batches, compute)

    def _goals(self, most: int) -> Tensor:
        count = len(self.valid_samples)
        drawn = np.random.default_rng(self.config["seed"]).choice(count, min(count, most), replace=False)
        batches = self.llm.representation_batches(self.valid_samples[np.sort(drawn)], with_targets=True)
        return torch.cat([self.llm.represent(batch) for _, batch in batches])


def _batches(
    llm: LLMRecommender, samples: CandidateSamples, with_targets: bool = False
) -> Iterator[tuple[np.ndarray, Any]]:
    batches = llm.representation_batches(samples, with_targets)
    return with_progress(batches, len(samples), "LLM representations", not llm.config["show_progress"])
