"""The error for invalid input: shown as one line, exit code 2."""

import difflib
from collections.abc import Iterable

_LONGEST = 1000  # characters; a message may quote the content of a file


class InputError(ValueError):
    """Invalid input, configuration or environment.

    The message is one line that names the file, key or row and the remedy. Line breaks become spaces, other unprintable
    characters are escaped, and the middle of a long message is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(message.split()))
        half = _LONGEST // 2
        super().__init__(line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}")


def closest(name: object, known: Iterable[object]) -> str:
    """Return ``; did you mean ...?`` for the known name closest to another, ignoring case; empty if none is close."""
    names = {str(each).lower(): str(each) for each in sorted(known, key=str)}
    found = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f"; did you mean '{names[found[0]]}'?" if found else ""
