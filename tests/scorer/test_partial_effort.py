"""Effort scored on a part: efforts planted as functions of what the regressor knows, and as noise."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.scorer import EffortScorer, PartialEffortScorer
from recbole_dealrec.scorer.partial_effort import FEWEST_SCORED, part_size, stratified_part

N = 600
FEATURES = ["loss", "gradient norm", "influence", "history length", "tokens read", "tokens written"]


class PlantedEffort(EffortScorer):
    """Efforts from a table by row; remembers the rows it was asked for."""

    table: np.ndarray

    def score(self, samples):
        self.asked = [*getattr(self, "asked", []), samples.rows]
        return self.table[samples.rows]


class Setting:
    """Random candidates of the ten-item catalogue, a surrogate of random weights, and efforts to be planted."""

    def __init__(self, llm, train, n=N):
        random = np.random.default_rng(0)
        self.config, self.llm = llm.config, llm
        length = random.integers(1, 7, n)
        items = random.integers(1, 11, (n, 6)) * (np.arange(6) < length[:, None])
        user, target = random.integers(1, 6, n), random.integers(1, 11, n)
        self.samples = CandidateSamples(user, target, items, length, train.titles, np.arange(n))
        self.influence = random.normal(size=n)
        self.surrogate = build_surrogate(self.config.surrogate(), train)
        with torch.no_grad():
            for parameter in self.surrogate.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        self.effort = PlantedEffort(llm, self.config)

    def scorer(self, ratio, table=None, seed=0):
        self.config["effort_sample_ratio"], self.config["seed"] = ratio, seed
        self.effort.table, self.effort.asked = table, []
        return PartialEffortScorer(self.effort, self.surrogate, self.influence, self.config)

    def tokens_read(self, history):
        if not hasattr(self.llm, "encoder"):
            return int(self.llm.batch([history], [1])["attention_mask"].sum())
        titles = [self.samples.title(item) for item in history[-self.config["max_history_titles"] :]]
        return sum(
            len(self.llm.tokenizer(self.llm.encoder.template.list_titles([title]))["input_ids"]) for title in titles
        )

    def features(self):
        return self.scorer(1.0).features(self.samples)

    def features_one_by_one(self):
        """Each sample alone, its history padded to the full width, its gradient by autograd."""
        self.surrogate.eval()
        rows = []
        for row in range(len(self.samples)):
            batch = self.samples.interaction(self.config, np.array([row]), trim=False)
            logits = self.surrogate.full_sort_predict(batch).detach().double().requires_grad_()
            loss = torch.nn.functional.cross_entropy(logits, batch["item_id"])
            (gradient,) = torch.autograd.grad(loss, logits)
            history = self.samples.history(row)
            labels = self.llm.batch([history], self.samples.item_id[[row]])["labels"]
            lengths = len(history), self.tokens_read(history), int((labels != -100).sum())
            rows.append([loss.item(), gradient.norm().item(), self.influence[row], *lengths])
        return np.array(rows)


@pytest.fixture
def setting(request):
    """``setting(**keys)``: see :class:`Setting`."""

    def make(n=N, model="SASRec", llm="bigrec", **keys):
        keys = {"surrogate_model": model, "surrogate_hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 6, **keys}
        recommender, splits = request.getfixturevalue(llm)(**keys)
        return Setting(recommender, splits.train, n)

    return make


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_features_are_those_of_each_sample_alone(model, setting, monkeypatch):
    monkeypatch.setattr("recbole_dealrec.model.surrogate.surrogate._ITEMS_PER_BATCH", 100)
    planted = setting(n=60, model=model)
    found = planted.features()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, planted.features_one_by_one(), rtol=1e-4)
    assert (np.ptp(found, axis=0) > 0.1).all()


def test_features_of_another_recommender(setting):
    planted = setting(n=60, llm="tiger")
    np.testing.assert_allclose(planted.features(), planted.features_one_by_one(), rtol=1e-4)


@pytest.mark.parametrize("feature", FEATURES)
def test_effort_that_follows_from_one_feature_is_predicted(feature, setting, caplog):
    planted = setting()
    table = 3.0 + 2.0 * planted.features()[:, FEATURES.index(feature)]
    scores = planted.scorer(0.5, table).score(planted.samples)
    (part,) = planted.effort.asked
    rest = np.setdiff1d(np.arange(N), part)
    assert len(part) == 300 and scores.dtype == np.float64
    np.testing.assert_array_equal(scores[part], table[part])
    assert np.square(scores[rest] - table[rest]).mean() < 0.05 * table.var()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_logged_correlation_is_that_of_samples_not_seen(setting, caplog):
    caplog.set_level("INFO")
    planted = setting()
    features = planted.features()
    table = features[:, 5] + features[:, 0] * features[:, 3] + 2 * np.random.default_rng(1).normal(size=N)
    scores = planted.scorer(0.5, table).score(planted.samples)
    logged = float(re.search(r"300 samples scored, 300 left; held-out Spearman .* (\S+)", caplog.text)[1])
    rest = np.setdiff1d(np.arange(N), planted.effort.asked[0])
    assert 0.5 < logged < 0.97
    assert logged == pytest.approx(spearmanr(scores[rest], table[rest]).statistic, abs=0.07)


def test_noise_is_not_predicted_but_scored(setting, caplog):
    planted = setting()
    table = np.random.default_rng(1).gamma(2.0, size=N)
    scores = planted.scorer(0.25, table).score(planted.samples)
    np.testing.assert_array_equal(scores, table)
    part, rest = planted.effort.asked
    assert len(part) == 150
    np.testing.assert_array_equal(np.sort([*part, *rest]), np.arange(N))  # none is scored twice
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "held-out Spearman" in record.message and "effort_sample_ratio" in record.message


def test_the_same_seed_gives_the_same_scores(setting):
    planted = setting()
    table = planted.features()[:, [2, 5]].sum(axis=1)
    first, again, other = (planted.scorer(0.25, table, seed).score(planted.samples) for seed in (3, 3, 4))
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, first)


def test_efforts_that_are_not_finite_stay_with_their_samples(setting):
    planted = setting()
    table = planted.features()[:, 5]
    table[::7] = np.nan
    scores = planted.scorer(0.25, table).score(planted.samples)
    (part,) = planted.effort.asked
    np.testing.assert_array_equal(scores[part], table[part])
    assert np.isnan(table[part]).any() and np.isfinite(np.delete(scores, part)).all()
    nothing = planted.scorer(0.25, np.full(N, np.nan)).score(planted.samples)
    assert np.isnan(nothing).all() and sum(map(len, planted.effort.asked)) == N


def test_a_ratio_of_one_is_the_plain_score(bigrec, randomise_adapter):
    llm, splits = bigrec(effort_sample_ratio=1.0)
    randomise_adapter(llm.network)
    effort, samples = EffortScorer(llm, llm.config), CandidateSamples.from_dataset(splits.train)
    many = samples[np.arange(101) % len(samples)]
    scores = PartialEffortScorer(effort, None, None, llm.config).score(many)
    np.testing.assert_array_equal(scores, effort.score(many))


def test_few_samples_are_all_scored(setting):
    planted = setting(n=FEWEST_SCORED)
    table = np.random.default_rng(0).normal(size=FEWEST_SCORED)
    np.testing.assert_array_equal(planted.scorer(0.01, table).score(planted.samples), table)
    assert len(planted.effort.asked) == 1
    sizes = [part_size(n, ratio) for n, ratio in [(0, 0.5), (99, 0.05), (101, 0.05), (2000, 0.05), (2020, 0.05)]]
    assert sizes == [0, 99, 100, 100, 101]


def test_the_surrogate_is_left_as_it_was(setting):
    planted = setting(n=50)
    planted.surrogate.train()
    first = planted.features()
    assert planted.surrogate.training and planted.surrogate.dropout.training
    assert all(parameter.grad is None for parameter in planted.surrogate.parameters())
    np.testing.assert_array_equal(planted.features(), first)


@given(st.lists(st.floats(), min_size=1, max_size=200).map(np.array), st.data())
def test_the_part_has_one_of_each_run_of_ranks(values, data):
    count, seed = data.draw(st.integers(1, len(values))), data.draw(st.integers(0, 2**32 - 1))
    part = stratified_part(values, count, seed)
    assert part.dtype == np.int64 and (np.diff(part) > 0).all()
    order, edges = np.argsort(values, kind="stable"), [run * len(values) // count for run in range(count + 1)]
    runs = [set(order[start:end].tolist()) for start, end in zip(edges, edges[1:], strict=False)]
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert len(part) == count and all(len(run & set(part.tolist())) == 1 for run in runs)


def test_every_sample_of_a_run_is_drawn_alike():
    values, picked = np.random.default_rng(0).normal(size=23), np.zeros(23)
    for seed in range(2000):
        picked[stratified_part(values, 4, seed)] += 1
    run = np.searchsorted(np.arange(5) * 23 // 4, np.argsort(np.argsort(values)), side="right") - 1
    shares = 1 / np.bincount(run)[run]
    np.testing.assert_allclose(picked / 2000, shares, atol=5 * np.sqrt(0.2 * 0.8 / 2000))
