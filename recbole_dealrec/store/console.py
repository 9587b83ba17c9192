"""Terminal output of a run: few lines, and progress bars that disappear. RecBole's log file has everything."""

import logging
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from recbole_dealrec.errors import InputError

if TYPE_CHECKING:
    from recbole_dealrec.config import Config

# All messages of this logger are shown; of the other loggers only warnings, the rest goes to the log file.
CONSOLE = logging.getLogger("recbole_dealrec")
WIDTH = 100
_INDENT = " " * len("00:00:00 ")


def start_logging(config: "Config") -> None:
    """Start RecBole's logging to its file, and this package's to the terminal, after ending that of an earlier run.

    Args:
        config: reads ``state``, and ``verbose``, which shows the whole log in the terminal.

    Raises:
        InputError: the log file cannot be written.
    """
    # Imported here, because a conversion shows a bar without importing PyTorch.
    import colorama
    from colorama.ansitowin32 import StreamWrapper
    from recbole.utils import init_logger

    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "of_recbole", False)]:
        root.removeHandler(handler)
        handler.close()
    others = set(root.handlers)
    if isinstance(sys.stdout, StreamWrapper):
        colorama.deinit()  # RecBole would wrap the streams again in every run
    try:
        # RecBole asks whether the folder is there, then creates it; processes that start together collide there.
        Path("log", config["model"]).mkdir(parents=True, exist_ok=True)
        init_logger(config)
    except OSError as error:
        raise InputError(f"{Path('log').absolute()}: RecBole cannot write its log here ({error.strerror})") from error
    for handler in set(root.handlers) - others:
        if not config["verbose"] and not isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler = _Terminal(handler.level)
            root.addHandler(handler)
        handler.of_recbole = True
    logging.getLogger("httpx").setLevel(logging.WARNING)
    root.info(config)


def line_width() -> int:
    """Return the width of a line: that of the terminal, at most ``WIDTH``."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def progress_bar(iterable: Iterable | None = None, shown: bool = True, **options: Any) -> tqdm:
    """Return a progress bar as wide as the terminal, which disappears at its end; it is hidden without a terminal.

    Args:
        iterable: the iterable of the bar.
        shown: False for no bar.
        options: other arguments of ``tqdm``.
    """
    return tqdm(iterable, leave=False, dynamic_ncols=True, disable=None if shown else True, **options)


def shows_bars(config: "Config") -> bool:
    """Return whether other packages should also show their progress bars."""
    return config["show_progress"] and sys.stderr.isatty()


class _Terminal(logging.Handler):
    """Write this package's messages, and all warnings, as short lines above the progress bars."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.addFilter(lambda record: record.name == CONSOLE.name or record.levelno >= logging.WARNING)
        self.setFormatter(_Lines())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _Lines(logging.Formatter):
    """Time and message, in lines that fit the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.message}"
        if "\n" in text:
            return text  # a table
        return fill(text, line_width(), subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
