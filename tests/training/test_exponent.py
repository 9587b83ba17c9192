"""Exponents that are chosen are the best of the grid on the validation part; those that are given stay."""

from itertools import product

import numpy as np
import pytest
import torch
from recbole.evaluator import Evaluator

from recbole_dealrec.data import QueryDataLoader, load_splits
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.pipeline import configure
from recbole_dealrec.training.collector import JoinedCollector
from recbole_dealrec.training.exponent import _GRID, choose_exponents, n_queries

KEYS = {
    "title_field": "movie_title", "use_gpu": False, "show_progress": False, "topk": [5, 20], "valid_metric": "NDCG@20",
}  # fmt: skip


class Trainer:
    """Ranks by fixed scores."""

    def __init__(self, config, queries):
        self.config, self.queries = config, queries
        random = torch.Generator().manual_seed(1)
        self.scores = [torch.rand(len(batch[0]), queries.dataset.item_num, generator=random) for batch in queries]

    def rankings(self, queries):
        for batch, scores in zip(queries, self.scores, strict=True):
            interaction, _, *positives = batch
            yield scores.clone(), interaction, positives


class Surrogate:
    ITEM_SEQ, ITEM_SEQ_LEN = "item_id_list", "item_length"

    def eval(self):
        return self

    def full_sort_predict(self, interaction):
        return torch.sin(interaction["item_id_list"][:, :1] * torch.arange(self.n_items))


def prepared(movies_path, **keys):
    config = configure("BIGRec", "movies", None, {**KEYS, "data_path": str(movies_path), **keys})
    splits = load_splits(config)
    queries = QueryDataLoader(config, splits.valid, 60)
    surrogate = Surrogate()
    surrogate.n_items = splits.train.item_num
    return Trainer(config, queries), Reweighting(item_counts(splits.train), [surrogate]), queries


def value(trainer, reweighting, queries, popularity, collaborative):
    collector = JoinedCollector(trainer.config)
    reweighting.popularity, reweighting.collaborative = popularity, collaborative
    for scores, interaction, positives in trainer.rankings(queries):
        collector.eval_batch_collect(reweighting(scores, interaction), interaction, *positives)
    return Evaluator(trainer.config).evaluate(collector.get_data_struct())["ndcg@20"]


@pytest.mark.parametrize("given", [{}, {"grounding_popularity": 2.0}, {"grounding_collaborative": 0.7}])
def test_the_best_pair_of_the_grid_is_chosen(movies_path, given):
    trainer, reweighting, queries = prepared(movies_path, **given)
    choose_exponents(trainer, reweighting, queries)
    chosen = reweighting.popularity, reweighting.collaborative
    keys = ("grounding_popularity", "grounding_collaborative")
    grids = [[given[key]] if key in given else _GRID for key in keys]
    found = {pair: value(trainer, reweighting, queries, *pair) for pair in product(*grids)}
    assert found[chosen] == max(found.values())
    assert sum(chosen) == min(sum(pair) for pair in found if found[pair] == found[chosen])


def test_without_surrogates_only_popularity_counts(movies_path):
    trainer, reweighting, queries = prepared(movies_path)
    reweighting.surrogates = []
    choose_exponents(trainer, reweighting, queries)
    assert reweighting.collaborative == 0.0 and reweighting.popularity in _GRID


def test_an_exponent_without_surrogates_is_told(movies_path, caplog):
    trainer, reweighting, queries = prepared(movies_path, grounding_popularity=0, grounding_collaborative=2.0)
    reweighting.surrogates = []
    choose_exponents(trainer, reweighting, queries)
    assert "no surrogate to re-weight with" in caplog.text


def test_surrogates_without_a_say_are_dropped(movies_path):
    trainer, reweighting, queries = prepared(movies_path, grounding_popularity=1.0, grounding_collaborative=0)
    choose_exponents(trainer, reweighting, queries)
    assert reweighting.surrogates == []


def test_metrics_that_need_the_training_part_do_not_disturb(movies_path):
    trainer, reweighting, queries = prepared(movies_path, metrics=["ItemCoverage", "NDCG", "AveragePopularity"])
    choose_exponents(trainer, reweighting, queries)
    assert reweighting.collaborative in _GRID


def test_given_exponents_need_no_pass(movies_path):
    trainer, reweighting, queries = prepared(movies_path, grounding_popularity=1.5, grounding_collaborative=0)
    trainer.rankings = None
    choose_exponents(trainer, reweighting, queries)
    assert (reweighting.popularity, reweighting.collaborative) == (1.5, 0.0)
    np.testing.assert_array_equal(_GRID, sorted(_GRID))


@pytest.mark.parametrize("n_valid, n_test, expected", [(0, 0, 0), (300, 0, 300), (0, 100, 100), (300, 100, 100)])
def test_exponents_cost_no_more_than_the_evaluation(n_valid, n_test, expected):
    assert n_queries({"n_valid": n_valid, "n_test": n_test}) == expected
