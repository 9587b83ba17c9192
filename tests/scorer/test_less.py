"""Gradient scores against autograd, a warm-up that is undone, and Adam's next step against Adam itself."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.optim import Adam

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import (
    GradientSimilarityScorer,
    LESSScorer,
    LLMGradientScorer,
    less,
    representation,
    warm_up,
)
from recbole_dealrec.scorer.gradient_projection import GradientProjection
from recbole_dealrec.scorer.gradient_score import projected_gradients, unit_rows
from recbole_dealrec.scorer.warm_up import AdamMoments, warmed_up
from recbole_dealrec.store import score_checkpoint
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint


@pytest.fixture(params=["BIGRec", "TIGER"])
def setting(request, bigrec, tiger, randomise_adapter):
    """A recommender with a small network, candidate samples and validation samples."""
    if request.param == "BIGRec":
        model, splits = bigrec(tokens_per_batch=500)
        randomise_adapter(model.network)
    else:
        model, splits = tiger(tokens_per_batch=40)
    return model, CandidateSamples.from_dataset(splits.train), CandidateSamples.from_dataset(splits.valid)


def trained(model):
    return {name: value for name, value in model.network.named_parameters() if value.requires_grad}


def one_by_one(model, samples):
    """Gradients of each trained parameter for each sample by a backward pass of its own, by name, [n, ...]."""
    model.network.eval()
    rows = []
    for row in range(len(samples)):
        loss = sample_losses(model.network, model.batch([samples.history(row)], samples.item_id[[row]])).sum()
        rows.append(torch.autograd.grad(loss, list(trained(model).values()), materialize_grads=True))
    return {name: torch.stack(each) for name, each in zip(trained(model), zip(*rows, strict=True), strict=True)}


def projection(model, gradients):
    made = GradientProjection(model.network, model.config["seed"])
    return made((name, [values]) for name, values in gradients.items()).numpy()


def flat(gradients):
    return torch.cat([values.flatten(1) for values in gradients.values()], dim=1).double().numpy()


def state(model):
    weights = {name: value.detach().clone() for name, value in model.network.state_dict().items()}
    flags = [(value.requires_grad, value.grad is None) for value in model.network.parameters()]
    return weights, flags, [module.training for module in model.network.modules()], torch.get_rng_state().tolist()


def assert_same_state(left, right):
    assert left[1:] == right[1:]
    assert all(torch.equal(value, right[0][name]) for name, value in left[0].items())


def test_gradients_are_the_projected_ones_of_autograd(setting):
    model, samples, _ = setting
    before = state(model)
    found = LLMGradientScorer(model).score(samples)
    assert_same_state(state(model), before)
    assert found.dtype == np.float32 and found.shape == (len(samples), 1024)
    gradients = one_by_one(model, samples)
    np.testing.assert_allclose(found, projection(model, gradients), rtol=1e-3, atol=1e-4 * np.abs(found).max())
    # They keep the cosines of the whole gradients.
    cosines, expected = (unit @ unit.T for unit in map(unit_rows, (found.astype(np.float64), flat(gradients))))
    assert np.abs(cosines - expected).max() < 0.3 and np.corrcoef(cosines.ravel(), expected.ravel())[0, 1] > 0.95


def test_similarity_is_the_mean_of_the_cosines(setting, monkeypatch):
    model, samples, valid = setting
    gradients = LLMGradientScorer(model).score(samples)
    gradients[2] = 0
    found = GradientSimilarityScorer(model, valid, gradients).score(samples)
    assert found.dtype == np.float64 and found[2] == 0
    units = [unit_rows(each.astype(np.float64)) for each in (gradients, projection(model, one_by_one(model, valid)))]
    np.testing.assert_allclose(found, (units[0] @ units[1].T).mean(axis=1), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(representation, "_MOST_VALID", 1)
    one = GradientSimilarityScorer(model, valid, gradients).score(samples)
    assert np.isclose(units[0] @ units[1].T, one[:, None], rtol=1e-3, atol=1e-4).all(axis=0).any()


def test_patterns_that_match_nothing_are_an_error(bigrec):
    model, splits = bigrec(effort_parameters=["*.31.*"])
    with pytest.raises(InputError, match="match no trained parameter"):
        LLMGradientScorer(model).score(CandidateSamples.from_dataset(splits.train))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_direction_is_the_next_step_of_adam(steps):
    torch.manual_seed(0)
    weights = {"matrix": torch.nn.Parameter(torch.randn(3, 4)), "bias": torch.nn.Parameter(torch.randn(5))}
    optimizer = Adam(weights.values(), lr=0.5)
    for _ in range(steps):
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    moments = AdamMoments(optimizer, weights)
    samples = {name: torch.randn(6, *weight.shape) for name, weight in weights.items()}
    for row in range(6):
        stepped, other = deepcopy((weights, optimizer))
        for name, weight in stepped.items():
            weight.grad = samples[name][row].clone()
        other.step()
        for name, weight in weights.items():
            change = (weight - stepped[name]).detach() / 0.5
            torch.testing.assert_close(moments.direction(name, samples[name])[row], change, rtol=1e-4, atol=1e-5)


def test_a_warm_up_lowers_the_loss_and_is_undone(setting):
    model, samples, _ = setting
    model.network.train()
    before, loss = state(model), lambda: float(model.eval().sample_losses(interaction).detach().mean())
    interaction = samples.interaction(model.config, np.arange(len(samples)))
    at_first = loss()
    model.network.train()
    with warmed_up(model, samples):
        assert loss() < at_first
        model.network.train()
    assert_same_state(state(model), before)
    with pytest.raises(KeyError), warmed_up(model, samples):
        raise KeyError
    assert_same_state(state(model), before)


def test_a_warm_up_with_a_loss_that_is_not_finite_is_refused_and_undone(setting, monkeypatch):
    model, samples, valid = setting
    before = state(model)
    monkeypatch.setattr(warm_up, "sample_losses", lambda *args: sample_losses(*args) * float("nan"))
    with pytest.raises(InputError, match="loss of the warm-up is not finite"):
        LESSScorer(model, valid).score(samples)
    assert_same_state(state(model), before)


def test_a_warm_up_is_that_of_adam_on_whole_steps(setting, monkeypatch):
    model, samples, _ = setting
    copy = deepcopy(model.network).eval()
    optimizer = Adam([value for value in copy.parameters() if value.requires_grad], 1e-3)
    random = np.random.default_rng(model.config["seed"])
    for _ in range(4):
        order = random.permutation(len(samples))
        for rows in np.array_split(order, 3):
            batch = model.batch([samples.history(row) for row in rows], samples.item_id[rows])
            optimizer.zero_grad()
            sample_losses(copy, batch).mean().backward()
            optimizer.step()
    monkeypatch.setattr("recbole_dealrec.scorer.warm_up.STEP_SAMPLES", 5)  # 12 samples
    expected = dict(copy.named_parameters())
    with warmed_up(model, samples):
        for name, value in trained(model).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-4)


def expected_cosines(model, samples, valid):
    """Cosines of exact steps and gradients, whole and projected, [n, m]; columns in the order of the samples."""
    with warmed_up(model, samples[representation.drawn_rows(len(samples), 128, model.config["seed"])]) as moments:
        steps, goals = one_by_one(model, samples), one_by_one(model, valid)
        steps = {name: moments.direction(name, values) for name, values in steps.items()}
    whole = unit_rows(flat(steps)) @ unit_rows(flat(goals)).T
    return whole, unit_rows(projection(model, steps)) @ unit_rows(projection(model, goals)).T


def test_less_is_the_cosine_of_adams_steps_and_gradients(setting):
    model, samples, valid = setting
    before = state(model)
    found = LESSScorer(model, valid).score(samples)
    assert_same_state(state(model), before)
    assert found.dtype == np.float32 and found.shape == (len(samples), len(valid))
    whole, projected = expected_cosines(model, samples, valid)
    order = representation.drawn_rows(len(valid), 1000, model.config["seed"])
    np.testing.assert_allclose(found, projected[:, order], atol=5e-3)
    assert np.abs(found - whole[:, order]).max() < 0.3


def test_a_validation_sample_is_nearest_to_its_twins_step(setting):
    """Planted: the candidates contain the validation samples."""
    model, samples, valid = setting
    columns = ("user_id", "item_id", "item_id_list", "item_length", "rows")
    joined = {name: np.concatenate([getattr(samples, name), getattr(valid, name)]) for name in columns}
    both = CandidateSamples(**joined, titles=samples.titles)
    gradients = LLMGradientScorer(model).score(both)
    goals = unit_rows(gradients[len(samples) :])
    cosines = unit_rows(gradients) @ goals.T
    np.testing.assert_array_equal(cosines.argmax(axis=0), len(samples) + np.arange(len(valid)))


def test_the_validation_samples_are_drawn_by_the_seed_where_they_are_too_many(setting, monkeypatch):
    model, samples, valid = setting
    everything = LESSScorer(model, valid).score(samples)
    monkeypatch.setattr(representation, "_MOST_DISTANCES", 2 * len(samples))
    two = LESSScorer(model, valid).score(samples)
    assert two.shape == (len(samples), 2)
    np.testing.assert_allclose(two, everything[:, :2], atol=1e-2)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("make", [LLMGradientScorer, LESSScorer])
def test_an_interrupted_score_goes_on(setting, make, monkeypatch, tmp_path):
    model, samples, valid = setting
    monkeypatch.setattr(score_checkpoint, "_SECONDS", -1)
    monkeypatch.setattr(score_checkpoint, "_WRITING_SHARE", float("inf"))
    needed = (model, valid) if make is LESSScorer else (model,)
    expected, sizes = make(*needed).score(samples), []
    batches = model.batches

    def killing(part):
        for number, (index, batch) in enumerate(batches(part)):
            if len(part) == len(samples) and number == 2:
                raise Killed
            yield index, batch

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(model, "batches", killing)
        patch.setattr(less, "WARM_UP_SAMPLES", 11)
        make(*needed, ScoreCheckpoint(RunFolder(tmp_path / "run"))).score(samples)
    project = GradientProjection.__call__

    def counted(self, *args):
        sizes.append(None)
        return project(self, *args)

    monkeypatch.setattr(GradientProjection, "__call__", counted)
    made = make(*needed, ScoreCheckpoint(RunFolder(tmp_path / "run"))).score(samples)
    saved = 2
    valid_passes = len(list(batches(valid))) if make is LESSScorer else 0
    assert len(sizes) == len(list(batches(samples))) - saved + valid_passes
    if make is LLMGradientScorer:
        np.testing.assert_array_equal(made, expected)


def test_a_batch_that_does_not_fit_is_computed_in_parts(setting, monkeypatch):
    model, samples, _ = setting
    index, batch = max(model.batches(samples), key=lambda each: len(each[0]))
    with projected_gradients(model) as project:
        expected = project(batch)
        whole = GradientProjection.__call__

        def small_only(self, gradients, direction=None):
            vectors = whole(self, gradients, direction)
            if len(vectors) > 1:
                raise MemoryError
            return vectors

        monkeypatch.setattr(GradientProjection, "__call__", small_only)
        np.testing.assert_allclose(project(batch), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert len(index) > 1
