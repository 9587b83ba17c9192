"""The error a person can mend: shown as one line, exit code 2."""


class InputError(ValueError):
    """Input, configuration or environment that cannot be used as given.

    The message is one line that names the file, key or row and says what to do.
    """
