"""Round-robin against a plain loop, and RDS+ on planted neighbours of validation queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbole_dealrec.sampler import RDSPlusSampler, round_robin


def plain_round_robin(scores, n_fewshot):
    """Rank the candidates of each query, and let each take the first that is left."""
    ranked = [
        sorted(range(len(scores)), key=lambda row, query=query: -scores[row, query]) for query in range(scores.shape[1])
    ]
    chosen = []
    while True:
        for ranking in ranked:
            if len(chosen) == n_fewshot:
                return chosen
            chosen.append(next(row for row in ranking if row not in chosen))


def test_turns_by_hand():
    scores = np.array([[0.9, 0.8, 0.1], [0.8, 0.9, 0.2], [0.1, 0.7, 0.3], [0.2, 0.1, 0.0]])
    # Query 0 takes 0, query 1 takes 1, query 2 takes 2, query 0 what is left.
    assert round_robin(scores, 4).tolist() == [0, 1, 2, 3]
    # The candidate that query 1 likes best is gone.
    assert round_robin(scores[:, [0, 0, 1]], 3).tolist() == [0, 1, 2]
    assert round_robin(scores, 2).tolist() == [0, 1]


@st.composite
def tables(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 5)))
    values = st.one_of(st.integers(-2, 2).map(float), st.floats(-1, 1, width=32))  # ties among them
    return draw(arrays(np.float32, shape, elements=values)), draw(st.integers(1, shape[0]))


@given(tables())
def test_it_is_the_plain_loop(table):
    scores, n_fewshot = table
    before = scores.copy()
    chosen = round_robin(scores, n_fewshot)
    assert chosen.dtype == np.int64 and chosen.tolist() == plain_round_robin(scores, n_fewshot)
    np.testing.assert_array_equal(scores, before)


def selected_of(similarity, n_fewshot, seed=0):
    sampler = RDSPlusSampler({"n_fewshot": n_fewshot, "seed": seed})
    sampler.scores = {"valid_similarity": similarity}
    return sampler.sample(range(len(similarity)))


@pytest.fixture
def planted():
    """Similarities of 200 candidates to 10 queries, and for each query its three nearest candidates, nearest first."""
    random = np.random.default_rng(0)
    similarity = random.uniform(-1, 0.5, (200, 10)).astype(np.float32)
    nearest = random.permutation(200)[:30].reshape(3, 10)
    similarity[nearest, np.arange(10)] = np.array([[0.99], [0.9], [0.8]])
    return similarity, nearest


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_planted_neighbours_of_all_queries_are_chosen(planted, rounds):
    similarity, nearest = planted
    assert selected_of(similarity, 10 * rounds).tolist() == sorted(nearest[:rounds].ravel())


def test_fewer_samples_than_queries_are_those_of_queries_drawn_by_the_seed(planted):
    similarity, nearest = planted
    queries = []
    for seed in range(20):
        selected = selected_of(similarity, 4, seed)
        assert set(selected) <= set(nearest[0]) and len(selected) == 4
        queries.append(tuple(np.flatnonzero(np.isin(nearest[0], selected))))
    assert len(set(queries)) > 1 and set(np.concatenate(queries)) == set(range(10))


def test_samples_that_are_not_finite_are_excluded(planted, caplog):
    similarity, nearest = planted
    similarity[nearest[0, 3], 5] = np.nan
    assert selected_of(similarity, 10).tolist() == sorted({*nearest[0], nearest[1, 3]} - {nearest[0, 3]})
    assert "1 samples have a score that is not finite" in caplog.text
    with pytest.raises(ValueError, match="n_fewshot is 200, but only 199"):
        selected_of(similarity, 200)
