"""What a dataset holds, in a few aligned lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

_UNITS = ((1e8, 1e11, 1), (1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))  # from, to, ticks of a second


@dataclass(frozen=True)
class Summary:
    """Counts of a dataset, and what was left out of it; ``str`` gives the lines.

    Attributes:
        name: name of the dataset.
        users: number of users.
        items: number of items.
        interactions: number of interactions.
        span: earliest and latest time, None if there are no times.
        notes: what a person should know, by its label.
        parts: number of rows of each part of the split.
        split: how the parts come about.
    """

    name: str
    users: int
    items: int
    interactions: int
    span: tuple[float, float] | None
    notes: Mapping[str, str]
    parts: Mapping[str, int] = field(default_factory=dict)
    split: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers of users, items, interactions, and rows of each part."""
        return {"users": self.users, "items": self.items, "interactions": self.interactions, **self.parts}

    def __str__(self) -> str:
        total = sum(self.parts.values())
        parts = {part: f"{rows:,} rows, {rows / total:.1%}" for part, rows in self.parts.items()}
        lines = {**self.notes, **parts, **({"split": self.split} if self.split else {})}
        span = f", {span_text(*self.span)}" if self.span else ""
        head = f"{self.name}: {self.users:,} users, {self.items:,} items, {self.interactions:,} interactions{span}"
        return "\n".join([head, *(f"  {label:<12} {text}" for label, text in lines.items())])


def span_text(first: float, last: float) -> str:
    """Return two times as days, if they count s, ms, µs or ns from 1970 or are written YYYYMMDD; else as numbers."""
    if 19e6 <= first <= last < 22e6 or 19e12 <= first <= last < 22e12:
        written = [f"{time:.0f}" for time in (first, last)]
        return " to ".join(f"{text[:4]}-{text[4:6]}-{text[6:8]}" for text in written)
    for low, high, ticks in _UNITS:
        if low <= first <= last < high:
            days = [datetime(1970, 1, 1) + timedelta(seconds=time / ticks) for time in (first, last)]
            return " to ".join(f"{day:%Y-%m-%d}" for day in days)
    return f"times {first:g} to {last:g}"
