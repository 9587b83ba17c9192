"""Loss and representations of samples by the language model, and their distances to validation samples."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.scorer import (
    LLM,
    VALID_HISTORIES,
    VALID_TARGETS,
    Scorer,
    ScorerInputs,
    register_scorer,
)
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress

_MOST_VALID = 1000
_MOST_DISTANCES = 500_000_000  # 2 GB of float32


class LLMScorer(Scorer):
    """Base class of scorers by the language model before fine-tuning alone.

    Args:
        llm: recommender, whose network is run.
        checkpoint: stores the scores while they are computed.
    """

    needs = (LLM,)

    def __init__(self, llm: LLMRecommender, checkpoint: ScoreCheckpoint | None = None) -> None:
        self.llm = llm
        self.checkpoint = checkpoint or ScoreCheckpoint()

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "LLMScorer":
        return cls(inputs.llm, ScoreCheckpoint(inputs.folder))


@register_scorer("llm_loss")
class LLMLossScorer(LLMScorer):
    """Mean negative log-likelihood of the target's tokens by the language model before fine-tuning, in nats."""

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return losses, float64 [n]."""
        compute = lambda batch: self.llm.batch_losses(batch).double().cpu().numpy()  # noqa: E731
        hidden = not self.llm.config["show_progress"]
        batches = with_progress(self.llm.batches(samples), len(samples), "LLM losses", hidden)
        return self.checkpoint.score("llm_loss", samples.rows, batches, compute)


@register_scorer("llm_representation")
class LLMRepresentationScorer(LLMScorer):
    """Hidden state of the language model before fine-tuning for each history, without the target.

    ``LLMRecommender.represent`` defines the hidden state.
    """

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return hidden states, float32 [n, d]."""
        compute = lambda batch: self.llm.represent(batch).cpu().numpy()  # noqa: E731
        return self.checkpoint.score("llm_representation", samples.rows, _batches(self.llm, samples), compute)


class _ValidScorer(Scorer):
    """Base class of scorers that compare each sample with each of at most 1,000 validation samples.

    A sample is represented by the hidden state of the language model before fine-tuning. ``ValidDistanceScorer``
    describes the arguments.
    """

    needs = (LLM,)
    name: str
    with_targets: bool  # whether the hidden states are those for history and target

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
    def from_inputs(cls, inputs: ScorerInputs) -> "_ValidScorer":
        valid_samples = CandidateSamples.from_dataset(inputs.splits.valid)
        return cls(inputs.llm, valid_samples, inputs.config, ScoreCheckpoint(inputs.folder))

    @staticmethod
    @abstractmethod
    def compare(states: Tensor, valid: Tensor) -> Tensor:
        """Return a value for each of ``states`` [B, d] and each of ``valid`` [m, d], float32 [B, m]."""

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the values, float32 [n, m]."""
        valid = self._represent_valid(most_valid(len(samples)))
        compute = lambda batch: self.compare(self.llm.represent(batch), valid).cpu().numpy()  # noqa: E731
        batches = _batches(self.llm, samples, self.with_targets)
        return self.checkpoint.score(self.name, samples.rows, batches, compute)

    def _represent_valid(self, most: int) -> Tensor:
        """Return representations of at most ``most`` validation samples, [m, d]."""
        drawn = np.sort(drawn_rows(len(self.valid_samples), most, self.config["seed"]))
        batches = self.llm.representation_batches(self.valid_samples[drawn], self.with_targets)
        return torch.cat([self.llm.represent(batch) for _, batch in batches])


@register_scorer("valid_distance")
class ValidDistanceScorer(_ValidScorer):
    """Euclidean distance of each sample to each of at most 1,000 validation samples.

    A sample is represented by the hidden state of the language model before fine-tuning for history and target.

    Args:
        llm: recommender, whose ``represent`` defines the hidden state.
        valid_samples: samples of the validation part.
        config: reads ``seed`` for the draw of the validation samples; fewer than 1,000 are drawn if there would be more
            than 500 million distances.
        checkpoint: stores the distances while they are computed.
    """

    name, with_targets = "valid_distance", True
    sees = (VALID_HISTORIES, VALID_TARGETS)
    compare = staticmethod(torch.cdist)


@register_scorer("valid_similarity")
class ValidSimilarityScorer(_ValidScorer):
    """Cosine similarity of each sample to each of at most 1,000 validation samples, by their histories alone.

    A sample is represented by the hidden state of the language model before fine-tuning for its history, without the
    target. The arguments are those of ``ValidDistanceScorer``, and so is the draw of the validation samples.
    """

    name, with_targets = "valid_similarity", False
    sees = (VALID_HISTORIES,)

    @staticmethod
    def compare(states: Tensor, valid: Tensor) -> Tensor:
        return normalize(states, dim=1) @ normalize(valid, dim=1).T


def most_valid(n_samples: int) -> int:
    """Return how many validation samples ``n_samples`` are compared with at most, a number for each pair."""
    return min(_MOST_VALID, max(1, _MOST_DISTANCES // n_samples))


def drawn_rows(count: int, most: int, seed: int) -> np.ndarray:
    """Draw ``most`` of ``count`` rows, or all if there are fewer; int64, in random order."""
    return np.random.default_rng(seed).choice(count, min(count, most), replace=False)


def _batches(
    llm: LLMRecommender, samples: CandidateSamples, with_targets: bool = False
) -> Iterator[tuple[np.ndarray, Any]]:
    batches = llm.representation_batches(samples, with_targets)
    return with_progress(batches, len(samples), "LLM representations", not llm.config["show_progress"])
