"""How a scorer is registered, with the configuration keys it reads."""

from collections.abc import Callable, Iterable

from recbole_dealrec.config import Key
from recbole_dealrec.config.registry import SCORERS
from recbole_dealrec.scorer.base import Scorer


def register_scorer(name: str, keys: Iterable[Key] = ()) -> Callable[[type[Scorer]], type[Scorer]]:
    """Class decorator that makes a scorer known by its name.

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
