"""Interactions in Parquet against the same interactions in an atomic file."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_dealrec.data import load_splits
from recbole_dealrec.data.parquet_file import ParquetFile
from recbole_dealrec.errors import InputError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TIME = "timestamp:float"
COLUMNS = ["user_id", "item_id", "timestamp", "rating"]
START = 1_700_000_000_000_000_000  # nanoseconds, which float64 rounds


@pytest.fixture
def table():
    """120 interactions of 9 users; times tie, one row is repeated, one item has no title."""
    random = np.random.default_rng(1)
    rows = {
        "user_id:token": random.integers(100, 109, size=119),
        "item_id:token": random.integers(20, 34, size=119),
        TIME: START + random.integers(60, size=119),
        "rating:float": random.integers(1, 6, size=119) / 2,
        "tags:token_seq": ["a b"] * 119,
    }
    frame = pd.DataFrame(rows)
    return pd.concat([frame, frame[5:6]], ignore_index=True)


@pytest.fixture
def load(tmp_path, make_config):
    """``load(name, write, **keys)``: splits of a dataset whose interactions ``write(path)`` writes to a path."""

    def make(name, write, **keys):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        titles = [f"{item}\ttitle of {item}" for item in range(20, 33)]
        (folder / f"{name}.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles, ""]))
        write(folder / f"{name}.inter")
        keys = {"load_col": {"inter": COLUMNS, "item": ["item_id"]}, **keys}
        return load_splits(make_config(name, tmp_path, **keys))

    return make


def as_text(table):
    return lambda path: table.to_csv(path, sep="\t", index=False)


def as_parquet(table, columns=None):
    """Write a table of pyarrow, or a DataFrame; ``columns`` are stored otherwise."""
    written = pa.Table.from_pandas(table.assign(**(columns or {})), preserve_index=False)
    return lambda path: parquet.write_table(written, f"{path}.parquet", row_group_size=17)


STORED = {
    "numbers": lambda column: column,
    "texts": lambda column: column.astype(str),
    "large texts": lambda column: pd.array(column.astype(str), dtype=pd.ArrowDtype(pa.large_string())),
    "categories": lambda column: column.astype(str).astype("category"),
    "categories of numbers": lambda column: column.astype("category"),
}
KEYS = [
    {}, {"user_inter_num_interval": "[13,inf)"}, {"rm_dup_inter": "first"}, {"val_interval": {"rating": "[1,2]"}},
    {"load_col": None, "unload_col": {"inter": ["tags"]}},
    {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none", "order": "TO", "mode": "full"}},
]  # fmt: skip


def assert_equal(found, known):
    assert found.fingerprint == known.fingerprint
    left_out = ("n_read", "n_left_out", "n_untitled", "n_repeated", "n_rows", "span", "titles", "field2seqlen")
    for name in (*left_out, "field2type", "field2source", "field2bucketnum"):
        assert getattr(found.train, name) == getattr(known.train, name), name
    for part in ("train", "valid", "test"):
        ours, text = (getattr(splits, part) for splits in (found, known))
        assert list(ours.inter_feat) == list(text.inter_feat)
        for name in text.inter_feat:
            assert torch.equal(ours.inter_feat[name], text.inter_feat[name]), name
        for name, tokens in text.field2id_token.items():
            assert ours.field2id_token[name].tolist() == tokens.tolist()


@pytest.mark.parametrize("stored", STORED)
def test_tokens_however_stored_are_those_of_the_atomic_file(stored, table, load):
    columns = {name: STORED[stored](table[name]) for name in ("user_id:token", "item_id:token")}
    assert_equal(load("new", as_parquet(table, columns)), load("old", as_text(table)))


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_filters_and_splits_are_those_of_the_atomic_file(keys, table, load):
    known = load("old", as_text(table), **keys)
    assert_equal(load("new", as_parquet(table), **keys), known)
    assert known.train.n_repeated > 0 and known.train.n_untitled == 1


@pytest.mark.parametrize("kind", ["float64", "float32", "int16", "uint8"])
def test_times_of_any_number_are_those_of_the_atomic_file(kind, table, load):
    table[TIME] = (table[TIME] - START).astype(kind)
    assert_equal(load("new", as_parquet(table)), load("old", as_text(table)))


def test_equal_tokens_are_one_object(table, tmp_path):
    as_parquet(table, {"user_id:token": table["user_id:token"].astype(str)})(tmp_path / "t")
    tokens = ParquetFile(tmp_path / "t.parquet").frame(["user_id", "item_id"])
    for name in tokens:
        assert len({id(token) for token in tokens[name]}) == tokens[name].nunique()
        assert tokens[name].tolist() == table[f"{name}:token"].astype(str).tolist()


def changed(row, column, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


WRONG = {
    "row 4: user_id is empty": changed(3, "user_id:token", None),
    "row 120: timestamp is missing, or not a finite number": changed(119, TIME, None),
    "row 8: timestamp is missing, or not a finite number": lambda table: changed(7, TIME, np.inf)(
        table.astype({TIME: float})
    ),
    "no column 'item_id:token' \\(found user_id:token, item_id:float": lambda table: table.rename(
        columns={"item_id:token": "item_id:float"}
    ),
    "the header has 'mood'; write name:type": lambda table: table.assign(mood=1),
    "'timestamp:float' holds timestamp\\[ns\\]; store numbers": lambda table: table.assign(
        **{TIME: pd.to_datetime(table[TIME])}
    ),
    "'user_id:token' holds double; store texts or whole numbers": lambda table: table.astype({"user_id:token": float}),
    "holds no row": lambda table: table[:0],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named(message, table, load):
    with pytest.raises(InputError, match=f"new.inter.parquet.*{message}"):
        load("new", as_parquet(WRONG[message](table)))


def test_an_empty_token_is_named(table, load):
    columns = {"user_id:token": table["user_id:token"].astype(str).where(table.index != 2, "")}
    with pytest.raises(InputError, match="new.inter.parquet, row 3: user_id is empty"):
        load("new", as_parquet(table, columns))


def test_a_sequence_is_refused(table, load):
    with pytest.raises(InputError, match="'tags:token_seq' is no token or float; leave it out of load_col"):
        load("new", as_parquet(table), load_col=None)


def test_two_files_of_interactions_are_refused(table, load):
    as_both = lambda path: (as_text(table)(path), as_parquet(table)(path))  # noqa: E731
    with pytest.raises(InputError, match="new.inter.parquet: new.inter lies beside it; remove one"):
        load("new", as_both)


@pytest.mark.parametrize("kept", [0, 10, 2000, -9])
def test_a_damaged_file_is_named(kept, table, load):
    def cut(path):
        as_parquet(table)(path)
        file = path.with_name(f"{path.name}.parquet")
        content = bytearray(file.read_bytes())
        if kept == 2000:  # the values, not the end of the file, where the columns are named
            content[4:500] = bytes(496)
        file.write_bytes(content if kept == 2000 else content[:kept])

    with pytest.raises(InputError, match="new.inter.parquet: (not a Parquet file|cannot be read)"):
        load("new", cut)


def test_pyarrow_is_asked_for(table, load, monkeypatch):
    as_new = as_parquet(table)

    def write(path):
        as_new(path)
        monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(InputError, match="new.inter.parquet: reading Parquet needs pyarrow; pip install pyarrow"):
        load("new", write)
