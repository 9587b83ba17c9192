import ast
import os
import pickle
import stat
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import recbole_dealrec
from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.data.convert.npy import read_object
from recbole_dealrec.data.download.archive import unpack
from recbole_dealrec.errors import InputError

SOURCES = sorted(Path(recbole_dealrec.__file__).parent.rglob("*.py"))
FORBIDDEN = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load", "full_load"}


def calls(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
            yield name, owner, {keyword.arg: keyword.value for keyword in node.keywords}, node.args


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_that_is_read_can_run(source):
    text = source.read_text(encoding="utf-8")
    assert "import pickle" not in text or source.name == "npy.py"  # which admits no class that does anything
    assert "allow_pickle=True" not in text
    for name, owner, keywords, args in calls(source):
        # model.eval() has no argument.
        assert name not in FORBIDDEN or (name == "eval" and not args) or owner == "re", name
        if (owner, name) == ("torch", "load"):
            assert keywords["weights_only"].value is True
        if (owner, name) == ("yaml", "load"):
            assert keywords["Loader"].id == "YamlLoader"


def test_hostile_names_are_text_in_everything_that_is_written(write_dataset, tmp_path):
    users, items = ["=1+1", "<b>u</b>", "../u", "{u}"], ["@x", "<script>i</script>", "%s", "/etc/i", "i5", "i6"]
    sequences = {user: items[place:] + items[:place] for place, user in enumerate(users)}
    titles = {item: f"<img src=x> {{history}} {item} =1+1" for item in items}
    path = write_dataset("hostile", sequences, titles)
    keys = {
        "data_path": str(path), "checkpoint_dir": str(tmp_path / "saved"), "show_progress": False, "use_gpu": False,
        "n_fewshot": 2, "tiny_steps": 5, "epochs": 1, "topk": [2], "num_beams": 2,
    }  # fmt: skip
    result = run_recbole_dealrec(dataset="hostile", sampler="Random", config_dict=keys)
    folder = Path(result["run_dir"])
    assert "\n=1+1," in (folder / "scores.csv").read_text(encoding="utf-8")
    report = (folder / "report.html").read_text(encoding="utf-8")
    shown = report.split("<body>")[1]  # plotly's script stands before it
    assert "<img" not in shown and "<script>i" not in shown and "&lt;img" in shown and "&lt;b&gt;u" in shown
    assert "{history}" in (folder / "fewshot.jsonl").read_text(encoding="utf-8")
    assert {path.name.split("-")[0] for path in (tmp_path / "saved").iterdir()} <= {"hostile", "latest", "tiny"}


class Calls:
    """Pickles as a call of a function, as a hostile file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "posix.mkdir": lambda mark: Calls(os.mkdir, str(mark)),
    "builtins.eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.getattr": lambda mark: Calls(getattr, "", "join"),
    "numpy.load": lambda mark: Calls(np.load, str(mark)),
    "numpy.memmap": lambda mark: Calls(np.memmap, str(mark), "u1", "w+", 0, (1,)),
    "pathlib": lambda mark: mark,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_numpy_file_cannot_run_anything(name, tmp_path):
    value = {"seqid2title": {"1": "A title", "2": HOSTILE[name](tmp_path / "mark")}}
    file = tmp_path / "title_maps.npy"
    np.save(file, value, allow_pickle=True)
    with pytest.raises(InputError, match="only containers, strings and arrays are allowed"):
        read_object(file)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("version", [3, 4])
def test_a_numpy_file_of_containers_texts_and_arrays_is_read(version, tmp_path):
    value = {
        "titles": {"1": "A", 2: ["b", ("c", None, 1.5)]},
        "ordered": OrderedDict(a=1),
        "array": np.arange(6).reshape(2, 3),
        "one": np.int64(3),
    }
    file = tmp_path / "title_maps.npy"
    array = np.empty((), object)
    array[()] = value
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, stream, protocol=version)
    read = read_object(file)
    assert read["titles"] == value["titles"] and read["one"] == 3 and read["ordered"] == {"a": 1}
    np.testing.assert_array_equal(read["array"], value["array"])


@pytest.mark.parametrize("size", [0, 5, 60, 130, 200])
def test_a_damaged_numpy_file_is_told(size, tmp_path):
    np.save(tmp_path / "whole.npy", {"titles": {str(number): "A title" for number in range(20)}})
    file = tmp_path / "cut.npy"
    file.write_bytes((tmp_path / "whole.npy").read_bytes()[:size])
    with pytest.raises(InputError, match="cut.npy: not a readable NumPy file"):
        read_object(file)


def test_a_plain_array_is_no_object(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(InputError, match="holds an array of int64, not one object"):
        read_object(tmp_path / "array.npy")


@pytest.fixture
def archive(tmp_path):
    """``archive(*members)``: a zip archive of (name or ZipInfo, content), in a folder of its own."""
    file = tmp_path / "downloads" / "data.zip"
    file.parent.mkdir()

    def make(*members):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members:
                opened.writestr(name, content)
        return file

    return make


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../x.inter", "a"), "a path outside its folder"),
        (("data/../../x.inter", "a"), "a path outside its folder"),
        (("/tmp/x.inter", "a"), "a path outside its folder"),
        (("..\\x.inter", "a"), "a path outside its folder"),
        (("C:\\x.inter", "a"), "a path outside its folder"),
        ((link("x.inter"), "/etc/passwd"), "a link"),
        (("x.inter", "0" * 10_000_000), "over 200 times its own size"),
    ],
)
def test_an_archive_is_looked_at_before_it_is_unpacked(member, message, archive, tmp_path):
    file = archive(("y.item", "good"), member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        unpack(file, {".item": tmp_path / "y.item"})
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_larger_than_the_disk_is_not_unpacked(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 10}))
    with pytest.raises(InputError, match="unpacks to 11 bytes, but only 10 are free on the disk"):
        unpack(archive(("y.item", "hello world")), {".item": tmp_path / "y.item"})
    assert not (tmp_path / "y.item").exists()


def test_a_damaged_member_is_told(archive, tmp_path):
    text = "".join(map(str, range(2000)))
    file = archive(("y.item", text))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(InputError, match="data.zip: a damaged or unreadable archive"):
        unpack(file, {".item": tmp_path / "y.item"})


def test_an_archive_is_unpacked_where_it_is_told(archive, tmp_path):
    file = archive(("data/", ""), ("data/y.item", "titles"), ("__MACOSX/._y.item", "x"), ("data/run.sh", "rm"))
    unpack(file, {".item": tmp_path / "mine.item"})
    assert (tmp_path / "mine.item").read_text() == "titles"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads", "mine.item"]
