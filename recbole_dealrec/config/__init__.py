"""Configuration: RecBole's Config with this package's keys, one row for each, and the keys that others declare."""

from recbole_dealrec.config.configuration import Config
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

__all__ = [
    "ANY", "ANY_TEXT", "COUNT", "COUNT_OR_ZERO", "FLAG", "NAMES", "NOTHING", "NOT_NEGATIVE", "PATTERNS", "POSITIVE",
    "RATIO", "SHARE", "STEPS", "TEXT", "Config", "Key", "Kind", "one_of", "or_none",
]  # fmt: skip
