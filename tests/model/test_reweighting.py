"""Re-weighting by hand, its ends, and the exponents that validation chooses."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_dealrec.data import load_splits
from recbole_dealrec.model.reweighting import Reweighting, ranks_histories, reweighted
from recbole_dealrec.model.surrogate import build_surrogate

INF = torch.inf


def test_by_hand():
    scores = torch.tensor([[-INF, -1.0, -3.0, -5.0, -INF]])
    popularity = torch.tensor([0.0, 0.0, 1.0, 0.5, 1.0])
    collaborative = torch.tensor([[0.0, 0.5, 0.0, 1.0, 1.0]])
    found = reweighted(scores, popularity, collaborative, 2.0, 1.0)
    distances = torch.tensor([[1 / 1.5, 1.5 / 4, 2 / 1.5**2 / 2]], dtype=torch.float64)
    torch.testing.assert_close(found[:, 1:4], -distances.log())
    assert found[0, [0, 4]].tolist() == [-INF, -INF]


def test_high_exponents_leave_no_two_items_equal():
    popularity, collaborative = torch.tensor([0.0, 1, 1, 0.9]), torch.tensor([[0.0, 1, 0.999, 1]])
    found = reweighted(torch.tensor([[-INF, 0.1, 0.2, 0.3]]), popularity, collaborative, 100.0, 100.0)
    assert found.argsort(dim=1, descending=True).tolist() == [[2, 1, 3, 0]] and len(found.unique()) == 4


def test_without_exponents_the_ranking_stays():
    scores = torch.randn(4, 9)
    scores[:, 0] = -INF
    found = reweighted(scores, torch.rand(9), torch.rand(4, 9), 0.0, 0.0)
    assert torch.equal(found.argsort(dim=1), scores.argsort(dim=1))


def queries(count):
    return Interaction({"items": torch.ones(count, 1), "length": torch.ones(count)})


class Surrogate:
    def __init__(self, scores):
        self.scores = scores

    ITEM_SEQ, ITEM_SEQ_LEN = "items", "length"

    def eval(self):
        return self

    def full_sort_predict(self, interaction):
        return self.scores.view(-1)


def test_scores_of_the_surrogates_are_normalised_and_averaged():
    first, second = torch.tensor([[9.0, 1, 2, 3], [9, 5, 5, 7]]), torch.tensor([[9.0, 30, 10, 20], [9, 1, 0, 2]])
    reweighting = Reweighting(np.array([7, 2, 4, 6]), [Surrogate(first), Surrogate(second)])
    popularity, collaborative = reweighting.factors(torch.zeros(2, 4), queries(2))
    torch.testing.assert_close(popularity, torch.tensor([0, 0, 0.5, 1.0]))
    torch.testing.assert_close(collaborative, torch.tensor([[0, 0.5, 0.25, 0.75], [0, 0.25, 0, 1.0]]))


def test_a_high_exponent_ranks_as_the_surrogate():
    ranked = torch.tensor([[0.0, 4, 3, 2, 1]])
    reweighting = Reweighting(np.ones(5, dtype=np.int64), [Surrogate(ranked)], collaborative=100.0)
    found = reweighting(torch.tensor([[-INF, 0.1, 0.2, 0.3, 0.4]]), queries(1))
    assert found.argsort(dim=1, descending=True).tolist() == [[1, 2, 3, 4, 0]]


@pytest.mark.parametrize("counts", [[0, 0, 0], [3, 3, 3]])
def test_equal_counts_change_nothing(counts):
    reweighting = Reweighting(np.array(counts), popularity=5.0)
    scores = torch.tensor([[-INF, -1.0, -2.0]])
    found = reweighting(scores, queries(1))
    torch.testing.assert_close(found, -torch.tensor([[INF, 1.0, 2.0]], dtype=torch.float64).log())


@pytest.mark.parametrize("name, expected", [("SASRec", True), ("GRU4Rec", True), ("HGN", False), ("SHAN", False)])
def test_a_surrogate_that_needs_the_user_is_told_apart(ten, name, expected):
    config = ten(surrogate_model=name)
    assert ranks_histories(build_surrogate(config.surrogate(), load_splits(config).train)) == expected
