"""Whatever is read: a value or an InputError of one line, never anything else, and soon."""

import contextlib
import gzip
import io
import json
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line, parse_value
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data import SequentialDataset
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.convert import convert
from recbole_dealrec.data.convert.npy import read_object
from recbole_dealrec.data.download.archive import unpack
from recbole_dealrec.data.title import read_titles
from recbole_dealrec.errors import InputError

SCRIPT = Path(__file__).parents[1] / "run_recbole_dealrec.py"
KEYS = sorted({key for file in properties_folder().glob("**/*.yaml") for key in read_yaml(file)})


def fuzzed(max_examples):
    """Settings of a test whose examples share the test's folder, which each of them overwrites."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=shared)


def one_line(read):
    """What ``read`` gives, or None and a check that its error is one printable line."""
    try:
        return read()
    except InputError as error:
        assert str(error) and str(error).isprintable()
        return None


# Pieces that mean something to the readers, and any bytes between them.
pieces = [
    b"item_id:token", b"user_id:token", b"title:token_seq", b"timestamp:float", b"\t", b"\t", b"\n", b"\n", b"\r\n",
    b"\r", b"i1", b"u1", b"1e9", b"-", b"nan", b"NA", b'"', b"\0", b"\xff", b"\xef\xbb\xbf", "\u202e\u2028é".encode(),
]  # fmt: skip
contents = st.lists(st.sampled_from(pieces) | st.binary(max_size=3), max_size=30).map(b"".join)
HEADER = b"user_id:token\titem_id:token\ttimestamp:float\n"


@fuzzed(300)
@given(contents, st.booleans())
@example(b"", True)
def test_titles(tmp_path, content, with_header):
    file = tmp_path / "x.item"
    file.write_bytes(b"item_id:token\ttitle:token_seq\n" * with_header + content)
    titles = one_line(lambda: read_titles(AtomicFile(file), "item_id", "title"))
    assert titles is None or all(title and title == " ".join(title.split()) for title in titles.values())


@fuzzed(300)
@given(contents, st.booleans())
def test_interactions_that_pass_have_one_number_of_columns(tmp_path, content, with_header):
    file = AtomicFile(tmp_path / "x.inter")
    file.path.write_bytes(HEADER * with_header + content)
    passed = one_line(lambda: file.check_rows({"user_id": "token", "timestamp": "float"}) or True)
    if passed:
        assert {len(row) for _, row in file.rows()} == {len(file.columns())}
        one_line(lambda: file.check_numbers("timestamp"))


TITLED = ("i1", "i 1", "\x1c", "i#")
whole_rows = st.lists(
    st.sampled_from([b"u1\ti1\t7\n", b"u\xc2\x85\ti 1\t-1e3\r\n", b"\n", b"u'\t\x1c\t 8\n", b'u"\ti#\t.5\n'])
).map(b"".join)


@pytest.fixture
def interactions(tmp_path, make_config):
    """``interactions(content)``: users, items and times of a dataset of these bytes, as RecBole has read them."""
    folder = tmp_path / "x"
    folder.mkdir()
    titles = "".join(f"{item}\tOne\n" for item in TITLED)
    (folder / "x.item").write_text(f"item_id:token\ttitle:token_seq\n{titles}")
    config = make_config("x", tmp_path)

    def read(content):
        (folder / "x.inter").write_bytes(content)
        dataset = SequentialDataset(config)
        names = ("user_id", "item_id")
        tokens = [dataset.field2id_token[name][dataset.inter_feat[name]] for name in names]
        return list(zip(*tokens, dataset.inter_feat["timestamp"], strict=True))

    return read


@fuzzed(150)
@given(contents | whole_rows)
def test_interactions_that_pass_are_read_row_by_row(tmp_path, interactions, content):
    read = one_line(lambda: interactions(HEADER + b"u1\ti1\t1\n" + content))
    if read is not None:
        rows = [row for _, row in AtomicFile(tmp_path / "x" / "x.inter").rows()][1:]
        assert read == [(user, item, float(time)) for user, item, time in rows if item in TITLED]


yaml_pieces = st.sampled_from([
    "a", "b", "topk", ": ", ":", "- ", "\n", "\n  ", "&a ", "*a", "[", "]", "{", "}", ", ", "!!int ", "!!bool ",
    "!!set ", "!!python/name:os.system ", "<<: ", "? ", "| ", "> ", "'", '"', "#", "%", "---", "1", "0x", "1e3", ".nan",
    "~", "\\",
])  # fmt: skip
yaml_texts = st.lists(yaml_pieces | st.text(max_size=3), max_size=25).map("".join)


@fuzzed(500)
@given(yaml_texts)
@example("a: !!timestamp x")
@example("a: 0b_")
def test_yaml_files(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    content = one_line(lambda: read_yaml(tmp_path / "x.yaml"))
    assert content is None or isinstance(content, dict)


@fuzzed(300)
@given(st.binary(max_size=60))
def test_yaml_files_of_bytes(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    read = one_line(lambda: read_yaml(tmp_path / "x.yaml"))
    assert read is None or isinstance(read, dict)


# Of YAML and of Python's literals.
PLAIN = {str, bytes, bool, int, float, complex, list, tuple, set, dict, type(...)}


@fuzzed(500)
@given(yaml_texts | st.text())
@example("1" * 5000)
@example("(" * 1000)
def test_values(text):
    value = parse_value(text)
    assert value is None or type(value) in PLAIN


options = ["--seed", "--seed=1", "--topk=[", "--", "-x", "--=", "1", "=", "--a=b=c"]
words = st.lists(st.sampled_from(options) | st.text())


@fuzzed(300)
@given(words)
def test_command_lines(arguments):
    parsed = one_line(lambda: parse_command_line(arguments))
    assert parsed is None or all(isinstance(key, str) for key in parsed)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@fuzzed(100)
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=2))
def test_values_of_keys(tmp_path, keys):
    given = {"data_path": str(tmp_path), "use_gpu": False, **keys}
    config = one_line(lambda: Config("BIGRec", "ten", config_dict=given))
    assert config is None or keys.keys() <= config.final_config_dict.keys()


keys_and_values = st.sampled_from(KEYS).flatmap(lambda key: yaml_texts.map(lambda value: f"--{key}={value}"))
plain = ["-d", "--dataset", "-m", "TIGER", "BIGRec", "-s", "Random,CCS", "--seeds=1,2", "--seeds=x", "--sampler", "a b"]


@fuzzed(150)
@given(st.lists(keys_and_values | st.sampled_from(plain) | st.text(max_size=4), min_size=1, max_size=3))
def test_the_command_line_as_a_whole(tmp_path, arguments):
    """There is no such dataset, so that each run ends where work would begin."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [str(SCRIPT), f"--data_path={tmp_path}", *arguments, "-d", "absent"])
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = errors.getvalue().splitlines()
    helped = ended.value.code == 0 and {"-h", "--help"} & set(arguments)
    assert helped or ended.value.code == 2 and "error: " in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not (tmp_path / "saved").exists()


def converted(source, folder):
    """What a conversion counts, if it passes: then its files are whole; if it does not, nothing is left."""
    shutil.rmtree(folder, ignore_errors=True)
    summary = one_line(lambda: convert(source, folder))
    if summary is None:
        assert not folder.exists() and not list(folder.parent.glob(f".{folder.name}.*"))
        return
    inter, item = AtomicFile(folder / f"{folder.name}.inter"), AtomicFile(folder / f"{folder.name}.item")
    inter.check_rows({"user_id": "token", "item_id": "token", "timestamp": "float"})
    inter.check_numbers("timestamp")
    assert len(list(inter.rows())) == summary.interactions + 1
    tokens = [row[0] for _, row in list(item.rows())[1:]]
    assert len(tokens) == summary.items and set(read_titles(item, "item_id", "title")) <= set(tokens)


cells = st.sampled_from(
    [b"u1", b"i1", b"7", b"1e400", b"-1.5", b"", b'"', b'"a, b"', b"\0", b"\xff", b"NA", b"\r", b"\t", b" "]
)
csv_lines = st.lists(st.lists(cells, min_size=3, max_size=5).map(b",".join) | st.binary(max_size=8), max_size=6)


@fuzzed(300)
@given(csv_lines, st.booleans())
@example([b"u,i,1,\xc2\x85A\xe2\x80\xa8B"], True)
def test_conversion_of_csv(tmp_path, lines, with_header):
    file = tmp_path / "shop.csv"
    file.write_bytes(b"\n".join([b"user,item,time,title"] * with_header + [b"u,i,1,A"] * with_header + lines))
    converted(file, tmp_path / "shop")


REVIEW = {"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 1}
json_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400) | st.just([1])
)
reviews = st.lists(
    st.dictionaries(st.sampled_from(sorted(REVIEW)), json_values).map(lambda keys: {**REVIEW, **keys}), max_size=4
)


@fuzzed(200)
@given(reviews, json_values, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=2))
def test_conversion_of_json_lines(tmp_path, reviews, title, damages):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    content = bytearray(gzip.compress("\n".join(map(json.dumps, [REVIEW, *reviews])).encode()))
    for place, value in damages:
        content[place % len(content)] = value
    (source / "a.json.gz").write_bytes(content)
    (source / "meta.json").write_text(json.dumps({"asin": "i", "title": title}) + '\n{"asin": "i", "title": "A"}')
    converted(source, tmp_path / "shop")


@fuzzed(300)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3), st.integers(0, 10_000))
def test_numpy_files(tmp_path, damages, size):
    file = tmp_path / "maps.npy"
    np.save(file, {"seqid2title": {"1": "A"}, "array": np.arange(3)})
    content = bytearray(file.read_bytes())
    for place, value in damages:
        content[place % len(content)] = value
    file.write_bytes(content[: max(size % (2 * len(content)), 1)])
    value = one_line(lambda: read_object(file))
    assert value is None or isinstance(value, dict | list | tuple | set | str | bytes | int | float | np.ndarray)


@fuzzed(300)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_archives(tmp_path, damages):
    file = tmp_path / "data.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.inter", "some text " * 20)
        archive.writestr("x.item", "more")
    content = bytearray(file.read_bytes())
    for place, value in damages:
        content[place % len(content)] = value
    file.write_bytes(content)
    unpacked = {".inter": tmp_path / "y.inter", ".item": tmp_path / "y.item"}
    done = one_line(lambda: [unpack(file, unpacked)])
    if done:
        assert [path.read_text() for path in unpacked.values()] == ["some text " * 20, "more"]
