"""Files and folders that are written whole or not at all."""

import pytest

from recbole_dealrec.store.files import atomic_path, checksum, read_json, remove_scratch, write_json


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


def test_a_path_whose_parent_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), atomic_path(tmp_path / "file" / "folder" / "x"):
        pass


def test_a_checksum_is_that_of_names_and_contents(tmp_path):
    found = set()
    for number, files in enumerate([{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""}, {"a": "", "b": "1"}]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        found.add(checksum(folder))
        assert checksum(folder) == checksum(folder)
    assert len(found) == 5
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "a").write_text("1")
    assert checksum(tmp_path / "moved") == checksum(tmp_path / "0")
    assert checksum(tmp_path / "0" / "a") != checksum(tmp_path / "1" / "a")


def test_what_interrupted_writes_left_is_removed_and_nothing_else(tmp_path):
    left = tmp_path / ".scores.csv.abc.scratch"
    left.mkdir()
    (left / "scores.csv").write_text("half")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "whole.scratch").write_text("")
    remove_scratch(tmp_path)
    assert names(tmp_path) == [".lock", "whole.scratch"]
