"""The error a person can mend: shown as one line, exit code 2."""

_LONGEST = 1000  # characters; a message may quote what was found in a file


class InputError(ValueError):
    """Input, configuration or environment that cannot be used as given.

    The message is one line that names the file, key or row and says what to do. Line breaks in it become blanks, other
    characters that a terminal does not print are escaped, and what is too long for a line is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(message.split()))
        half = _LONGEST // 2
        super().__init__(line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}")
