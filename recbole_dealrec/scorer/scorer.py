"""Base class, inputs and registry of scorers."""

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

# Inputs of scorers other than scores: first surrogate, all surrogates, training of the first one, language model.
SURROGATE, SURROGATES, TRAINING, LLM = MADE = "surrogate", "surrogates", "training", "language model"
# Parts of the data that a selection depends on; every selection depends on the first.
TRAIN, VALID_HISTORIES, VALID_TARGETS = PARTS = "training", "validation histories", "validation targets"


@dataclass(frozen=True)
class ScorerInputs:
    """Inputs that a scorer can be created from.

    Attributes:
        config: configuration of the run.
        splits: training, validation and test parts; with ``selection_part``, half of the validation part.
        folder: run folder for unfinished scores.
        effort_folder: folder of the ``EffortCache``.
        watch_training: trains the first surrogate, and calls its argument with it after each evaluation.
        surrogates: trained surrogates: all, only the first, or none, as the scorer needs.
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
    """Base class of scorers, which compute one number or one vector per candidate.

    Attributes:
        needs: required inputs: ``SURROGATE``, ``SURROGATES``, ``TRAINING``, ``LLM``, or names of scores.
        sees: what the scores themselves depend on in the validation part: ``VALID_HISTORIES``, ``VALID_TARGETS``.
            What its inputs depend on is not named again.
    """

    needs: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()

    @classmethod
    def needed(cls, config: Config) -> tuple[str, ...]:
        """Return the required inputs under a configuration."""
        return cls.needs

    @classmethod
    def seen(cls, config: Config) -> tuple[str, ...]:
        """Return what the scores themselves depend on in the validation part under a configuration."""
        return cls.sees

    @classmethod
    def check(cls, surrogate: nn.Module, config: Config, samples: CandidateSamples) -> None:
        """Test the scores on a surrogate before it is trained; called if the scorer needs surrogates.

        Args:
            surrogate: untrained surrogate.
            config: configuration of the run.
            samples: a few samples.

        Raises:
            InputError: they cannot be computed on it.
        """
        return None

    @classmethod
    @abstractmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "Scorer":
        """Create the scorer from the inputs of a run."""

    @abstractmethod
    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return numbers, float64 [n], or vectors, float32 [n, d], in the order of the samples."""


def register_scorer(name: str, keys: Iterable[Key] = ()) -> Callable[[type[Scorer]], type[Scorer]]:
    """Return a class decorator that registers a scorer by its name.

    Other packages name the class in the entry-point group ``recbole_dealrec.scorers``.

    Args:
        name: name of the scores.
        keys: configuration keys of the scorer, each with its default and its step: ``influence`` for scores on
            surrogates, ``effort`` for scores by the language model.

    Raises:
        TypeError: the class is not a ``Scorer``.
        ValueError: the name is taken by another class, a key names no step, or a key is declared elsewhere.
    """
    return SCORERS.register(name, keys)


def get_scorer(name: str) -> type[Scorer]:
    """Return a scorer class by its registered or entry-point name.

    Raises:
        InputError: there is no such scorer (the message lists all), or its package cannot be loaded.
    """
    return SCORERS.get(name)


def scorer_names() -> list[str]:
    """Return the names of all scorers, including those of other packages."""
    return SCORERS.names()
