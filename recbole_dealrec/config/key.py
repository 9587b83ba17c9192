"""A configuration key: what its values have to be, what it changes, and where its default stands."""

from dataclasses import dataclass
from typing import Any

from recbole_dealrec.config.kind import ANY, Kind

STEPS = (
    "data", "surrogate", "influence", "language model", "effort", "selection", "fine-tuning", "evaluation",
)  # fmt: skip
NOTHING = "nothing"  # in place of a step: how a run is carried out changes, not what comes out


@dataclass(frozen=True)
class Key:
    """A configuration key.

    Args:
        name: its name.
        kind: what its values have to be.
        step: the first step of a run whose results it changes, one of ``STEPS`` or ``NOTHING``. A sampler's keys change
            the selection unless they say otherwise.
        place: where the default of a key of this package or of RecBole stands: a property file without its suffix,
            ``models`` (each file of ``properties/model``), ``RecBole`` (its ``overall`` or ``dataset/sample``),
            ``given`` (there is none), or ``derived`` (RecBole works it out from other keys).
        default: default of a key that is registered with what reads it, below all property files.
        comment: a sentence for ``--help``.

    Raises:
        ValueError: there is no such step.
    """

    name: str
    kind: Kind = ANY
    step: str | None = None
    place: str = "registered"
    default: Any = None
    comment: str = ""

    def __post_init__(self) -> None:
        if self.step not in (None, *STEPS, NOTHING):
            raise ValueError(f"key '{self.name}': no step '{self.step}'; there are {', '.join(STEPS)} and {NOTHING}")
