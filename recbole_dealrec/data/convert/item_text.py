"""Titles and further texts of the items of a source."""

from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass, field

from recbole_dealrec.data.title import n_sharing
from recbole_dealrec.errors import InputError


@dataclass
class ItemTexts:
    """Titles of items.

    Attributes:
        texts: title and further texts of each item that has a title.
        n_retitled: number of rows that give an item another title than its first one, which is kept.
        retitled: the first such item.
    """

    texts: dict[Hashable, tuple[str, ...]] = field(default_factory=dict)
    n_retitled: int = 0
    retitled: Hashable = None

    @classmethod
    def of(cls, rows: Iterable[tuple[Hashable, tuple[str, ...]]], items: Container, name: str) -> "ItemTexts":
        """Collect the rows that have a title.

        Args:
            rows: item, and its title and further texts.
            items: the items to collect.
            name: name of the source in errors.

        Raises:
            InputError: none of the items has a title.
        """
        found = cls()
        for item, texts in rows:
            if texts[0] and item in items and found.texts.setdefault(item, texts)[0] != texts[0]:
                found.retitled = found.retitled if found.n_retitled else item
                found.n_retitled += 1
        if not found.texts:
            raise InputError(f"{name}: none of the items has a title; check that the ids are the same in both")
        return found

    def notes(self, n_items: int) -> dict[str, str]:
        """Return the summary's notes on the titles of ``n_items`` items."""
        sharing = n_sharing([texts[0] for texts in self.texts.values()])
        notes = {
            "untitled": f"{n_items - len(self.texts):,} items, which a run leaves out",
            "same title": f"{sharing:,} items share their title with another item",
        }
        if self.n_retitled:
            notes["two titles"] = f"{self.n_retitled:,} rows, such as one of {self.retitled}; the first title is kept"
        return notes
