"""The answer to a checkpoint that cannot be loaded."""

from pathlib import Path

from recbole_dealrec.errors import InputError

# What from_pretrained of transformers raises for a checkpoint that is absent, out of reach or broken.
UNREACHABLE = (OSError, ValueError, KeyError, ImportError)


def unusable(key: str, path: str, error: Exception) -> InputError:
    """The error, in one line, for configuration key ``key`` whose checkpoint failed to load."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(path).is_dir() else "neither a folder nor a model that can be reached"
    return InputError(f"{key} '{path}': {kind}; cannot be loaded: {reason}")
