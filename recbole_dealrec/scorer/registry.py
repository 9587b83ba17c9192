"""The scorers by name."""

from collections.abc import Callable

from recbole_dealrec.scorer.base import Scorer

_SCORERS: dict[str, type[Scorer]] = {}


def register_scorer(name: str) -> Callable[[type[Scorer]], type[Scorer]]:
    def register(scorer: type[Scorer]) -> type[Scorer]:
        _SCORERS[name] = scorer
        return scorer

    return register


def get_scorer(name: str) -> type[Scorer]:
    return _SCORERS[name]


def scorer_names() -> list[str]:
    return sorted(_SCORERS)
