"""What a scorer is, what it is made from, and how one is registered."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from recbole_dealrec.config import Config, Key
from recbole_dealrec.config.registry import SCORERS
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


def register_scorer(name: str, keys: Iterable[Key] = ()) -> Callable[[type[Scorer]], type[Scorer]]:
    """Register a scorer under a name; a class decorator.

    Packages of their own name the class in the entry-point group ``recbole_dealrec.scorers``.

    Args:
        name: name of the scores.
        keys: configuration keys of its own, each with its default and its step: ``influence`` for scores on surrogates,
            ``effort`` for scores by the language model.

    Raises:
        TypeError: the class is not a ``Scorer``.
        ValueError: the name is taken by another class, a key names no step, or is declared by somebody else.
    """
    return SCORERS.register(name, keys)


def get_scorer(name: str) -> type[Scorer]:
    """Return a scorer class by its registered or entry-point name.

    Raises:
        InputError: no such scorer, the known ones are listed; or its package cannot be loaded.
    """
    return SCORERS.get(name)


def scorer_names() -> list[str]:
    """Return the names of all registered scorers, those of other packages included."""
    return SCORERS.names()
