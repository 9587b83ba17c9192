"""What the surrogate makes of each sample, against one sample at a time."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.surrogate import EveryPosition, build_surrogate, surrogate_loader
from recbole_dealrec.scorer import EL2NScorer, GraNdScorer, LossTrajectoryScorer, SurrogateRepresentationScorer
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import SafetensorsTrainer

SIZES = {
    "SASRec": {"surrogate_hidden_size": 8, "surrogate_inner_size": 16},
    "GRU4Rec": {"surrogate_hidden_size": 8, "surrogate_embedding_size": 12},
    "BERT4Rec": {"surrogate_hidden_size": 8, "surrogate_inner_size": 16},
    "CORE": {"surrogate_embedding_size": 8, "surrogate_inner_size": 16},
    "NARM": {"surrogate_hidden_size": 8, "surrogate_embedding_size": 8},
    "Caser": {"surrogate_embedding_size": 8},
    "SINE": {"surrogate_embedding_size": 8, "surrogate_prototype_size": 4},
}


@pytest.fixture
def setting(ten):
    """``setting(model, **keys)``: configuration, splits, and ``build(seed)`` for surrogates of random weights."""

    def make(model="SASRec", **keys):
        config = ten(surrogate_model=model, **{"MAX_ITEM_LIST_LENGTH": 8, **SIZES.get(model, {}), **keys})
        splits = load_splits(config)

        def build(seed=0):
            torch.manual_seed(seed)
            surrogate = build_surrogate(config.surrogate(), splits.train)
            with torch.no_grad():
                for parameter in surrogate.parameters():
                    parameter.add_(0.5 * torch.randn_like(parameter))
            return surrogate

        return config, splits, build

    return make


def one_by_one(surrogate, samples, config):
    """Batches of one sample each."""
    for row in range(len(samples)):
        yield samples.interaction(config, np.array([row]), trim=isinstance(surrogate, EveryPosition))


def expected_errors(surrogate, samples, config):
    surrogate.eval()
    errors = []
    with torch.no_grad():
        for batch in one_by_one(surrogate, samples, config):
            logits = surrogate.full_sort_predict(batch)[0].double().numpy()
            share = np.exp(logits - logits.max())
            share /= share.sum()
            share[int(batch["item_id"])] -= 1
            errors.append(np.sqrt((share**2).sum()))
    return np.array(errors)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "NARM", "Caser"])
def test_el2n_is_the_norm_of_the_predictions_error(setting, model):
    config, splits, build = setting(model)
    samples = CandidateSamples.from_dataset(splits.train)
    found = EL2NScorer([build()], config).score(samples)
    assert found.dtype == np.float64 and found.shape == (12,)
    np.testing.assert_allclose(found, expected_errors(build(), samples, config), rtol=1e-5)
    assert np.ptp(found) > 0.1


def test_a_target_that_is_nearly_certain_keeps_its_digits(setting):
    config, splits, build = setting()
    surrogate = build()
    with torch.no_grad():
        surrogate.item_embedding.weight.mul_(25)
    samples = CandidateSamples.from_dataset(splits.train)
    with torch.no_grad():
        best = surrogate.eval().full_sort_predict(samples.interaction(config, np.arange(12))).argmax(dim=1)
    certain = CandidateSamples(
        samples.user_id, best.numpy(), samples.item_id_list, samples.item_length, samples.titles, samples.rows
    )
    expected = expected_errors(surrogate, certain, config)
    assert expected.min() < 1e-3  # a difference of squares would have lost it
    np.testing.assert_allclose(EL2NScorer([surrogate], config).score(certain), expected, rtol=1e-3, atol=1e-7)


def test_several_surrogates_are_averaged(setting):
    config, splits, build = setting()
    samples = CandidateSamples.from_dataset(splits.train)
    for scorer in (EL2NScorer, GraNdScorer):
        alone = [scorer([build(seed)], config).score(samples) for seed in (1, 2, 3)]
        together = scorer([build(seed) for seed in (1, 2, 3)], config).score(samples)
        np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-12)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "NARM"])
def test_grand_is_the_norm_of_the_output_layers_gradient(setting, model):
    config, splits, build = setting(model)
    samples = CandidateSamples.from_dataset(splits.train)
    surrogate = build().eval()
    expected = []
    for batch in one_by_one(surrogate, samples, config):
        hidden = surrogate(batch["item_id_list"], batch["item_length"]).detach()
        output = surrogate.item_embedding.weight.detach().clone().requires_grad_()  # the same numbers, but its own
        torch.testing.assert_close(hidden @ output.T, surrogate.full_sort_predict(batch))
        loss = torch.nn.functional.cross_entropy(hidden @ output.T, batch["item_id"])
        expected.append(float(torch.autograd.grad(loss, output)[0].norm()))
    found = GraNdScorer([surrogate], config).score(samples)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "NARM"])
def test_the_representation_is_the_last_hidden_state(setting, model):
    config, splits, build = setting(model)
    samples = CandidateSamples.from_dataset(splits.train)
    surrogate = build().eval()
    with torch.no_grad():
        batches = one_by_one(surrogate, samples, config)
        expected = [surrogate(batch["item_id_list"], batch["item_length"])[0] for batch in batches]
    found = SurrogateRepresentationScorer(surrogate, config).score(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["BERT4Rec", "CORE", "Caser"])
@pytest.mark.parametrize("scorer", ["grand", "representation"])
def test_a_surrogate_without_one_hidden_state_is_refused(setting, model, scorer):
    config, splits, build = setting(model)
    samples = CandidateSamples.from_dataset(splits.train)
    made = GraNdScorer([build()], config) if scorer == "grand" else SurrogateRepresentationScorer(build(), config)
    with pytest.raises(InputError, match=f"surrogate_model '{model}' does not compute one hidden state per history"):
        made.score(samples)


def test_grand_refuses_logits_that_are_no_products(setting):
    config, splits, build = setting("NARM")
    surrogate = build()
    own = type(surrogate)
    double = {"full_sort_predict": lambda self, batch: 2 * own.full_sort_predict(self, batch)}
    surrogate.__class__ = type("Scaled", (own,), double)
    with pytest.raises(InputError, match="'Scaled' does not score items by products"):
        GraNdScorer([surrogate], config).score(CandidateSamples.from_dataset(splits.train))


@pytest.mark.parametrize("training", [True, False])
def test_the_surrogate_is_left_as_it_was(setting, training):
    config, splits, build = setting()
    surrogate = build().train(training)
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    EL2NScorer([surrogate], config).score(CandidateSamples.from_dataset(splits.train))
    assert torch.equal(torch.rand(1), drawn)
    assert surrogate.training is training
    assert all(torch.equal(value, before[name]) for name, value in surrogate.state_dict().items())
    assert all(parameter.grad is None for parameter in surrogate.parameters())


@pytest.fixture
def train(movies, tmp_path):
    """``train(epochs, watch)``: a surrogate of the part of ml-100k, trained from a fixed seed."""
    config = movies(
        surrogate_eval_step=1, surrogate_train_batch_size=64, surrogate_learning_rate=0.01, MAX_ITEM_LIST_LENGTH=20,
        **SIZES["SASRec"],
    )  # fmt: skip
    splits, own = load_splits(config), config.surrogate()

    def run(epochs, watch=None):
        own["epochs"] = epochs
        torch.manual_seed(0)
        surrogate = build_surrogate(own, splits.train)
        trainer = SafetensorsTrainer(own, surrogate, RunFolder(tmp_path), "surrogate.safetensors")
        data, valid = surrogate_loader(own, splits.train, surrogate), QueryDataLoader(own, splits.valid)
        trainer.fit(data, valid, callback_fn=watch and (lambda epoch, score: watch(surrogate)))
        return surrogate

    return config, splits, run


def test_a_trajectory_is_the_loss_after_each_evaluation(train):
    config, splits, run = train
    samples = CandidateSamples.from_dataset(splits.train, samples_per_user=1)
    watched, after = [], []
    found = LossTrajectoryScorer(lambda watch: watched.append(run(2, watch)), config).score(samples)
    assert found.dtype == np.float32 and found.shape == (200, 2)
    run(2, lambda surrogate: after.append(deepcopy(surrogate)))
    for epochs, surrogate in enumerate([after[0], run(2)], 1):  # the last one trained with nobody watching
        surrogate.eval()
        with torch.no_grad():
            logits = surrogate.full_sort_predict(samples.interaction(config, np.arange(200)))
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(samples.item_id), reduction="none")
        np.testing.assert_allclose(found[:, epochs - 1], expected, rtol=1e-4)
    for name, value in surrogate.state_dict().items():
        assert torch.equal(value, watched[0].state_dict()[name]), name
    assert found[:, 1].mean() < found[:, 0].mean()


def test_a_training_without_evaluation_has_no_trajectory(train):
    config, splits, run = train
    scorer = LossTrajectoryScorer(lambda watch: run(0, watch), config)
    with pytest.raises(InputError, match="never evaluated.*surrogate_eval_step to 1 or more"):
        scorer.score(CandidateSamples.from_dataset(splits.train, samples_per_user=1))
