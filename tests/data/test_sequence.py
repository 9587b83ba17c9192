"""Rows that cover all targets, and item counts, against plain loops."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.sequence import covering_rows, item_counts
from recbole_dealrec.data.sliced_rows import SlicedRows

FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
}
N_ITEMS = 5


def dataset_of(rows, longest):
    """A training part of rows (user, history, target)."""
    users, histories, targets = map(list, zip(*rows, strict=True))
    lengths = torch.tensor([len(history) for history in histories])
    columns = {"user_id": torch.tensor(users), "item_id": torch.tensor(targets), "item_length": lengths}
    flat = {"item_id_list": torch.tensor(sum(histories, []))}
    feat = SlicedRows(columns, flat, lengths.cumsum(0) - lengths, lengths, longest)
    # Files may hold shorter histories than the configuration allows.
    sizes = {"max_item_list_len": 50, "item_num": N_ITEMS, "time_field": "time"}
    return SimpleNamespace(config=FIELDS, inter_feat=feat, titles=[""] * N_ITEMS, **sizes)


def prefixes(user, items, longest):
    return [(user, items[max(0, end - longest) : end], items[end]) for end in range(1, len(items))]


sequences = st.lists(st.lists(st.integers(1, N_ITEMS - 1), min_size=2, max_size=25), min_size=1, max_size=4)


@st.composite
def training_parts(draw):
    """Sequences and their prefixes in an order in which each user's rows are in time order, users interleaved."""
    drawn, longest = draw(sequences), draw(st.integers(1, 8))
    waiting = [prefixes(user, items, longest) for user, items in enumerate(drawn, start=1)]
    rows = []
    while any(waiting):
        user = draw(st.sampled_from([user for user, left in enumerate(waiting) if left]))
        rows.append(waiting[user].pop(0))
    return drawn, longest, rows


@given(training_parts())
def test_every_target_is_covered(part):
    drawn, longest, rows = part
    covering = covering_rows(dataset_of(rows, longest))
    assert covering.dtype == np.int64 and (np.diff(covering) > 0).all()
    # Positions in the user's sequence that the covering rows predict: all of a history but its first, and the target.
    ends = {}
    position = Counter()
    for row, (user, history, _) in enumerate(rows):
        position[user] += 1
        if row in covering:
            ends.setdefault(user, set()).update(range(position[user] - len(history) + 1, position[user] + 1))
    for user, items in enumerate(drawn, start=1):
        assert ends[user] == set(range(1, len(items)))


@given(training_parts())
def test_no_more_rows_than_necessary(part):
    drawn, longest, rows = part
    count = Counter(rows[row][0] for row in covering_rows(dataset_of(rows, longest)))
    assert count == {user: -(-(len(items) - 1) // longest) for user, items in enumerate(drawn, start=1)}


@given(training_parts())
def test_item_counts_are_those_of_the_interactions(part):
    drawn, longest, rows = part
    counts = item_counts(dataset_of(rows, longest))
    expected = Counter(item for items in drawn for item in items)
    assert counts.tolist() == [expected[item] for item in range(N_ITEMS)]


def test_rows_that_do_not_continue_one_another_are_all_kept():
    rows = [(1, [1, 2], 3), (1, [4], 2), (1, [4, 2], 1), (2, [2, 1], 4)]
    dataset = dataset_of(rows, 4)
    assert covering_rows(dataset).tolist() == [0, 2, 3]
    # Histories of rows 0, 1 and 3 and all targets.
    assert item_counts(dataset).tolist() == [0, 3, 3, 1, 2]


def test_the_next_user_does_not_continue_the_one_before():
    rows = [(1, [1], 2), (2, [2], 3)]
    assert covering_rows(dataset_of(rows, 4)).tolist() == [0, 1]
    assert item_counts(dataset_of(rows, 4)).tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("longest", [2, 3, 50])
def test_leave_one_out_part(longest, ten):
    train = load_splits(ten(MAX_ITEM_LIST_LENGTH=longest)).train
    samples = CandidateSamples.from_dataset(train)
    rows_of_user = Counter(samples.user_id)
    count = Counter(samples.user_id[covering_rows(train)])
    assert count == {user: -(-rows // longest) for user, rows in rows_of_user.items()}
    by_token = dict(zip(train.field2id_token["item_id"], item_counts(train).tolist(), strict=True))
    # u1: i1 i2 i3, u2: i2 i4, u3: i9 i7, u4: i10 i1 i10 i2 i10 i3, u5: i3 i5 i7 i9.
    assert by_token == {
        "[PAD]": 0, "i1": 2, "i2": 3, "i3": 3, "i4": 1, "i5": 1, "i6": 0, "i7": 2, "i8": 0, "i9": 2, "i10": 3,
    }  # fmt: skip


def test_benchmark_part(split):
    train = load_splits(split()).train
    assert covering_rows(train).tolist() == [1, 2, 4]
    by_token = dict(zip(train.field2id_token["item_id"], item_counts(train).tolist(), strict=True))
    assert by_token == {"[PAD]": 0, **{f"i{number}": 1 for number in range(1, 11)}}


def test_real_data_against_the_file(movies, movies_path):
    train = load_splits(movies()).train
    rows = [line.split("\t") for line in (movies_path / "movies" / "movies.inter").read_text().splitlines()[1:]]
    kept = {}
    for user, item, _, _ in sorted(rows, key=lambda row: float(row[3])):
        kept.setdefault(user, []).append(item)
    expected = Counter(item for items in kept.values() for item in items[:-2])
    tokens = train.field2id_token["item_id"]
    assert item_counts(train).tolist() == [expected[token] for token in tokens]
    assert len(covering_rows(train)) == sum(-(-(len(items) - 3) // 50) for items in kept.values())
