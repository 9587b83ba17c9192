"""What is shown in the terminal, what goes to the log file alone, and bars that go away."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from recbole_dealrec.store.console import CONSOLE, WIDTH, line_width, shows_bars, start_logging

LONG = "a sentence of words that is far longer than the line of a terminal " * 3


@pytest.fixture
def started(ten, tmp_path, monkeypatch):
    """``started(**keys)``: logging of a configuration is on, without pytest's; returns the log files so far."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    root = logging.getLogger()
    level = root.level

    def start(**keys):
        pytests = [handler for handler in root.handlers if not hasattr(handler, "of_recbole")]
        monkeypatch.setattr(root, "handlers", [handler for handler in root.handlers if handler not in pytests])
        start_logging(ten(**keys))
        return list(Path("log").rglob("*.log"))

    yield start
    for handler in [handler for handler in root.handlers if hasattr(handler, "of_recbole")]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def speak():
    logging.getLogger().info("chatter")
    logging.getLogger().warning("careful")
    CONSOLE.info("said")


def test_the_terminal_has_what_is_said_and_warnings_and_the_file_has_all(started, capsys):
    (file,) = started()
    speak()
    shown, kept = capsys.readouterr().err, file.read_text(encoding="utf-8")
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown.splitlines()] == ["warning: careful", "said"]
    assert all(text in kept for text in ("chatter", "careful", "said", "General Hyper Parameters", "checkpoint_dir = "))


def test_verbose_shows_all_that_the_file_has(started, capsys):
    (file,) = started(verbose=True)
    speak()
    shown, kept = (re.sub(r"\x1b\[\d*m", "", text) for text in (capsys.readouterr().err, file.read_text("utf-8")))
    assert all(text in shown for text in ("chatter", "careful", "said", "General Hyper Parameters"))
    assert len(shown.splitlines()) == len(kept.splitlines()) > 100


def test_the_state_of_the_log_is_that_of_the_terminal(started, capsys):
    started(state="WARNING")
    speak()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("warning: careful")


def test_a_second_run_in_a_process_says_everything_once(started, capsys):
    started()
    started()
    speak()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(("columns", "width"), [("", WIDTH), ("80", 80), ("120", WIDTH)])
def test_lines_are_as_wide_as_the_terminal_and_at_most_as_a_page(started, capsys, monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    started()
    CONSOLE.info(LONG)
    CONSOLE.info("a table\n" + "-" * 3 + " " * 120 + "-")
    *sentence, _, row = capsys.readouterr().err.splitlines()
    assert line_width() == width and width - 10 < max(map(len, sentence)) <= width
    assert "".join(sentence)[9:].split() == LONG.split() and all(line[:9].isspace() for line in sentence[1:])
    assert len(row) == 124  # as its writer laid it out


def test_no_bar_is_drawn_where_there_is_no_terminal():
    assert in_process(subprocess.PIPE) == b"end\n"


def test_a_bar_in_a_terminal_goes_away_and_lines_stand_above_it():
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    in_process(terminal)
    os.close(terminal)
    drawn = os.read(screen, 100_000).decode()
    os.close(screen)
    assert "counting" in drawn and "100%" not in drawn.rpartition("\r")[2]
    lines = [line.rpartition("\r")[2].rstrip() for line in drawn.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line] == ["between", "end"]


def in_process(stderr):
    """What a process writes to standard error that draws a bar."""
    program = (
        "import sys; from tqdm import tqdm; from recbole_dealrec.store.console import progress_bar\n"
        "for number in progress_bar(range(3), desc='counting', mininterval=0):\n"
        "    if number == 1 and sys.stderr.isatty(): tqdm.write('between', file=sys.stderr)\n"
        "print('end', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], stderr=stderr, check=True)
    return done.stderr


@pytest.mark.parametrize(("wanted", "terminal"), [(True, True), (True, False), (False, True)])
def test_other_packages_show_bars_in_a_terminal_alone(ten, monkeypatch, wanted, terminal):
    config = ten(show_progress=wanted)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert shows_bars(config) == (wanted and terminal)


def test_every_bar_is_made_in_one_place():
    package = Path(sys.modules["recbole_dealrec"].__file__).parent
    made = [file.name for file in package.rglob("*.py") if re.search(r"\bt(qdm|range)\(", file.read_text("utf-8"))]
    assert made == ["console.py"]


def test_another_process_creates_the_folder_while_recbole_asks_for_it(started, monkeypatch):
    exists = os.path.exists

    def slowly(path):
        there = exists(path)
        if str(path).startswith("./log"):
            os.makedirs(path, exist_ok=True)
        return there

    monkeypatch.setattr("recbole.utils.utils.os.path.exists", slowly)
    assert len(started()) == 1
