"""Rows whose histories are slices, against the padded rows that RecBole makes of the same data."""

import hashlib
from logging import getLogger

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset as RecBoleSequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_dealrec.data import load_splits, splits
from recbole_dealrec.data.sliced_rows import prefix_rows

HEADER = "user_id:token\titem_id:token\ttimestamp:float\trating:float\tplace:token\ttags:token_seq"
COLUMNS = ["user_id", "item_id", "timestamp", "rating", "place", "tags"]


@pytest.fixture
def clicks(tmp_path, make_config):
    """``clicks(**keys)``: 80 interactions of 7 users in no order of time, with columns of each type."""
    random = np.random.default_rng(5)
    users, items = random.integers(7, size=80), random.integers(12, size=80)
    rows = [
        f"u{user}\ti{item}\t{time}\t{random.integers(1, 6)}\tp{random.integers(3)}\tt{item % 3} t{item % 5} t9"
        for user, item, time in zip(users, items, random.permutation(80), strict=True)
    ]
    folder = tmp_path / "clicks"
    folder.mkdir()
    (folder / "clicks.inter").write_text("\n".join([HEADER, *rows, ""]))
    titles = [f"i{item}\ttitle of {item}" for item in range(12)]
    (folder / "clicks.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles, ""]))
    return lambda **keys: make_config("clicks", tmp_path, load_col={"inter": COLUMNS, "item": ["item_id"]}, **keys)


def assert_same(ours, padded):
    """Interactions are equal to the bit; the time, a place in the time order here, is in another type."""
    assert set(ours.columns) == set(padded.columns) and len(ours) == len(padded)
    for name in padded.columns:
        known = padded[name].int() if name.startswith("timestamp") else padded[name]
        assert ours[name].dtype == known.dtype and torch.equal(ours[name], known), name


def assert_as_recbole(config):
    splits = load_splits(config)
    plain = RecBoleSequentialDataset(config)
    for ours, padded in zip((splits.train, splits.valid, splits.test), plain.build(), strict=True):
        assert_same(ours.inter_feat, padded.inter_feat)
        rows = np.random.default_rng(0).permutation(len(padded))[:5]
        assert type(ours[rows]) is Interaction
        assert_same(ours[rows], padded[rows])
        assert_same(ours[1:4], padded[1:4])
        for name, tokens in plain.field2id_token.items():
            assert ours.field2id_token[name].tolist() == tokens.tolist()


SPLITS = [
    {"LS": "valid_and_test"}, {"RS": [0.6, 0.2, 0.2], "group_by": "user"}, {"RS": [0.6, 0.2, 0.2], "group_by": "none"},
    {"TS": [0.6, 0.2, 0.2]},
]  # fmt: skip


@pytest.mark.parametrize("longest", [3, 50])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_rows_of_every_split_are_those_of_recbole(split, longest, clicks):
    group = split.get("group_by", "user")
    split = {name: value for name, value in split.items() if name != "group_by"}
    eval_args = {"split": split, "group_by": group, "order": "TO", "mode": "full"}
    assert_as_recbole(clicks(eval_args=eval_args, MAX_ITEM_LIST_LENGTH=longest))


FILTERS = [
    {"user_inter_num_interval": "[9,inf)", "item_inter_num_interval": "[5,inf)"}, {"rm_dup_inter": "last"},
    {"val_interval": {"rating": "[2,5)"}}, {"unused_col": {"inter": ["timestamp", "rating"]}},
    {"numerical_features": ["rating"], "normalize_field": ["rating"]}, {"LIST_SUFFIX": "_past"},
]  # fmt: skip


@pytest.mark.parametrize("keys", FILTERS, ids=str)
def test_rows_after_every_filter_are_those_of_recbole(keys, clicks):
    assert_as_recbole(clicks(**keys))


def test_rows_of_benchmark_files_are_those_of_recbole(split):
    assert_as_recbole(split())


KINDS = {"user": FeatureType.TOKEN, "time": FeatureType.FLOAT, "item": FeatureType.TOKEN, "tags": FeatureType.TOKEN_SEQ}


def padded_by_recbole(interactions, longest):
    """The rows that RecBole's ``data_augmentation`` makes."""
    bare = RecBoleSequentialDataset.__new__(RecBoleSequentialDataset)
    bare.config = {"MAX_ITEM_LIST_LENGTH": longest, "LIST_SUFFIX": "_list", "numerical_features": []}
    bare.max_item_list_len, bare.item_list_length_field, bare.logger = longest, "length", getLogger()
    bare.uid_field, bare.time_field = "user", "time"
    bare.field2type, bare.field2source, bare.field2seqlen = dict(KINDS), {}, {**dict.fromkeys(KINDS, 1), "tags": 2}
    bare.inter_feat = Interaction(dict(interactions.interaction))
    bare.data_augmentation()
    return bare.inter_feat


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_prefixes_are_those_of_recbole(drawn, longest, random):
    user, item, tag = map(torch.tensor, zip(*sorted(drawn, key=lambda row: row[0]), strict=True))
    time = torch.arange(len(user), dtype=torch.float32)
    interactions = Interaction({"user": user, "time": time, "item": item, "tags": torch.stack([tag, item], dim=1)})
    names = {name: f"{name}_list" for name in ("time", "item", "tags")}
    rows = prefix_rows(interactions, "user", "length", names, longest)
    if len(rows) == 0:
        assert len(set(user.tolist())) == len(user)
        return
    expected = padded_by_recbole(interactions, longest)
    index = random.choices(range(len(rows)), k=7)
    places = torch.arange(longest) == expected["length"][:, None] - 1
    assert torch.equal(rows.latest("item_list"), expected["item_list"][places])
    for found, known in [(rows[index], expected[index]), (rows, expected)]:
        assert set(found.columns) == set(known.columns) and len(found) == len(known)
        for name in known.columns:
            assert found[name].dtype == known[name].dtype and torch.equal(found[name], known[name]), name


def test_slices_are_changed_as_recbole_changes_rows(clicks):
    rows = load_splits(clicks()).train.inter_feat
    padded = rows.padded()
    for feat in (rows, padded):
        feat.sort(by=["rating", "item_id"])
        feat.drop("place_list")
        feat["place"] = feat["place"] + 1
    assert "place_list" not in rows and list(rows) == list(padded)
    for found in (rows, rows.to("cpu"), rows[rows["rating"] > 0], Interaction({**rows.interaction})):
        assert all(torch.equal(found[name], padded[name]) for name in padded)
    with pytest.raises(ValueError, match="place_list"):
        rows.drop("place_list")


def test_a_history_that_is_read_is_kept(clicks):
    rows = load_splits(clicks()).train.inter_feat
    assert rows["item_id_list"] is rows["item_id_list"]
    assert rows[:3]["item_id_list"] is not rows[:3]["item_id_list"]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_fingerprint_is_that_of_padded_histories(at_once, clicks, monkeypatch):
    monkeypatch.setattr(splits, "_ROWS_HASHED", at_once)
    parts = load_splits(clicks())
    known = hashlib.sha256()
    for part in (parts.train, parts.valid, parts.test):
        for name in ("user_id", "item_id", "timestamp", "item_id_list"):
            known.update(part.inter_feat.padded()[name].numpy().tobytes())
    known.update("\n".join([*parts.train.field2id_token["item_id"], *parts.train.titles]).encode())
    assert parts.fingerprint == known.hexdigest()


def size(parts):
    """Bytes of the tensors of parts, each once."""
    sources = [part.inter_feat.interaction for part in parts]
    tensors = [
        tensor for part in sources for tensor in (*part.columns.values(), *part.flat.values(), part.start, part.size)
    ]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.parametrize("longest", [5, 50])
def test_a_row_takes_the_same_memory_whatever_the_histories(longest, movies):
    splits = load_splits(movies(MAX_ITEM_LIST_LENGTH=longest))
    parts = splits.train, splits.valid, splits.test
    splits.fingerprint, splits.train.item_counts  # noqa: B018
    rows = splits.train.n_rows
    # User, item, time, length and two numbers of a slice for each row; item and time of each interaction.
    assert size(parts) <= rows * (8 + 8 + 4 + 8 + 8 + 8 + 8 + 4)
    padded = sum(values.nbytes for part in parts for values in part.inter_feat.padded().interaction.values())
    assert padded > rows * 8 * longest
