"""A configuration key: the kind of its values, the step it affects, and the place of its default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_dealrec.config.kind import ANY, Kind

STEPS = (
    "data", "surrogate", "influence", "language model", "effort", "selection", "fine-tuning", "evaluation",
)  # fmt: skip
LAST_STEPS = ("score", "select", "finetune", "evaluate")  # where a run can end
NOTHING = "nothing"  # instead of a step, for keys that do not change the results


@dataclass(frozen=True)
class Idle:
    """A condition under which a key has no effect; a value that is given for it is then refused.

    Args:
        reason: the condition in words, for the error: "without ...", "with ...".
        holds: returns whether a configuration, all values by key, meets the condition.
    """

    reason: str
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Key:
    """A configuration key.

    Args:
        name: its name.
        kind: the kind of its values.
        step: the first step of a run whose results it changes, one of ``STEPS`` or ``NOTHING``; None for a sampler's
            key means ``selection``.
        place: place of the default of a key of this package or of RecBole: a property file without its suffix,
            ``models`` (each file of ``properties/model``), ``RecBole`` (its ``overall`` or ``dataset/sample``),
            ``given`` (no default), or ``derived`` (RecBole derives it from other keys).
        default: default of a key that is registered with a class, below all property files.
        comment: a sentence for ``--help``.
        idle: when it has no effect.

    Raises:
        ValueError: there is no such step.
    """

    name: str
    kind: Kind = ANY
    step: str | None = None
    place: str = "registered"
    default: Any = None
    comment: str = ""
    idle: Idle | None = None

    def __post_init__(self) -> None:
        if self.step not in (None, *STEPS, NOTHING):
            raise ValueError(f"key '{self.name}': no step '{self.step}'; choose one of {', '.join(STEPS)} or {NOTHING}")
