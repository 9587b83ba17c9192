"""Text files, plain or gzip, read line by line."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from recbole_dealrec.errors import InputError

_LONGEST_LINE = 64 * 2**20  # characters; limits the memory for a file of one line


def text_stream(path: Path, encoding: str = "utf-8-sig") -> TextIO:
    """Open a text file, plain or gzip."""
    opener: Callable = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding=encoding, newline="")


@contextmanager
def read_errors(path: Path, encoding: str) -> Iterator[None]:
    """Raise InputError if a file cannot be read, is cut short, or is in another encoding."""
    try:
        yield
    except UnicodeError as error:
        told = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise InputError(f"{path}: not {told} text; set encoding, such as latin-1 ({error})") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: cut short or damaged ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def lines(path: Path, encoding: str = "utf-8-sig") -> Iterator[tuple[int, str]]:
    """Yield number and text of each line.

    Raises:
        InputError: the file cannot be read, is truncated, is in another encoding, or has a line that is too long.
    """
    with read_errors(path, encoding), text_stream(path, encoding) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), start=1):
            if len(line) == _LONGEST_LINE:
                raise InputError(f"{path}, row {number}: longer than {_LONGEST_LINE} characters; shorten it")
            yield number, line
