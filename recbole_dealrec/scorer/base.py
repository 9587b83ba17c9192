"""What a scorer is, and what it is made from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.store.run_folder import RunFolder

# What a scorer can need beside scores: the first surrogate, all of them, the first one's training, the language model.
SURROGATE, SURROGATES, TRAINING, LLM = MADE = "surrogate", "surrogates", "training", "language model"


@dataclass(frozen=True)
class ScorerInputs:
    """What a scorer is made from.

    Attributes:
        config: configuration of the run.
        splits: training, validation and test part.
        folder: run folder for unfinished scores.
        effort_folder: folder of the effort scores that are known.
        watch_training: trains the first surrogate, and calls what it is given with it after each evaluation.
        surrogates: trained surrogates: all, the first alone, or none, as the scorer needs them.
        llm: the recommender before fine-tuning, if the scorer needs it.
        scores: the scores that the scorer needs, by name.
    """

    config: Config
    splits: Splits
    folder: RunFolder
    effort_folder: Path
    watch_training: Callable[[Callable[[nn.Module], None]], None] | None
    surrogates: Sequence[nn.Module]
    llm: LLMRecommender | None
    scores: Mapping[str, np.ndarray]


class Scorer(ABC):
    """Give every candidate one number, or one row of numbers.

    Attributes:
        needs: what has to be there before: ``SURROGATE``, ``SURROGATES``, ``TRAINING``, ``LLM``, or names of scores.
    """

    needs: tuple[str, ...] = ()

    @classmethod
    def needed(cls, config: Config) -> tuple[str, ...]:
        """Return what the scorer needs as configured."""
        return cls.needs

    @classmethod
    @abstractmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "Scorer":
        """Make the scorer from what a run has."""

    @abstractmethod
    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return scores, float64 [n], or rows, float32 [n, d], in the order of the samples."""
