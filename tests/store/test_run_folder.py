"""Outputs of a run folder, which are there whole and unaltered, or not at all."""

import os

import pytest

from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder, check_outputs, intact_outputs


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
    assert "checksums.json: no longer JSON" in caplog.text


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    left = tmp_path / ".scores.csv.abc.scratch"
    left.mkdir()
    (left / "scores.csv").write_text("half")
    RunFolder(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("last_write", [1, 2, 3, 4])
def test_an_output_that_is_replaced_is_whole_whenever_it_is_interrupted(last_write, tmp_path, monkeypatch):
    write(RunFolder(tmp_path), "a.txt", "old")
    run, moves, replace = RunFolder(tmp_path), [], os.replace

    def interrupted(source, target):
        moves.append(target)
        if len(moves) == last_write:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    if last_write <= 3:
        with pytest.raises(KeyboardInterrupt):
            write(run, "a.txt", "new")
    else:
        write(run, "a.txt", "new")
    monkeypatch.setattr(os, "replace", replace)
    again = RunFolder(tmp_path)
    assert again.has("a.txt") and len(moves) == min(last_write, 3)
    assert (tmp_path / "a.txt").read_text() == ("old" if last_write <= 2 else "new")


def test_outputs_of_several_names_are_there_if_each_is(tmp_path):
    run = RunFolder(tmp_path)
    write(run, "a.txt", "whole")
    write(run, "b.txt", "whole")
    assert run.has("a.txt", "b.txt") and not run.has("a.txt", "c.txt")
    assert run.read_json("c.txt") is None and run.read_json("c.txt", {}) == {}


def test_unfinished_outputs_alone_are_discarded(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("a.txt", f"a.txt{UNFINISHED}", f"b.npz{UNFINISHED}"):
        write(run, name, "x")
    run.discard_unfinished()
    assert names(tmp_path) == ["a.txt", "checksums.json"]
    assert RunFolder(tmp_path).has("a.txt")


def test_a_folder_that_is_not_written_to_stays_as_it_is(tmp_path):
    write(RunFolder(tmp_path), "a.txt", "main")
    other = RunFolder(tmp_path, written=False)
    write(other, "a.txt", "thrown away")
    other.checksums = RunFolder(tmp_path).checksums
    other.discard("a.txt")
    assert (tmp_path / "a.txt").read_text() == "main" and not other.has("a.txt")
    assert RunFolder(tmp_path).has("a.txt")
    assert not RunFolder(tmp_path / "absent", written=False).path.exists()


def test_the_outputs_of_a_folder_are_read_without_opening_it(tmp_path):
    assert intact_outputs(tmp_path / "absent") == set()
    run = RunFolder(tmp_path)
    write(run, "a.txt", "whole")
    write(run, "b.txt", "whole")
    (tmp_path / "b.txt").write_text("altered")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert intact_outputs(tmp_path) == {"a.txt"}
    check_outputs(tmp_path, ["a.txt"])
    for name, message in (("c.txt", "the run is not finished, there is no c.txt yet"), ("b.txt", "b.txt: missing, or")):
        with pytest.raises(InputError, match=message):
            check_outputs(tmp_path, [name])
    with pytest.raises(InputError, match="absent: not a run folder"):
        check_outputs(tmp_path / "absent", ["a.txt"])
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / "checksums.json").write_text("{")
    assert intact_outputs(tmp_path) == set()
    with pytest.raises(InputError, match="checksums.json: no longer JSON"):
        check_outputs(tmp_path, ["a.txt"])


def test_an_interrupted_removal_leaves_no_file(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.output_json("x.json.unfinished", 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("recbole_dealrec.store.run_folder.write_json", killed)
        folder.discard_unfinished()
    again = RunFolder(tmp_path / "run")
    assert not again.has("x.json.unfinished") and [file.name for file in again.path.iterdir()] == ["checksums.json"]


def test_an_amended_output_keeps_what_it_had(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.output("weights") as path:
        path.mkdir()
        (path / "a.txt").write_text("a")
    with pytest.raises(ZeroDivisionError), folder.amended("weights") as path:
        (path / "b.txt").write_text("b")
        raise ZeroDivisionError
    assert [file.name for file in (folder / "weights").iterdir()] == ["a.txt"]
    with folder.amended("weights") as path:
        (path / "b.txt").write_text("b")
    again = RunFolder(tmp_path / "run")
    assert again.has("weights") and sorted(file.name for file in (again / "weights").iterdir()) == ["a.txt", "b.txt"]
