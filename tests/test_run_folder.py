"""Outputs that are whole or absent, and stage times."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_dealrec import run_folder
from recbole_dealrec.store.run_folder import RunFolder, atomic_path, read_json, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "out.txt"
    with atomic_path(path) as scratch:
        scratch.write_text("whole")
        assert not path.exists() and scratch.parent != path.parent
    assert path.read_text() == "whole" and names(path.parent) == ["out.txt"]


def test_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_path(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["out.txt"]


def test_an_older_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "stale.bin").write_text("old")
    with atomic_path(path) as scratch:
        scratch.mkdir()
        (scratch / "fresh.bin").write_text("new")
        assert names(path) == ["stale.bin"]
    assert names(path) == ["fresh.bin"] and names(tmp_path) == ["adapter"]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_an_error_leaves_what_was_there_and_nothing_else(folder, older, tmp_path):
    path = tmp_path / "out"
    if older and folder:
        path.mkdir()
        (path / "part").write_text("old")
    elif older:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as scratch:
        if folder:
            scratch.mkdir()
            (scratch / "part").write_text("half")
        else:
            scratch.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["out"] if older else [])
    if older:
        assert (path / "part" if folder else path).read_text() == "old"


@pytest.mark.parametrize("folder", [False, True])
def test_a_block_that_writes_nothing_leaves_the_older_one(folder, tmp_path):
    path = tmp_path / "out"
    path.mkdir() if folder else path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert names(tmp_path) == ["out"]


def test_json_comes_back(tmp_path):
    content = {"a": [1, 2.5, None], "é": {"b": True}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert (tmp_path / "x.json").read_text(encoding="utf-8").endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_older_one(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"set": {1, 2}})
    assert read_json(tmp_path / "x.json") == 1 and names(tmp_path) == ["x.json"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(run_folder, "perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_a_stage_does_not_count_the_stages_inside(tmp_path, clock, caplog):
    caplog.set_level("INFO")
    run = RunFolder(tmp_path / "run")
    with run.stage("outer"):
        clock(1)
        with run.stage("first"):
            clock(2)
            with run.stage("innermost"):
                clock(4)
            clock(8)
        clock(16)
        with run.stage("second"):
            clock(32)
        clock(64)
    with run.stage("after"):
        clock(128)
    assert run.seconds == {"innermost": 4, "first": 10, "second": 32, "outer": 81, "after": 128}
    assert json.loads((tmp_path / "run" / "stages.json").read_text())["outer"]["used"] == {
        "innermost": 4,
        "first": 10,
        "second": 32,
    }
    assert caplog.messages[0] == "stage outer" and "stage first took 10.0 s" in caplog.messages


def test_a_failed_stage_is_not_kept_but_its_time_is_not_its_outers(tmp_path, clock):
    run = RunFolder(tmp_path / "run")
    with run.stage("outer"):
        clock(1)
        with pytest.raises(ValueError), run.stage("broken"):
            clock(2)
            raise ValueError
        clock(4)
    assert run.seconds == {"outer": 5}
    with run.stage("later"):
        clock(8)
    assert run.seconds == {"outer": 5, "later": 8}


def test_times_of_an_earlier_run_are_kept(tmp_path, clock):
    with RunFolder(tmp_path / "run").stage("one"):
        clock(1)
    again = RunFolder(tmp_path / "run")
    with again.stage("two"):
        clock(2)
    assert again.seconds == {"one": 1, "two": 2}
    with again.stage("one"):
        clock(3)
    assert RunFolder(tmp_path / "run").seconds == {"one": 3, "two": 2}


def test_a_stage_counts_what_an_interrupted_run_spent_on_what_it_goes_on_from(tmp_path, clock):
    first, second = (f"{name}{run_folder.UNFINISHED}" for name in ("first", "second"))

    def interrupted():
        run = RunFolder(tmp_path / "run")
        with run.stage("outer"), run.stage("long"):
            run.go_on_from(first)
            run.go_on_from(second)
            clock(1)
            run.output_json(first, "half")
            with run.stage("inside"):
                clock(2)
            clock(4)
            run.output_json(second, "more")
            clock(8)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    run = RunFolder(tmp_path / "run")
    with run.stage("outer"):
        clock(16)
        with run.stage("long"):
            run.go_on_from(second)
            run.go_on_from(first)
            clock(32)
    assert run.seconds == {"inside": 2, "long": 2 * (1 + 4) + 32, "outer": 16}
    with run.stage("long"):
        clock(64)
    assert run.seconds["long"] == 64
    run.discard_unfinished()
    with run.stage("long"):
        run.go_on_from(second)
        clock(128)
    assert run.seconds["long"] == 128
    assert not list(run.path.glob(f"*{run_folder.UNFINISHED}"))


def test_real_time(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.stage("sleep"):
        time.sleep(0.05)
    assert 0.05 <= run.seconds["sleep"] < 2


def test_paths_are_inside(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    assert run / "scores.csv" == tmp_path / "a" / "b" / "scores.csv" and (tmp_path / "a" / "b").is_dir()


def write(run, name, text):
    with run.output(name) as path:
        path.write_text(text)


def test_an_output_is_known_to_the_next_one_who_opens_the_folder(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.has("a.txt")
    write(run, "a.txt", "whole")
    with run.output("adapter") as folder:
        folder.mkdir()
        (folder / "weights").write_text("w")
    again = RunFolder(tmp_path)
    assert run.has("a.txt") and again.has("a.txt") and again.has("adapter")
    again.discard("a.txt")
    again.discard("a.txt")
    assert not again.has("a.txt") and not (tmp_path / "a.txt").exists() and not RunFolder(tmp_path).has("a.txt")


ALTERATIONS = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize("name", ["a.txt", "adapter"])
def test_an_altered_output_is_said_and_not_used(alteration, name, tmp_path, caplog):
    run = RunFolder(tmp_path)
    write(run, "a.txt", "whole")
    write(run, "b.txt", "other")
    with run.output("adapter") as folder:
        folder.mkdir()
        (folder / "weights").write_text("weights")
        (folder / "keys").write_text("keys")
    ALTERATIONS[alteration](tmp_path / name / "weights" if name == "adapter" else tmp_path / name)
    again = RunFolder(tmp_path)
    assert not again.has(name) and again.has("b.txt")
    (message,) = caplog.messages
    assert message == f"{tmp_path / name}: missing, or altered since it was written; it is computed again"
    write(again, "a.txt", "anew")
    assert RunFolder(tmp_path).has("a.txt")


def test_a_file_in_a_folder_that_was_added_or_renamed_is_an_alteration(tmp_path):
    run = RunFolder(tmp_path)
    with run.output("adapter") as folder:
        folder.mkdir()
        (folder / "weights").write_text("weights")
    (tmp_path / "adapter" / "weights").rename(tmp_path / "adapter" / "other")
    assert not RunFolder(tmp_path).has("adapter")
    (tmp_path / "adapter" / "other").rename(tmp_path / "adapter" / "weights")
    assert RunFolder(tmp_path).has("adapter")
    (tmp_path / "adapter" / "more").write_text("")
    assert not RunFolder(tmp_path).has("adapter")


def test_a_file_without_a_checksum_is_not_used(tmp_path):
    (tmp_path / "a.txt").write_text("who knows")
    assert not RunFolder(tmp_path).has("a.txt") and (tmp_path / "a.txt").exists()


def test_broken_checksums_cost_the_outputs_not_the_run(tmp_path, caplog):
    write(RunFolder(tmp_path), "a.txt", "whole")
    (tmp_path / "checksums.json").write_text("{")
    assert not RunFolder(tmp_path).has("a.txt")
    assert "checksums.json: not JSON any more" in caplog.text


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    left = tmp_path / ".scores.csv.abc.scratch"
    left.mkdir()
    (left / "scores.csv").write_text("half")
    RunFolder(tmp_path)
    assert names(tmp_path) == []


def test_unknown_costs_are_not_a_number(tmp_path):
    assert math.isnan(RunFolder(tmp_path).cost("selection"))


@pytest.mark.parametrize("last_write", [1, 2, 3, 4])
def test_an_output_that_is_replaced_is_whole_whenever_it_is_interrupted(last_write, tmp_path, monkeypatch):
    write(RunFolder(tmp_path), "a.txt", "old")
    run, moves, replace = RunFolder(tmp_path), [], run_folder.os.replace

    def interrupted(source, target):
        moves.append(target)
        if len(moves) == last_write:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(run_folder.os, "replace", interrupted)
    if last_write <= 3:
        with pytest.raises(KeyboardInterrupt):
            write(run, "a.txt", "new")
    else:
        write(run, "a.txt", "new")
    monkeypatch.setattr(run_folder.os, "replace", replace)
    again = RunFolder(tmp_path)
    assert again.has("a.txt") and len(moves) == min(last_write, 3)
    assert (tmp_path / "a.txt").read_text() == ("old" if last_write <= 2 else "new")


HOLDER = """
import sys, time
from pathlib import Path
from recbole_dealrec.store.run_folder import RunFolder
with RunFolder.opened(Path(sys.argv[1])) as run:
    print("open", flush=True)
    time.sleep(1.5)
    run.output_json("held.json", 1)
"""


def hold(folder):
    """A process that has opened the folder; it works from the checkout, so that the package is found."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout.readline() == b"open\n"
    return process


def test_a_second_process_waits_for_the_first(tmp_path, caplog):
    caplog.set_level("INFO")
    with hold(tmp_path / "run"), RunFolder.opened(tmp_path / "run") as second:
        assert second.has("held.json")
    assert caplog.messages[0] == f"another process works in {tmp_path / 'run'}; waiting until it ends"


def test_a_killed_process_holds_no_lock(tmp_path):
    with hold(tmp_path) as first:
        first.kill()
    with RunFolder.opened(tmp_path) as run:
        assert not run.has("held.json")


def test_a_process_that_is_not_the_main_one_writes_only_to_a_folder_of_its_own(tmp_path):
    main = RunFolder(tmp_path)
    other = RunFolder(tmp_path, written=False)
    write(main, "a.txt", "main")
    write(other, "a.txt", "thrown away")
    write(other.own, "b.unfinished", "kept")
    assert (tmp_path / "a.txt").read_text() == "main" and not other.has("a.txt")
    assert RunFolder(tmp_path, written=False).own.has("b.unfinished")
    main.discard_unfinished()
    other.discard_unfinished()
    assert not other.own.has("b.unfinished")
    assert main.own is main


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        with atomic_path(tmp_path / "file" / "folder" / "x"):
            pass
