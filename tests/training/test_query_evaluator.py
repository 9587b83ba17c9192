"""Standard errors of metrics against direct computation and the bootstrap."""

from functools import cache

import numpy as np
import pytest
import torch
from recbole.evaluator.collector import DataStruct

from recbole_dealrec.config import Config
from recbole_dealrec.training.query_evaluator import QueryEvaluator

N, ITEMS, K = 200, 40, 10
METRICS = ["Recall", "MRR", "NDCG", "Hit", "Precision", "AveragePopularity", "TailPercentage"]
OF_SETS = ["ItemCoverage", "ShannonEntropy", "GiniIndex"]


@cache
def configured(metrics):
    return Config("BIGRec", "ml-100k", config_dict={"metrics": list(metrics), "topk": [5, K], "valid_metric": "loss"})


def evaluated(metrics, rows=slice(None), seed=5):
    """An evaluator that has evaluated rankings that are better than chance, of one positive item a query."""
    config = configured(tuple(metrics))
    random = np.random.default_rng(seed)
    scores = random.normal(size=(N, ITEMS)) + np.linspace(0, 2, ITEMS)
    items = np.argsort(-scores, axis=1)[:, :K] + 1
    positives = random.integers(ITEMS // 2, ITEMS, size=N) + 1
    hits = items == positives[:, None]
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(np.column_stack([hits, np.ones(N)]).astype(int))[rows])
    struct.set("rec.items", torch.from_numpy(items)[rows])
    struct.set("data.num_items", ITEMS + 1)
    struct.set("data.count_items", {item: item for item in range(1, ITEMS + 1)})
    evaluator = QueryEvaluator(config)
    return evaluator, evaluator.evaluate(struct), hits[rows], items[rows]


def test_errors_of_means_are_those_of_the_queries_values():
    evaluator, result, hits, items = evaluated(METRICS)
    errors = evaluator.standard_errors()
    assert errors.keys() == result.keys()
    for k in (5, K):
        found = hits[:, :k].any(1)
        assert result[f"recall@{k}"] == pytest.approx(found.mean(), abs=1e-4)
        assert errors[f"recall@{k}"] == pytest.approx(found.std(ddof=1) / np.sqrt(N), rel=1e-12)
        gain = (hits[:, :k] / np.log2(np.arange(2, k + 2))).sum(1)
        assert errors[f"ndcg@{k}"] == pytest.approx(gain.std(ddof=1) / np.sqrt(N), rel=1e-12)
        popularity = items[:, :k].mean(1)
        assert errors[f"averagepopularity@{k}"] == pytest.approx(popularity.std(ddof=1) / np.sqrt(N), rel=1e-12)


def test_unrounded_metrics_are_those_of_the_queries():
    evaluator, result, hits, _ = evaluated([*METRICS, *OF_SETS])
    exact = evaluator.unrounded()
    assert list(exact) == list(result)
    assert {name: round(value, 4) for name, value in exact.items()} == pytest.approx(result, abs=1e-12)
    for k in (5, K):
        gain = (hits[:, :k] / np.log2(np.arange(2, k + 2))).sum(1)
        assert exact[f"ndcg@{k}"] == pytest.approx(gain.mean(), rel=1e-12) != result[f"ndcg@{k}"]


def test_evaluation_is_recboles_as_before():
    evaluator, result, *_ = evaluated([*METRICS, *OF_SETS])
    evaluator.standard_errors()
    assert evaluated([*METRICS, *OF_SETS])[1] == result == evaluator.evaluate(evaluator.evaluated)


def test_errors_of_metrics_of_sets_are_near_the_spread_of_other_queries():
    errors = evaluated(OF_SETS)[0].standard_errors()
    draws = [evaluated(OF_SETS, seed=seed)[1] for seed in range(60)]
    for name in ("shannonentropy@10", "giniindex@10"):
        assert errors[name] == pytest.approx(np.std([draw[name] for draw in draws]), rel=0.5)


def test_one_query_has_no_standard_error():
    evaluator, *_ = evaluated(METRICS, slice(0, 1))
    assert evaluator.standard_errors() == {}
