"""The data folder of the authors' repository: split sequences and a table of titles."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.data.convert.interactions import UserSequence
from recbole_dealrec.data.convert.npy import read_object
from recbole_dealrec.data.convert.source import title_text
from recbole_dealrec.data.convert.text_file import lines
from recbole_dealrec.data.convert.writing import PARTS
from recbole_dealrec.errors import InputError

_TITLES = "title_maps.npy"


@dataclass(frozen=True)
class AuthorsFolder:
    """The authors' files: ``sequential_train.txt``, ``_valid`` and ``_test``, and ``title_maps.npy``.

    The first three have a line per user, with the user and its items in time order. The last one is a dictionary, whose
    entry ``seqid2title`` has the title of each item.
    """

    path: Path

    @classmethod
    def found_in(cls, source: Path) -> "AuthorsFolder | None":
        return cls(source) if (source / _TITLES).is_file() else None

    def sequences(self) -> Iterator[UserSequence]:
        """Yield the users' items in the order of the lines.

        Raises:
            InputError: the three files have different users.
        """
        files = [self.path / f"sequential_{part}.txt" for part in PARTS]
        users = (map(str.split, (line for _, line in lines(file))) for file in files)
        try:
            for number, parts in enumerate(zip(*users, strict=True), start=1):
                if not all(parts) or len({words[0] for words in parts}) > 1:
                    raise InputError(f"{self.path}: line {number} of the three sequential_*.txt names different users")
                if len(parts[0]) > 1:  # without a training item there is no history
                    yield UserSequence(parts[0][0], *(words[1:] for words in parts))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: the three sequential_*.txt differ in their number of lines") from error

    def titles(self) -> Iterator[tuple[str, tuple[str]]]:
        """Yield item and title.

        Raises:
            InputError: the table is not a dictionary of texts.
        """
        maps = read_object(self.path / _TITLES)
        titles = maps.get("seqid2title") if isinstance(maps, dict) else None
        if not isinstance(titles, dict) or not all(isinstance(title, str) for title in titles.values()):
            raise InputError(f"{self.path / _TITLES}: not a dictionary with an entry seqid2title from items to titles")
        yield from ((str(item), (title_text(title),)) for item, title in titles.items())
