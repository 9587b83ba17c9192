"""Amazon Reviews 2018 and 2023: JSON lines of reviews and of metadata, plain or compressed by gzip."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.data.convert.interactions import Row
from recbole_dealrec.data.convert.source import json_rows, number, time_number
from recbole_dealrec.errors import InputError

_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True)
class _Edition:
    """Field names of an edition of the collection."""

    user: str
    item: str
    rating: str
    time: str
    ticks: int  # per second


_EDITIONS = (
    _Edition("reviewerID", "asin", "overall", "unixReviewTime", 1),
    _Edition("user_id", "parent_asin", "rating", "timestamp", 1000),
)


@dataclass(frozen=True)
class Amazon:
    """One category of Amazon Reviews.

    Attributes:
        reviews: file of reviews.
        metadata: file of items with titles.
        edition: the field names.
    """

    reviews: Path
    metadata: Path
    edition: _Edition

    @classmethod
    def found_in(cls, source: Path) -> "Amazon | None":
        """Return the reviews and metadata in a folder, distinguished by the fields of their first line, or None.

        Raises:
            InputError: the folder has reviews, but not one file each of reviews and metadata.
        """
        if not source.is_dir():
            return None
        files = sorted(path for path in source.iterdir() if path.name.endswith(_ENDINGS))
        fields = {path: next(json_rows(path), (0, {}))[1].keys() for path in files}
        for edition in _EDITIONS:
            reviews = [path for path in files if {edition.user, edition.item, edition.rating} <= fields[path]]
            metadata = [path for path in files if edition.item in fields[path] and edition.user not in fields[path]]
            if reviews and (len(reviews), len(metadata)) != (1, 1):
                raise InputError(
                    f"{source}: {len(reviews)} files of reviews and {len(metadata)} of metadata with {edition.item}; "
                    "put one of each there"
                )
            if reviews:
                return cls(reviews[0], metadata[0], edition)
        return None

    def rows(self, rated: bool) -> Iterator[Row]:
        edition, path = self.edition, self.reviews
        for row, review in json_rows(path):
            user, item = review.get(edition.user), review.get(edition.item)
            if not isinstance(user, str) or not isinstance(item, str):
                raise InputError(f"{path}, row {row}: no text for {edition.user} or {edition.item}")
            time = time_number(review.get(edition.time), path, row, edition.time)
            time = time / edition.ticks if time % edition.ticks else time // edition.ticks
            rating = number(review.get(edition.rating), path, row, edition.rating) if rated else None
            yield Row(user, item, time, rating)

    def titles(self) -> Iterator[tuple[str, str]]:
        for row, item in json_rows(self.metadata):
            token, title = item.get(self.edition.item), item.get("title")
            if not isinstance(token, str):
                raise InputError(f"{self.metadata}, row {row}: no text for {self.edition.item}")
            yield token, title if isinstance(title, str) else ""
