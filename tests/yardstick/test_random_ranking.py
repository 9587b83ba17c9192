"""The expectation of a random ranking, against the mean over all rankings."""

from itertools import permutations

import numpy as np
import pytest
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_dealrec.yardstick.random_ranking import random_ranking

METRICS = ["Recall", "Precision", "Hit", "MRR", "NDCG", "MAP"]
TOPK = [1, 2, 4]


@pytest.mark.parametrize("n_items", [4, 6])
@pytest.mark.parametrize("n_positives", [1, 2, 3])
def test_it_is_the_mean_over_all_rankings(n_items, n_positives):
    ranks = np.array(list(permutations(range(n_items))))
    hits = (ranks < n_positives)[:, : max(TOPK)].astype(np.int32)
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(np.column_stack([hits, np.full(len(hits), n_positives)])))
    config = {"metrics": METRICS, "topk": TOPK, "metric_decimal_place": 12}
    expected = Evaluator(config | {"eval_args": {}}).evaluate(struct)
    means, errors = random_ranking(METRICS, TOPK, np.array([n_positives] * 3), n_items)
    assert means == pytest.approx(dict(expected))
    assert errors == pytest.approx(dict.fromkeys(means, 0), abs=1e-12)


def test_queries_with_several_sizes_are_averaged():
    means, errors = random_ranking(["Precision", "ItemCoverage"], [2], np.array([1, 1, 3]), 10)
    assert means == pytest.approx({"precision@2": (0.1 + 0.1 + 0.3) / 3})
    assert errors == pytest.approx({"precision@2": np.std([0.1, 0.1, 0.3], ddof=1) / np.sqrt(3)})
