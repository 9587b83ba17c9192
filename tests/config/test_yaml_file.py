"""YAML files: what is read, and what is refused."""

import pytest

from recbole_dealrec.config import Config
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError


def test_python_tags_in_yaml_are_refused(write_yaml, tmp_path):
    file = write_yaml("bad.yaml", f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(InputError, match="bad.yaml: not YAML"):
        Config("BIGRec", "ten", [file])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "part"), [("a: [1,", "not YAML"), ("- 1\n- 2\n", "found list"), ("just words", "found str")]
)
def test_a_broken_yaml_file_is_named(text, part, write_yaml):
    with pytest.raises(InputError, match=f"broken.yaml: .*{part}") as raised:
        Config("BIGRec", "ten", [write_yaml("broken.yaml", text)])
    assert "\n" not in str(raised.value)


def test_anchors_and_merges_are_read(write_yaml):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    one = {"x": 1, "y": 2}
    assert read_yaml(write_yaml("anchors.yaml", text)) == {"a": one, "b": {"x": 1, "y": 3}, "c": [one, one]}


def test_a_folder_is_no_yaml_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_yaml(tmp_path)


def test_a_yaml_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(InputError, match="binary.yaml"):
        read_yaml(tmp_path / "binary.yaml")


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.yaml: cannot be read"):
        Config("BIGRec", "ten", [str(tmp_path / "absent.yaml")])


def test_yaml_files_read_numbers_and_dates_as_recbole_does(write_yaml):
    text = "a: 1e-3\nb: 2024-10-11\nc: 5\nd: 1.5\ne: 1E5\nf:\n"
    expected = {"a": 0.001, "b": "2024-10-11", "c": 5, "d": 1.5, "e": 1e5, "f": None}
    assert read_yaml(write_yaml("x.yaml", text)) == expected
    assert read_yaml(write_yaml("empty.yaml", "# nothing\n")) == {}
