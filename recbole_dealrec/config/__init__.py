"""Configuration: RecBole's Config with this package's keys, one row for each, and the keys of other packages."""

from typing import TYPE_CHECKING

from recbole_dealrec.config.key import NOTHING, STEPS, Key
from recbole_dealrec.config.kind import (
    ANY,
    ANY_TEXT,
    COUNT,
    COUNT_OR_ZERO,
    FLAG,
    NAMES,
    NOT_NEGATIVE,
    PATTERNS,
    POSITIVE,
    RATIO,
    SHARE,
    TEXT,
    Kind,
    one_of,
    or_none,
)  # fmt: skip

if TYPE_CHECKING:
    from recbole_dealrec.config.configuration import Config

__all__ = [
    "ANY", "ANY_TEXT", "COUNT", "COUNT_OR_ZERO", "FLAG", "NAMES", "NOTHING", "NOT_NEGATIVE", "PATTERNS", "POSITIVE",
    "RATIO", "SHARE", "STEPS", "TEXT", "Config", "Key", "Kind", "one_of", "or_none",
]  # fmt: skip


def __getattr__(name: str):
    # RecBole's Config imports PyTorch, which the keys alone do not need.
    if name == "Config":
        from recbole_dealrec.compat import recbole_folder

        recbole_folder()  # raises InputError if RecBole is missing
        from recbole_dealrec.config.configuration import Config

        return Config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
