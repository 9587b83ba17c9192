"""Summary of a dataset in a few aligned lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from textwrap import fill
from typing import TYPE_CHECKING, Any

from recbole_dealrec.data.title import n_sharing
from recbole_dealrec.store.console import WIDTH

if TYPE_CHECKING:
    from recbole_dealrec.config import Config

_UNITS = ((1e8, 1e11, 1), (1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))  # from, to, ticks of a second


@dataclass(frozen=True)
class DataSummary:
    """Counts of a dataset, and what was left out of it; ``str`` gives the lines.

    Attributes:
        name: name of the dataset.
        users: number of users.
        items: number of items.
        interactions: number of interactions.
        span: earliest and latest time, None if there are no times.
        notes: notes for the user, by label.
        parts: number of rows of each part of the split.
        split: how the data are split, in words.
    """

    name: str
    users: int
    items: int
    interactions: int
    span: tuple[float, float] | None
    notes: Mapping[str, str]
    parts: Mapping[str, int] = field(default_factory=dict)
    split: str = ""

    @classmethod
    def of(cls, train: Any, valid: Any, test: Any) -> "DataSummary":
        """Return the summary of the parts of a ``SequentialDataset``."""
        notes = {
            "untitled": f"{train.n_untitled:,} items are left out, with {train.n_left_out:,} rows",
            "same title": f"{n_sharing(train.titles[1:]):,} items share their title with another, and rank next to it",
            "repeated": f"{train.n_repeated:,} rows repeat user, item and time of another row",
            "filtered": f"{train.n_read - train.n_left_out - train.n_rows:,} rows are removed by RecBole's filter keys",
        }
        parts = {"training": len(train), "validation": len(valid), "test": len(test)}
        counts = train.user_num - 1, train.item_num - 1, train.n_rows
        return cls(train.dataset_name, *counts, train.span, notes, parts, split_text(train.config))

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
        starts = {f"  {label:<12} ": text for label, text in lines.items()}
        shown = (fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * 15) for start, text in starts.items())
        return "\n".join([head, *shown])


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


def split_text(config: "Config") -> str:
    """Return a description of how a configuration splits a dataset."""
    if files := config["benchmark_filename"]:
        return f"as in the files: {', '.join(files)}"
    ((kind, how),) = config["eval_args"]["split"].items()
    group = config["eval_args"]["group_by"]
    whose = "of each user" if group == "user" else "of all users together"
    words = {
        "LS": "the last row of each user is the test part, the row before it the validation part",
        "RS": f"in the ratio {how} {whose}, in time order",
        "TS": f"at times that split all rows {how}",
    }
    return f"{words[kind]} (eval_args); a user's first row has no history and is not a target"
