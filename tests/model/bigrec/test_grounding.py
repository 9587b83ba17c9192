import numpy as np
import torch

from recbole_dealrec.model.bigrec.grounding import distances, namesakes_before, rank_beams_first, ranked_apart


def test_distances_are_normalised_l2():
    items = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]])
    found = distances(torch.tensor([[0.0, 0.0]]), items)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 1.0]]))


def test_distances_of_equal_embeddings_are_zero_to_the_last_bit():
    items = torch.randn(50, 64) * 100
    found = distances(items[:3], items)
    assert found[torch.arange(3), torch.arange(3)].tolist() == [0.0, 0.0, 0.0]


def test_distances_of_one_point_are_finite():
    assert distances(torch.ones(1, 4), torch.ones(3, 4)).tolist() == [[0.0, 0.0, 0.0]]


def test_beams_come_first_and_the_rest_by_distance():
    title_of_item = torch.tensor([-1, 0, 1, 0, 3])  # items 1 and 3 share title 0
    beams = torch.tensor([[3, 0, -1]])
    scores = torch.tensor([[-2.0, -5.0, -torch.inf]])
    fallback = torch.tensor([[1.0, 0.0, 0.25, 0.0, 0.0]])
    found = rank_beams_first(beams, scores, title_of_item, fallback)
    assert found.tolist() == [[-7.0, -5.0, -6.25, -5.0, -2.0]]


def test_a_title_found_by_two_beams_keeps_the_better_score():
    found = rank_beams_first(
        torch.tensor([[0, 0]]), torch.tensor([[-4.0, -3.0]]), torch.tensor([-1, 0]), torch.zeros(1, 2)
    )
    assert found[0, 1] == -3.0


def test_no_valid_beam_ranks_by_distance_alone():
    beams, scores = torch.tensor([[-1]]), torch.tensor([[-torch.inf]])
    found = rank_beams_first(beams, scores, torch.tensor([-1, 0, 1]), torch.tensor([[1.0, 0.5, 0.0]]))
    assert found.tolist() == [[-2.0, -1.5, -1.0]]


def test_the_more_frequent_of_one_title_come_first():
    titles = ["", "Twin", "Other", "Twin", "Twin", "Other"]
    assert namesakes_before(titles, np.array([0, 3, 1, 5, 3, 1])).tolist() == [0, 1, 0, 0, 2, 1]


def test_items_of_one_title_are_ranked_one_after_another():
    namesakes = torch.tensor([0, 1, 0, 0, 2, 1])
    scores = torch.tensor([[-9.0, -2.0, -1.0, -2.0, -2.0, -1.0], [0.0, 0.0, -3e-8, 0.0, 0.0, -3e-8]])
    found = ranked_apart(scores.clone(), namesakes)
    torch.testing.assert_close(found, scores, rtol=1e-6, atol=1e-12)
    assert found[0].argsort(descending=True).tolist() == [2, 5, 3, 1, 4, 0]
    assert found[1, 1:].argsort(descending=True).tolist() == [2, 0, 3, 1, 4]
