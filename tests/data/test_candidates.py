"""Candidate samples, against plain loops over the interactions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.candidates import latest_rows, rank_from_end


def training_samples(sequences, longest=50):
    """(user, history, target) of the training part by leave-one-out, each user's oldest first."""
    samples = {}
    for user, items in sequences.items():
        prefixes = [(user, tuple(items[max(0, end - longest) : end]), items[end]) for end in range(1, len(items))]
        held_out = min(2, len(prefixes) - 1)
        samples[user] = prefixes[: len(prefixes) - held_out]
    return samples


def as_tokens(samples, dataset):
    """(user, history, target) of each sample."""
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    return [
        (users[samples.user_id[row]], tuple(items[samples.history(row)]), items[samples.item_id[row]])
        for row in range(len(samples))
    ]


SEQUENCES = {
    "a": ["i1", "i2", "i3", "i4", "i5", "i6"],
    "b": ["i2", "i1", "i2"],
    "c": ["i5", "i4"],
    "d": ["i3", "i3", "i3", "i3", "i1", "i6", "i2"],
}


@pytest.fixture
def train(write_dataset, make_config):
    path = write_dataset("small", SEQUENCES)
    return load_splits(make_config("small", path, MAX_ITEM_LIST_LENGTH=3)).train


@pytest.mark.parametrize("count", [0, 1, 3])
def test_samples_per_user_takes_the_latest(count, train):
    samples = CandidateSamples.from_dataset(train, count)
    expected = [row for rows in training_samples(SEQUENCES, 3).values() for row in rows[-count:]]
    found = as_tokens(samples, train)
    assert sorted(found) == sorted(expected)
    for user in SEQUENCES:  # the latest comes last
        assert [row for row in found if row[0] == user] == [row for row in expected if row[0] == user]


def test_all_samples_are_the_default(train):
    default, zero = CandidateSamples.from_dataset(train), CandidateSamples.from_dataset(train, 0)
    assert as_tokens(default, train) == as_tokens(zero, train)


def test_arrays_are_as_documented(train):
    samples = CandidateSamples.from_dataset(train)
    for array in (samples.user_id, samples.item_id, samples.item_id_list, samples.item_length, samples.rows):
        assert isinstance(array, np.ndarray) and array.dtype == np.int64 and len(array) == len(samples)
    assert samples.item_id_list.shape == (len(samples), 3)
    for row in range(len(samples)):
        length = samples.item_length[row]
        assert (samples.item_id_list[row, :length] > 0).all() and (samples.item_id_list[row, length:] == 0).all()
        np.testing.assert_array_equal(samples.history(row), samples.item_id_list[row, :length])


def test_rows_point_into_the_dataset(train):
    samples = CandidateSamples.from_dataset(train, 2)
    feat = train.inter_feat[samples.rows]
    np.testing.assert_array_equal(feat["item_id"].numpy(), samples.item_id)
    np.testing.assert_array_equal(feat["item_id_list"].numpy(), samples.item_id_list)
    picked = samples[np.array([2, 0])]
    np.testing.assert_array_equal(picked.rows, samples.rows[[2, 0]])


@pytest.mark.parametrize("index", [np.array([3, 1, 1]), np.array([], dtype=np.int64)])
def test_indexing_by_integers(index, train):
    samples = CandidateSamples.from_dataset(train)
    picked = samples[index]
    assert len(picked) == len(index)
    assert as_tokens(picked, train) == [as_tokens(samples, train)[place] for place in index]
    assert picked.titles is samples.titles


def test_indexing_by_booleans(train):
    samples = CandidateSamples.from_dataset(train)
    mask = samples.item_length == 3
    assert 0 < mask.sum() < len(samples)
    assert as_tokens(samples[mask], train) == [row for row in as_tokens(samples, train) if len(row[1]) == 3]


def test_titles(train):
    samples = CandidateSamples.from_dataset(train)
    titles = [samples.title(item) for item in samples.item_id]
    assert titles == [f"title of {row[2]}" for row in as_tokens(samples, train)]


def test_interaction_holds_the_samples_trimmed_to_the_longest(train):
    samples = CandidateSamples.from_dataset(train)
    index = np.flatnonzero(samples.item_length <= 2)[::-1].copy()
    interaction = samples.interaction(train.config, index)
    assert set(interaction.columns) == {"user_id", "item_id", "item_id_list", "item_length"}
    assert interaction["item_id_list"].shape == (len(index), 2)
    for row, sample in enumerate(index):
        assert interaction["item_id"][row] == samples.item_id[sample]
        assert interaction["user_id"][row] == samples.user_id[sample]
        length = int(interaction["item_length"][row])
        assert interaction["item_id_list"][row, :length].tolist() == samples.history(sample).tolist()
        assert not interaction["item_id_list"][row, length:].any()


def test_interaction_of_full_width(train):
    samples = CandidateSamples.from_dataset(train)
    shortest = samples.interaction(train.config, np.flatnonzero(samples.item_length == 1), trim=False)
    assert shortest["item_id_list"].shape[1] == 3


def test_close_times_keep_their_order(tmp_path, write_dataset, make_config):
    # In float32, RecBole's type for time, Unix seconds 20 s apart are equal.
    start, items = 1_400_000_000, [f"i{number}" for number in (7, 3, 9, 1, 8, 2, 6, 4)]
    sequences = {"u": items, "v": items[::-1]}
    path = write_dataset("close", sequences)
    rows = [(user, item, start + 20 * place) for user, own in sequences.items() for place, item in enumerate(own)]
    assert len({np.float32(time) for _, _, time in rows}) < len(items)
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in shuffled)]
    (tmp_path / "close" / "close.inter").write_text("\n".join(lines) + "\n")
    splits = load_splits(make_config("close", path))
    expected = training_samples(sequences)
    train = as_tokens(CandidateSamples.from_dataset(splits.train), splits.train)
    for user in "uv":
        assert [row for row in train if row[0] == user] == expected[user]
    for part, end in ((splits.valid, -2), (splits.test, -1)):
        found = as_tokens(CandidateSamples.from_dataset(part), part)
        assert sorted(found) == [(user, tuple(own[:end]), own[end]) for user, own in sequences.items()]
    latest = as_tokens(CandidateSamples.from_dataset(splits.train, 1), splits.train)
    assert sorted(latest) == [expected["u"][-1], expected["v"][-1]]


def test_real_data_against_the_file(movies, movies_path):
    rows = [line.split("\t") for line in (movies_path / "movies" / "movies.inter").read_text().splitlines()[1:]]
    sequences = {}
    for user, item, _, _ in sorted(rows, key=lambda row: float(row[3])):  # stable, as time ties are
        sequences.setdefault(user, []).append(item)
    train = load_splits(movies()).train
    samples = CandidateSamples.from_dataset(train, 10)
    found = {}
    for sample in as_tokens(samples, train):
        found.setdefault(sample[0], []).append(sample)
    assert found == {user: expected[-10:] for user, expected in training_samples(sequences).items()}


groups = st.lists(st.integers(0, 5), max_size=40).map(lambda values: np.array(values, dtype=np.int64))


@given(groups)
def test_rank_from_end_counts_the_later_rows_of_the_group(group):
    expected = [int((group[row + 1 :] == group[row]).sum()) for row in range(len(group))]
    assert rank_from_end(group).tolist() == expected


@given(groups, st.integers(0, 4))
def test_latest_rows(group, count):
    expected = [row for row in range(len(group)) if count == 0 or (group[row + 1 :] == group[row]).sum() < count]
    assert latest_rows(group, count).tolist() == expected
