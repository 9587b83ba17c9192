"""Training of a run's surrogates: their seeds, what is kept of them, and what watching one changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_dealrec.data import load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import surrogate_loader
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder
from recbole_dealrec.store.step import records, step
from recbole_dealrec.training.surrogate_training import SurrogateTraining, surrogate_seed

KEYS = {
    "surrogate_hidden_size": 8, "surrogate_inner_size": 16, "surrogate_epochs": 4, "surrogate_eval_step": 1,
    "surrogate_train_batch_size": 4, "surrogate_learning_rate": 0.01, "MAX_ITEM_LIST_LENGTH": 8,
    "surrogate_valid_metric": "NDCG@2", "topk": [1, 2],
}  # fmt: skip


@pytest.fixture
def training(ten, tmp_path):
    """``training(number, folder)``: that of the ten-item catalogue in a folder of this name."""
    config = ten(**KEYS)
    splits = load_splits(config)
    return lambda number=0, folder="run": SurrogateTraining(config, splits, RunFolder(tmp_path / folder), number)


def weights_of(training):
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_no_surrogate_is_trained_for_two_seeds():
    seeds = [surrogate_seed(seed, number) for seed in range(2020, 2040) for number in range(5)]
    assert len(set(seeds)) == 100 and all(0 <= seed < 2**32 for seed in seeds)
    assert surrogate_seed(2020, 0) == 2020 and surrogate_seed(2020, 1) == surrogate_seed(2020, 1)


def test_a_surrogate_that_is_loaded_is_the_one_that_was_trained(training):
    trained = training()
    trained.fit()
    loaded = training()
    loaded.load()
    assert_same(weights_of(loaded), weights_of(trained))
    other = training(1)
    other.fit()
    assert other.folder.has("surrogate.safetensors", "surrogate-1.safetensors")
    assert any(not torch.equal(value, weights_of(trained)[name]) for name, value in weights_of(other).items())


def test_a_finished_training_has_its_curve(training):
    one = training()
    one.fit()
    assert not one.folder.has("surrogate.json")  # a record of the step comes before
    one.finish()
    kept = one.folder.read_json("surrogate.json")
    assert len(kept["curve"]["train_loss"]) == 4 and kept["curve"]["valid_epoch"] == [0, 1, 2, 3]
    shown = dict(zip(kept["curve"]["valid_epoch"], kept["curve"]["valid_result"]["ndcg@2"], strict=True))
    assert kept["best_valid_result"]["ndcg@2"] == shown[kept["curve"]["kept_epoch"]]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_last_evaluated_epoch_within_a_standard_error_of_the_best_is_kept(ten, tmp_path, rate):
    config = ten(**{**KEYS, "surrogate_learning_rate": rate, "surrogate_epochs": 12})
    one = SurrogateTraining(config, load_splits(config), RunFolder(tmp_path / "run"), 0)
    one.fit()
    other = SurrogateTraining(config, one.splits, RunFolder(tmp_path / "watched"), 0)
    weights, errors = [], []

    def look(model):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        errors.append(other._trainer.evaluator.standard_errors()["ndcg@2"])

    other.watch(look)
    values, kept = np.array(other._trainer.curve.valid_result["ndcg@2"]), one._trainer.curve.kept_epoch
    assert kept == np.flatnonzero(np.maximum.accumulate(values) - values <= errors)[-1]
    assert_same(weights_of(one), weights[kept])


def test_the_learning_rate_rises_and_falls_to_the_last_step(ten, tmp_path):
    config = ten(**KEYS, surrogate_warmup_steps=3)
    one = SurrogateTraining(config, load_splits(config), RunFolder(tmp_path), 0)
    rates = []
    one._trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    one.fit()
    total = len(rates)
    assert total == 4 * len(surrogate_loader(one.config, one.splits.train, one.model)) == 8
    falling = [0.01 * (total - step) / (total - 2) for step in range(2, total)]
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, *falling])


def test_a_training_that_diverges_names_the_learning_rate(training):
    one = training()

    def diverge(*args):
        with torch.no_grad():
            next(one.model.parameters()).fill_(torch.nan)  # as the last step of an epoch may

    one._trainer.optimizer.register_step_post_hook(diverge)
    with pytest.raises(InputError, match="lower the learning rate"):
        one.fit()
    assert not one.folder.has("surrogate.safetensors")


def test_a_training_does_not_depend_on_what_was_drawn_before(training):
    one = training(folder="one")
    one.fit()
    torch.rand(7), np.random.rand(3)
    other = training(folder="other")
    other.fit()
    assert_same(weights_of(other), weights_of(one))


def test_a_watched_training_is_the_same_and_keeps_nothing(training):
    unwatched = training(folder="unwatched")
    unwatched.fit()
    one, seen = training(folder="watched"), []
    one.watch(lambda model: seen.append({name: value.clone() for name, value in model.state_dict().items()}))
    assert len(seen) == 4 and list(one.folder.path.iterdir()) == []
    kept = unwatched._trainer.curve.kept_epoch
    assert_same(seen[kept], weights_of(unwatched))
    assert replace(one._trainer.curve, kept_epoch=kept) == unwatched._trainer.curve


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_at", [2, 3])
def test_a_training_that_was_interrupted_ends_as_it_would_have_and_costs_as_much(training, monkeypatch, killed_at):
    epochs = []
    monkeypatch.setattr(step_module, "perf_counter", lambda: len(epochs))

    def fit(folder, killed_at=None):
        one = training(folder=folder)
        validate, calls = one._trainer._valid_epoch, []

        def counted(*args, **kwargs):
            epochs.append(None)
            calls.append(None)
            if len(calls) == killed_at:
                raise Killed
            return validate(*args, **kwargs)

        monkeypatch.setattr(one._trainer, "_valid_epoch", counted)
        with step(one.folder, "surrogate"):
            one.fit()
        return one

    whole = fit("whole")
    with pytest.raises(Killed):
        fit("killed", killed_at)
    assert RunFolder(whole.folder.path.parent / "killed").has(f"surrogate.safetensors.state{UNFINISHED}")
    resumed = fit("killed")
    assert_same(weights_of(resumed), weights_of(whole))
    assert records(resumed.folder)["surrogate"]["seconds"] == records(whole.folder)["surrogate"]["seconds"] == 4
