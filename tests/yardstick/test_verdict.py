"""The words of the verdict, at the borders of the intervals."""

import pytest

from recbole_dealrec.training.query_evaluator import headline_metric
from recbole_dealrec.yardstick.verdict import relation, verdict
from recbole_dealrec.yardstick.yardsticks import KNN, POPULAR, RANDOM, SURROGATE_MEAN, VALID_POPULAR

CONFIG = {"valid_metric": "loss", "metrics": ["Recall", "NDCG"], "topk": [5, 10]}


def row(name, value, error=0.003):
    return {"name": name, "test_result": {"recall@10": value}, "standard_error": {"recall@10": error}}


def said(value, rows, again=0.9):
    result = {"test_result": {"recall@10": value}, "test_standard_error": {"recall@10": 0.004}, "yardsticks": rows}
    reweighted = {"test_result": {"recall@10": again}, "standard_error": {"recall@10": 0.01}}
    text = verdict(CONFIG, {**result, "reweighting": reweighted})["verdict"]
    return text.split(" Re-weighted: ")


@pytest.mark.parametrize(
    "difference, expected",
    [
        (0.0099, "above"),
        (0.0097, "not significantly different from"),
        (-0.0097, "not significantly different from"),
        (-0.0099, "below"),
    ],
)
def test_the_interval_of_the_difference_decides(difference, expected):
    assert relation(0.05 + difference, 0.004, 0.05, 0.003) == expected  # half width 1.96 * 0.005 = 0.0098


def test_nothing_is_told_apart_without_an_error():
    assert relation(0.5, None, 0.1, 0.001) == relation(0.5, 0.001, 0.1, None) == "not significantly different from"


def test_below_a_list_nothing_was_learned():
    rows = [row(RANDOM, 0.0059, 0), row(POPULAR, 0.0498), row(KNN, 0.0583)]
    assert said(0.0265, rows, again=0.075) == [
        "Recall@10 0.0265 ± 0.0040: below the popularity list (0.0498) and item kNN (0.0583); above the random ranking "
        "(0.0059). This run shows no sign of learning from histories.",
        "Recall@10 0.0750 ± 0.0100: not significantly different from item kNN (0.0583); above the popularity list "
        "(0.0498) and the random ranking (0.0059).",
    ]


@pytest.mark.parametrize(
    "popular, wanted, learned", [(0.05, 0.05, True), (0.05, 0.055, False), (0.07, 0.05, False), (0.055, 0.05, False)]
)
def test_only_a_run_above_both_lists_has_learned(popular, wanted, learned):
    text, _ = said(0.06, [row(POPULAR, popular), row(VALID_POPULAR, wanted)])
    assert text.endswith("it has learned from histories." if learned else "no sign of learning from histories.")


def test_of_several_surrogates_the_mean_is_named():
    text, _ = said(0.06, [row("surrogate", 0.1), row("surrogate 1", 0.1), row(SURROGATE_MEAN, 0.1)])
    assert text.startswith("Recall@10 0.0600 ± 0.0040: below the mean of the surrogates (0.1000). ")
    assert "below the surrogate (0.1000)." in said(0.06, [row("surrogate", 0.1)])[0]


def test_there_is_no_verdict_without_yardsticks():
    assert verdict(CONFIG, {"test_result": {"recall@10": 0.1}, "test_standard_error": {}, "yardsticks": []}) == {}


@pytest.mark.parametrize(
    "valid_metric, metrics, topk, expected",
    [
        ("loss", ["Recall", "NDCG"], [5, 10, 20], "recall@10"),
        ("NDCG@5", ["Recall", "NDCG"], [5, 10], "ndcg@5"),
        ("loss", ["Recall"], [3, 7], "recall@7"),
        ("ItemCoverage@10", ["ItemCoverage", "MRR"], [10], "mrr@10"),
        ("loss", ["ItemCoverage"], [10], None),
    ],
)
def test_the_metric_that_rankings_are_judged_by(valid_metric, metrics, topk, expected):
    assert headline_metric({"valid_metric": valid_metric, "metrics": metrics, "topk": topk}) == expected
