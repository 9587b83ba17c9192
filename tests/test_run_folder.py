"""Outputs that are whole or absent, and stage times."""

import json
import time

import pytest

from recbole_dealrec import run_folder
from recbole_dealrec.run_folder import RunFolder, atomic_path, read_json, write_json


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


def test_real_time(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.stage("sleep"):
        time.sleep(0.05)
    assert 0.05 <= run.seconds["sleep"] < 2


def test_paths_are_inside(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    assert run / "scores.csv" == tmp_path / "a" / "b" / "scores.csv" and (tmp_path / "a" / "b").is_dir()
