"""Choices by gradient similarity: planted groups, and the rules written out as loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.sampler.gradient import diverse_choice


def cosine(left, right):
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    return left @ right / lengths if lengths else 0.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 999), st.data())
def test_the_diverse_choice_is_that_of_the_loop(n, d, seed, data):
    random = np.random.default_rng(seed)
    vectors, similarity = random.normal(size=(n, d)), random.normal(size=n)
    vectors[n // 2] = 0
    n_fewshot = data.draw(st.integers(0, n))
    expected = []
    for _ in range(n_fewshot):
        margins = {
            row: similarity[row] - np.mean([cosine(vectors[row], vectors[each]) for each in expected] or [0.0])
            for row in range(n)
            if row not in expected
        }
        expected.append(max(margins, key=margins.get))
    assert diverse_choice(similarity, vectors, n_fewshot).tolist() == expected


@pytest.fixture
def sampler(ten):
    def make(name, n_fewshot, **scores):
        made = get_sampler(name)(ten(sampler=name, n_fewshot=n_fewshot))
        made.scores = scores
        return made

    return make


@pytest.fixture
def planted():
    """Gradients of 60 candidates, of which every tenth is that of one of three queries, which are opposite to none."""
    random = np.random.default_rng(3)
    queries = np.eye(3, 16)
    vectors = random.normal(size=(60, 16))
    vectors[:, :3] = -np.abs(vectors[:, :3])  # all others point away from the queries
    vectors[::10] = np.resize(queries, (6, 16)) * 7.0
    vectors = vectors.astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, units @ queries.astype(np.float32).T


def test_less_takes_the_planted_group(sampler, planted):
    _, cosines = planted
    made = sampler("LESS", 6, less=cosines)
    np.testing.assert_array_equal(made.sample([None] * 60), np.arange(0, 60, 10))
    np.testing.assert_array_equal(made.columns["less"], cosines.max(axis=1))


def test_each_query_has_its_turn_though_one_has_all_the_highest_scores(sampler):
    scores = np.array([[0.9, 0.1], [0.8, 0.0], [0.7, 0.0], [0.1, 0.2]], dtype=np.float32)
    assert sampler("LESS", 2, less=scores).sample([None] * 4).tolist() == [0, 3]


def test_the_diverse_choice_takes_the_planted_group(sampler, planted):
    vectors, cosines = planted
    made = sampler("GradientDiverse", 3, gradient_similarity=cosines.mean(axis=1).astype(float), llm_gradient=vectors)
    chosen = made.sample([None] * 60)
    assert (chosen % 10 == 0).all()
    assert len({tuple(vectors[row]) for row in chosen}) == 3  # one for each query, no twins
    np.testing.assert_array_equal(made.columns["gradient_similarity"], cosines.mean(axis=1))


def test_samples_without_finite_scores_are_left_out(sampler, planted):
    vectors, cosines = planted
    vectors, cosines = vectors.copy(), cosines.copy()
    vectors[10], cosines[20, 1] = np.nan, np.inf
    similarity = cosines.mean(axis=1).astype(float)
    made = {
        "LESS": lambda n: sampler("LESS", n, less=cosines),
        "GradientDiverse": lambda n: sampler(
            "GradientDiverse", n, gradient_similarity=similarity, llm_gradient=vectors
        ),
    }
    assert 20 not in made["LESS"](59).sample([None] * 60)
    assert {10, 20}.isdisjoint(made["GradientDiverse"](58).sample([None] * 60))
    with pytest.raises(ValueError, match="n_fewshot is 60, but only 59 samples have finite scores"):
        made["LESS"](60).sample([None] * 60)
    with pytest.raises(ValueError, match="n_fewshot is 59, but only 58"):
        made["GradientDiverse"](59).sample([None] * 60)
