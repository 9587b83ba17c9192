"""Influence scores against dense Hessians, gradients taken one by one, and retraining."""

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import combinations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import softmax_loss
from recbole_dealrec.model.surrogate import surrogate as surrogate_module
from recbole_dealrec.model.surrogate.surrogate import EveryPosition, build_surrogate
from recbole_dealrec.scorer import InfluenceScorer, solver
from recbole_dealrec.scorer.problem import Problem
from recbole_dealrec.scorer.surrogate_loss import AfterAttention, LastHidden, LastPosition, Logits, outputs_of

SMALL = {"surrogate_hidden_size": 4, "surrogate_n_layers": 1, "surrogate_inner_size": 8}
SIZES = {
    "GRU4Rec": {"surrogate_hidden_size": 4, "surrogate_embedding_size": 4},
    "NARM": {"surrogate_hidden_size": 4, "surrogate_embedding_size": 4},
    "NextItNet": {"surrogate_embedding_size": 4, "surrogate_block_num": 1, "surrogate_dilations": [1, 2]},
    "Caser": {"surrogate_embedding_size": 4, "surrogate_nh": 1, "surrogate_nv": 1},
}
AS_IN_THE_PAPER = {"hessian_damping": 0.5, "curvature": "hessian"}
ATTENTION = "trm_encoder.layer.0.multi_head_attention.dense.weight"
LAMBDA = 0.8


@pytest.fixture
def problem(ten):
    """``problem(model, **keys)``: configuration, candidates, validation samples and a surrogate of random weights."""

    def make(model="SASRec", scale=0.4, seed=0, build=lambda own, train: own.model_class(own, train), **keys):
        size = SIZES.get(model, SMALL)
        config = ten(surrogate_model=model, MAX_ITEM_LIST_LENGTH=6, **{**AS_IN_THE_PAPER, **size, **keys})
        splits = load_splits(config)
        surrogate = surrogate_of(config, splits.train, scale, seed, build)
        samples, valid = (CandidateSamples.from_dataset(part) for part in (splits.train, splits.valid))
        return config, samples, valid, surrogate

    return make


def surrogate_of(config, train, scale, seed, build):
    torch.manual_seed(seed)
    surrogate = build(config.surrogate(), train).double()
    with torch.no_grad():
        for parameter in surrogate.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
        surrogate.item_embedding.weight[0] = 0
    return surrogate


@pytest.fixture
def fixed_lambda(monkeypatch):
    """Makes damping absolute, in units of LAMBDA."""
    monkeypatch.setattr(solver.Krylov, "largest_eigenvalue", lambda krylov: LAMBDA)


@pytest.fixture
def tight_cg(monkeypatch):
    """Conjugate gradients to the last digits."""
    solve = solver.Krylov.solve
    tight = lambda krylov, damping, **_: solve(krylov, damping, tolerance=1e-11, max_products=2000)  # noqa: E731
    monkeypatch.setattr(solver.Krylov, "solve", tight)


def chosen(surrogate, patterns=None):
    """Parameters that are not embedding tables, or those whose names hold one of the words."""
    if patterns is None:
        return [p for name, p in surrogate.named_parameters() if not name.endswith("embedding.weight")]
    return [p for name, p in surrogate.named_parameters() if any(word in name for word in patterns)]


def logits_of(surrogate, samples, rows):
    """Logits on rows padded to the full width."""
    return surrogate.full_sort_predict(
        Interaction({
            "user_id": torch.from_numpy(samples.user_id[rows]),
            "item_id_list": torch.from_numpy(samples.item_id_list[rows]),
            "item_length": torch.from_numpy(samples.item_length[rows]),
        })
    )  # fmt: skip


def losses_of(surrogate, samples, rows):
    targets = torch.from_numpy(samples.item_id[rows])
    return nn.functional.cross_entropy(logits_of(surrogate, samples, rows), targets, reduction="none")


def flat_grad(scalar, parameters, **options):
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(scalar, parameters, **options)])


def gradients(surrogate, samples, parameters):
    """One by one, [n, P]."""
    surrogate.eval()
    rows = [np.array([row]) for row in range(len(samples))]
    return torch.stack([flat_grad(losses_of(surrogate, samples, row)[0], parameters) for row in rows])


def dense_hessian(surrogate, samples, parameters):
    surrogate.eval()
    loss = losses_of(surrogate, samples, np.arange(len(samples))).mean()
    slope = flat_grad(loss, parameters, create_graph=True)
    options = {"retain_graph": True, "materialize_grads": True}
    return torch.stack([flat_grad(entry, parameters, **options) for entry in slope])


def dense_gauss_newton(surrogate, samples, parameters):
    surrogate.eval()
    total = 0
    for row in range(len(samples)):
        logits = logits_of(surrogate, samples, np.array([row]))[0]
        jacobian = torch.stack([flat_grad(entry, parameters, retain_graph=True) for entry in logits])
        p = logits.softmax(dim=0).detach()
        total += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(samples)


def expected_scores(curvature, damping, v, sample_gradients):
    x = torch.linalg.solve(curvature + damping * torch.eye(len(v), dtype=v.dtype), v)
    return (sample_gradients @ x).numpy()


def assert_scores(found, expected, tolerance):
    assert found.dtype == np.float64 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


CURVATURES = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton}


def positive_damping(matrix):
    """A damping, not above the curvature itself, that makes the matrix positive definite."""
    values = torch.linalg.eigvalsh(matrix)
    return max(1.2 * -float(values[0]), 0.1 * float(values[-1]))


def assert_equal_to_dense(config, samples, surrogate, curvature, tolerance, parameters=None):
    parameters = chosen(surrogate) if parameters is None else parameters
    matrix = CURVATURES[curvature](surrogate, samples, parameters)
    damping = positive_damping(matrix)
    config["curvature"], config["hessian_damping"] = curvature, damping / LAMBDA
    each = gradients(surrogate, samples, parameters)
    expected = expected_scores(matrix, damping, each.mean(dim=0), each)
    assert_scores(InfluenceScorer(surrogate, config).score(samples), expected, tolerance)
    without_curvature = (each @ each.mean(dim=0)).numpy() / damping
    assert np.abs(expected - without_curvature).max() > 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "NARM", "NextItNet", "Caser"])
def test_against_dense_linear_algebra(model, curvature, problem, fixed_lambda, tight_cg, caplog):
    config, samples, _, surrogate = problem(model)
    assert_equal_to_dense(config, samples, surrogate, curvature, 1e-7)
    assert not caplog.records


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_in_chunks_of_logits_against_dense_linear_algebra(
    model, curvature, rows, problem, fixed_lambda, tight_cg, monkeypatch
):
    config, samples, _, surrogate = problem(model, build=build_surrogate)
    assert isinstance(surrogate, EveryPosition)
    monkeypatch.setitem(softmax_loss._LOGITS_PER_CHUNK, "cpu", rows * surrogate.n_items)
    monkeypatch.setattr(softmax_loss, "_LEAST_ROWS", 1)
    assert_equal_to_dense(config, samples, surrogate, curvature, 1e-7)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize(
    ("patterns", "form"),
    [
        (["*.1.multi_head_attention.dense.weight"], AfterAttention),
        (["*.1.multi_head_attention.dense.*", "*.1.multi_head_attention.LayerNorm.*", "*.1.feed_forward.*"],
         AfterAttention),
        (["*.1.multi_head_attention.value.weight"], LastPosition),
        (["*.1.multi_head_attention.query.*", "*.1.multi_head_attention.key.*", "LayerNorm.*"], LastPosition),
        (["*.0.feed_forward.*", "*.1.feed_forward.*"], LastPosition),
        (["item_embedding.weight", "*.1.feed_forward.*"], Logits),
    ],
)  # fmt: skip
def test_each_form_of_the_outputs_against_dense_linear_algebra(
    patterns, form, curvature, problem, fixed_lambda, tight_cg
):
    config, samples, _, surrogate = problem(build=build_surrogate, surrogate_n_layers=2, influence_parameters=patterns)
    named = [(name, p) for name, p in surrogate.named_parameters() if any(fnmatchcase(name, it) for it in patterns)]
    assert type(outputs_of(surrogate, [name for name, _ in named])) is form
    assert_equal_to_dense(config, samples, surrogate, curvature, 1e-6, [parameter for _, parameter in named])


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_last_layer_is_computed_at_the_last_position_alone(n_layers, problem):
    config, samples, _, surrogate = problem(build=build_surrogate, surrogate_n_layers=n_layers)
    widths = []
    for layer in surrogate.trm_encoder.layer:
        layer.feed_forward.register_forward_hook(lambda module, given, output: widths.append(output.shape[1]))
    batch = samples.interaction(config, np.arange(len(samples)), trim=True)
    surrogate.eval()
    expected = LastHidden(surrogate)(batch)
    longest = int(samples.item_length.max())
    assert longest > 1 and widths == [longest] * n_layers
    widths.clear()
    torch.testing.assert_close(LastPosition(surrogate)(batch), expected)
    assert widths == [longest] * (n_layers - 1) + [1]
    torch.testing.assert_close(LastHidden(surrogate)(batch), expected)  # no hook is left


@pytest.mark.parametrize("curvature", CURVATURES)
def test_cg_as_configured(curvature, problem, fixed_lambda, caplog):
    config, samples, _, surrogate = problem()
    assert_equal_to_dense(config, samples, surrogate, curvature, 5e-3)
    assert not caplog.records


@pytest.mark.parametrize("curvature", CURVATURES)
def test_exact(curvature, problem, fixed_lambda):
    config, samples, _, surrogate = problem(hessian_solver="exact", influence_parameters=[ATTENTION])
    assert_equal_to_dense(config, samples, surrogate, curvature, 1e-8, chosen(surrogate, [ATTENTION]))


def test_single_precision(problem, fixed_lambda):
    config, samples, _, surrogate = problem(curvature="gauss_newton")
    expected = InfluenceScorer(surrogate, config).score(samples)
    assert_scores(InfluenceScorer(surrogate.float(), config).score(samples), expected, 2e-3)


def test_damping_is_relative_to_the_largest_eigenvalue(problem, tight_cg, caplog):
    caplog.set_level("INFO")
    config, samples, _, surrogate = problem(curvature="gauss_newton", hessian_damping=0.25)
    parameters = chosen(surrogate)
    matrix = dense_gauss_newton(surrogate, samples, parameters)
    found = InfluenceScorer(surrogate, config).score(samples)
    largest, damping = map(float, re.search(r"curvature (\S+), damping (\S+)", caplog.text).groups())
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=0.05)
    assert damping == pytest.approx(0.25 * largest, rel=1e-3)
    each = gradients(surrogate, samples, parameters)
    assert_scores(found, expected_scores(matrix, damping, each.mean(dim=0), each), 2e-3)


def test_risk_of_other_samples(problem, fixed_lambda, tight_cg):
    config, samples, valid, surrogate = problem(curvature="gauss_newton")
    parameters = chosen(surrogate)
    v = gradients(surrogate, valid, parameters).mean(dim=0)
    each = gradients(surrogate, samples, parameters)
    matrix = dense_gauss_newton(surrogate, samples, parameters)
    found = InfluenceScorer(surrogate, config, risk_samples=valid).score(samples)
    assert_scores(found, expected_scores(matrix, 0.5 * LAMBDA, v, each), 1e-8)
    assert np.abs(found - InfluenceScorer(surrogate, config).score(samples)).max() > 0.1 * np.abs(found).max()


@torch.no_grad()
def test_gradients_of_the_losses_are_computed_once(problem, monkeypatch):
    config, samples, _, surrogate = problem(curvature="gauss_newton", build=build_surrogate)
    of_batch, rows = LastHidden.loss_gradient, []

    def counted(self, outputs, targets):
        rows.append(len(outputs))
        return of_batch(self, outputs, targets)

    monkeypatch.setattr(LastHidden, "loss_gradient", counted)
    problem = Problem(surrogate.eval(), config)
    v = problem.mean_gradient(samples)
    found = problem.directional_derivatives(samples, v)
    assert sum(rows) == len(samples)
    rows.clear()
    np.testing.assert_array_equal(found, Problem(surrogate, config).directional_derivatives(samples, v))
    np.testing.assert_allclose(found[:3], problem.directional_derivatives(samples[np.arange(3)], v))
    assert sum(rows) == len(samples) + 3


def test_several_surrogates_are_averaged(problem):
    config, samples, _, first = problem(curvature="gauss_newton", influence_parameters=["*.dense.weight"])
    *_, second = problem(seed=1)
    scores = [InfluenceScorer(surrogate, config).score(samples) for surrogate in (first, second)]
    assert np.abs(scores[0] - scores[1]).max() > 0.1 * np.abs(scores[0]).max()
    assert_scores(InfluenceScorer([first, second], config).score(samples), (scores[0] + scores[1]) / 2, 1e-12)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ([ATTENTION], [ATTENTION]),
        (["trm_encoder.*.query.*", "LayerNorm.bias"], [".query.", "\nLayerNorm.bias"]),
        (["item_embedding.weight"], ["item_embedding.weight"]),
    ],
)
def test_parameter_patterns(patterns, words, problem, fixed_lambda):
    config, samples, _, surrogate = problem(hessian_solver="exact", influence_parameters=patterns)
    parameters = [p for name, p in surrogate.named_parameters() if any(word in f"\n{name}" for word in words)]
    assert len(parameters) == {ATTENTION: 1, "item_embedding.weight": 1}.get(patterns[0], 3)
    assert_equal_to_dense(config, samples, surrogate, "hessian", 1e-8, parameters)


def test_patterns_that_match_nothing_name_the_parameters(problem):
    config, samples, _, surrogate = problem(influence_parameters=["no.such.*"])
    with pytest.raises(InputError, match=rf"influence_parameters \['no.such.\*'\].*{re.escape(ATTENTION)}"):
        InfluenceScorer(surrogate, config).score(samples)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("rows", [1, 6])
def test_batch_size_does_not_matter(curvature, rows, problem, fixed_lambda, tight_cg, monkeypatch):
    config, samples, _, surrogate = problem(curvature=curvature, hessian_damping=8.0, influence_parameters=[ATTENTION])
    whole = InfluenceScorer(surrogate, config).score(samples)
    monkeypatch.setattr(surrogate_module, "_LOGITS_PER_BATCH", rows * surrogate.n_items - 1 + rows % 2)
    assert_scores(InfluenceScorer(surrogate, config).score(samples), whole, 1e-10)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_padding_does_not_matter_to_causal_models(model, problem, fixed_lambda, tight_cg):
    config, samples, _, surrogate = problem(model, curvature="gauss_newton")
    whole = InfluenceScorer(surrogate, config).score(samples)
    surrogate.__class__ = type(model, (EveryPosition, type(surrogate)), {})
    # Positions past the sixth do not exist: the histories have to be trimmed.
    wide = replace(samples, item_id_list=np.pad(samples.item_id_list, [(0, 0), (0, 7)]))
    assert_scores(InfluenceScorer(surrogate, config).score(wide), whole, 1e-10)


def test_order_does_not_matter(problem, fixed_lambda, tight_cg):
    config, samples, _, surrogate = problem(curvature="gauss_newton")
    whole = InfluenceScorer(surrogate, config).score(samples)
    order = np.random.default_rng(0).permutation(len(samples))
    assert_scores(InfluenceScorer(surrogate, config).score(samples[order]), whole[order], 1e-10)


def test_the_surrogate_is_left_as_it_was(problem):
    config, samples, _, surrogate = problem(curvature="gauss_newton")
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    surrogate.train()
    first = InfluenceScorer(surrogate, config).score(samples)
    assert surrogate.training and surrogate.dropout.training
    surrogate.eval()
    np.testing.assert_array_equal(InfluenceScorer(surrogate, config).score(samples), first)  # no dropout
    assert not surrogate.training
    for name, value in surrogate.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(p.requires_grad and p.grad is None for p in surrogate.parameters())


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_an_indefinite_hessian_gets_more_damping_and_a_warning(method, problem, fixed_lambda, tight_cg, caplog):
    config, samples, _, surrogate = problem(
        hessian_solver=method, hessian_damping=0.02, influence_parameters=[ATTENTION]
    )
    parameters = chosen(surrogate, [ATTENTION])
    matrix = dense_hessian(surrogate, samples, parameters)
    smallest = -float(torch.linalg.eigvalsh(matrix)[0])
    assert smallest > 0.02 * LAMBDA
    found = InfluenceScorer(surrogate, config).score(samples)
    doublings = sum("the curvature is indefinite" in record.message for record in caplog.records)
    assert all(record.levelname == "WARNING" for record in caplog.records)
    damping = 0.02 * LAMBDA * 2**doublings
    assert doublings > 0 and np.isfinite(found).all()
    if method == "exact":
        assert damping / 2 <= smallest < damping
    each = gradients(surrogate, samples, parameters)
    expected = expected_scores(matrix, damping, each.mean(dim=0), each)
    assert_scores(found, expected, 1e-6)


def test_a_hessian_that_stays_indefinite_is_an_error(problem, fixed_lambda):
    config, samples, _, surrogate = problem(
        hessian_solver="exact", hessian_damping=1e-12, influence_parameters=[ATTENTION]
    )
    with pytest.raises(ArithmeticError, match="stays indefinite.*gauss_newton"):
        InfluenceScorer(surrogate, config).score(samples)


@pytest.mark.parametrize("method", ["cg", "exact", "lissa"])
def test_weights_that_are_not_finite_are_an_error(method, problem):
    config, samples, _, surrogate = problem(hessian_solver=method, lissa_depth=5, influence_parameters=[ATTENTION])
    with torch.no_grad():
        surrogate.LayerNorm.weight[0] = float("nan")
    with pytest.raises(InputError, match="not finite.*lower surrogate_learning_rate"):
        InfluenceScorer(surrogate, config).score(samples)


@pytest.mark.parametrize(("lissa_damping", "damping"), [(None, 0.5 * LAMBDA), (0.06, 0.06 * 5.0)])
def test_lissa_on_one_sample_repeated(lissa_damping, damping, problem, fixed_lambda):
    # All samples have one Hessian, so the recursion is not stochastic.
    config, samples, _, surrogate = problem(
        hessian_solver="lissa", curvature="gauss_newton", lissa_scale=5.0, lissa_depth=200,
        lissa_damping=lissa_damping, influence_parameters=[ATTENTION],
    )  # fmt: skip
    parameters = chosen(surrogate, [ATTENTION])
    same = samples[np.full(4, 8)]
    each = gradients(surrogate, same, parameters)
    matrix = dense_gauss_newton(surrogate, same, parameters)
    expected = expected_scores(matrix, damping, each.mean(dim=0), each)
    assert_scores(InfluenceScorer(surrogate, config).score(same), expected, 1e-3)


def test_lissa_draws_one_sample_a_step(problem, fixed_lambda):
    config, samples, _, surrogate = problem(
        hessian_solver="lissa", curvature="gauss_newton", lissa_scale=25.0, lissa_depth=150,
        hessian_damping=2.0, influence_parameters=[ATTENTION],
    )  # fmt: skip
    parameters = chosen(surrogate, [ATTENTION])
    each = gradients(surrogate, samples, parameters)
    matrix = dense_gauss_newton(surrogate, samples, parameters)
    expected = expected_scores(matrix, 2.0 * LAMBDA, each.mean(dim=0), each)
    first = InfluenceScorer(surrogate, config).score(samples)
    np.testing.assert_array_equal(InfluenceScorer(surrogate, config).score(samples), first)
    config["seed"] = 1
    second = InfluenceScorer(surrogate, config).score(samples)
    assert not np.array_equal(first, second)
    assert_scores((first + second) / 2, expected, 0.35)
    assert np.corrcoef(first + second, expected)[0, 1] > 0.95


def test_curvature_of_a_drawn_subset(problem, fixed_lambda, caplog):
    caplog.set_level("INFO")
    config, samples, _, surrogate = problem(
        hessian_solver="exact", curvature="gauss_newton", influence_parameters=[ATTENTION], hessian_samples=3
    )
    parameters = chosen(surrogate, [ATTENTION])
    each = gradients(surrogate, samples, parameters)
    parts = [dense_gauss_newton(surrogate, samples[[row]], parameters) for row in range(len(samples))]

    def matching(found):
        """Which three samples the curvature is of."""
        return [
            rows for rows in combinations(range(len(samples)), 3)
            if np.allclose(
                found,
                expected_scores(sum(parts[row] for row in rows) / 3, 0.5 * LAMBDA, each.mean(dim=0), each),
                rtol=1e-8, atol=0,
            )
        ]  # fmt: skip

    found = InfluenceScorer(surrogate, config).score(samples)
    (first,) = matching(found)
    error = float(re.search(r"sampling error of the curvature along the solution (\S+)", caplog.text).group(1))
    assert error > 0
    np.testing.assert_array_equal(InfluenceScorer(surrogate, config).score(samples), found)
    drawn = set()
    for seed in range(3):
        config["seed"] = seed
        drawn.update(matching(InfluenceScorer(surrogate, config).score(samples)))
    assert len(drawn | {first}) >= 3


def test_a_subset_of_all_is_all(problem, fixed_lambda):
    config, samples, _, surrogate = problem(curvature="gauss_newton", influence_parameters=[ATTENTION])
    scores = []
    for count in (0, len(samples), len(samples) + 1):
        config["hessian_samples"] = count
        scores.append(InfluenceScorer(surrogate, config).score(samples))
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_the_sampling_error_of_equal_samples_is_zero(problem, caplog):
    caplog.set_level("INFO")
    config, samples, _, surrogate = problem(curvature="gauss_newton", influence_parameters=[ATTENTION])
    InfluenceScorer(surrogate, config).score(samples[np.full(6, 3)])
    error = float(re.search(r"sampling error of the curvature along the solution (\S+)", caplog.text).group(1))
    assert error < 1e-12


class SoftmaxRegression(SequentialRecommender):
    """Logits linear in fixed features of the latest item: a convex loss."""

    def __init__(self, config, dataset, features):
        super().__init__(config, dataset)
        self.features = features
        self.output = nn.Linear(features.shape[1], self.n_items, bias=False).double()

    def full_sort_predict(self, interaction):
        latest = interaction[self.ITEM_SEQ][torch.arange(len(interaction)), interaction[self.ITEM_SEQ_LEN] - 1]
        return self.output(self.features[latest])

    def fit(self, samples, weights, damping):
        """Minimises the weighted sum of the losses over the number of samples, plus damping / 2 |W|^2."""
        weight = self.output.weight
        optimizer = torch.optim.LBFGS(
            [weight], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            losses = losses_of(self, samples, np.arange(len(samples)))
            loss = (weights * losses).mean() + damping / 2 * (weight**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def risk(self, samples):
        """Sum of the losses."""
        with torch.no_grad():
            return float(losses_of(self, samples, np.arange(len(samples))).sum())


@pytest.mark.parametrize("method", ["cg", "exact"])
def test_a_score_is_the_rise_of_the_risk_when_the_sample_is_removed(method, write_dataset, make_config, fixed_lambda):
    random = np.random.default_rng(0)
    sequences = {f"u{user}": [f"i{item}" for item in random.integers(1, 6, 4)] for user in range(60)}
    config = make_config(
        "chance", write_dataset("chance", sequences), hessian_solver=method, hessian_damping=0.05 / LAMBDA
    )
    train = load_splits(config).train
    samples = CandidateSamples.from_dataset(train)
    model = SoftmaxRegression(config, train, torch.randn(train.item_num, 3, dtype=torch.float64))
    weights = torch.ones(len(samples), dtype=torch.float64)
    model.fit(samples, weights, 0.05)
    scores = InfluenceScorer(model, config).score(samples)
    risk = np.empty((3, len(samples)))
    for sample in range(len(samples)):
        for weight in (0, 1, 2):
            weights[sample] = weight
            model.fit(samples, weights, 0.05)
            risk[weight, sample] = model.risk(samples)
        weights[sample] = 1
    removed = risk[0] - risk[1]
    assert scores.max() > 0 > scores.min()
    assert removed[scores.argmax()] > removed[scores.argmin()]
    # Against taking the sample twice, all terms of even order cancel.
    halves = (risk[0] - risk[2]) / 2
    assert np.corrcoef(scores, halves)[0, 1] > 0.99
    assert np.polyfit(scores, halves, 1)[0] == pytest.approx(1, abs=0.1)
