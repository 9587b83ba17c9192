"""What a scorer is, and how one is registered, with the configuration keys it reads."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from recbole_dealrec.config import Key
from recbole_dealrec.config.registry import SCORERS
from recbole_dealrec.data import CandidateSamples

T = TypeVar("T", bound=type)


@runtime_checkable
class Scorer(Protocol):
    """Gives every candidate one number, or one row of numbers."""

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return scores, float64 [n], or rows, float32 [n, d], in the order of the samples."""


def register_scorer(name: str, keys: Iterable[Key] = ()) -> Callable[[T], T]:
    """Class decorator that makes a scorer known by its name.

    Packages of their own name the class in the entry-point group ``recbole_dealrec.scorers``.

    Args:
        name: name of the scores.
        keys: configuration keys of its own, each with its default and its step: ``influence`` for scores on surrogates,
            ``effort`` for scores by the language model.

    Raises:
        TypeError: the class has no ``score``.
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
