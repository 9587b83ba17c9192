"""Batches: all rows once, sorted, within the budget."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.data.batch import token_batches

lengths_of_rows = st.lists(st.integers(1, 40), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


def check_permutation(batches, lengths):
    order = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) >= 0).all()
    # Rows of equal length stay in order.
    pairs = zip(order, order[1:], strict=False)
    assert all(first < second for first, second in pairs if lengths[first] == lengths[second])


@given(lengths_of_rows, st.integers(1, 200))
def test_token_batches_stay_within_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    check_permutation(batches, lengths)
    for batch in batches:
        assert len(batch) * lengths[batch].max() <= budget or len(batch) == 1


@given(lengths_of_rows, st.integers(1, 200))
def test_token_batches_take_a_row_where_it_fits(lengths, budget):
    batches = token_batches(lengths, budget)
    for batch, following in zip(batches, batches[1:], strict=False):
        assert (len(batch) + 1) * lengths[following[0]] > budget


@given(lengths_of_rows, st.integers(1, 20))
def test_batches_of_bounded_rows_are_full_but_for_the_last(lengths, rows):
    batches = token_batches(lengths, 10**9, rows)
    check_permutation(batches, lengths)
    assert [len(batch) for batch in batches[:-1]] == [rows] * (len(batches) - 1)
    assert all(0 < len(batch) <= rows for batch in batches)


@given(lengths_of_rows, st.integers(1, 200), st.integers(1, 20))
def test_both_bounds_hold_at_once(lengths, budget, rows):
    batches = token_batches(lengths, budget, rows)
    check_permutation(batches, lengths)
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) * lengths[batch].max() <= budget or len(batch) == 1
    for batch, following in zip(batches, batches[1:], strict=False):
        assert len(batch) == rows or (len(batch) + 1) * lengths[following[0]] > budget


def test_by_hand():
    lengths = np.array([5, 2, 9, 2, 3])
    assert [batch.tolist() for batch in token_batches(lengths, 9)] == [[1, 3, 4], [0], [2]]
    assert [batch.tolist() for batch in token_batches(lengths, 8)] == [[1, 3], [4], [0], [2]]
    assert [batch.tolist() for batch in token_batches(lengths, 10**9, 2)] == [[1, 3], [4, 0], [2]]
    assert token_batches(np.array([], dtype=np.int64), 8) == []
