"""The linear solvers against dense linear algebra in float64."""

import re

import numpy as np
import pytest
import torch
from torch.func import hessian

from recbole_dealrec.scorer import inverse_hvp, solver
from recbole_dealrec.scorer.solver import IndefiniteCurvatureError


def spd_matrix(n, seed, low=0.1, high=4.0):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.linspace(low, high, n, dtype=torch.float64)) @ basis.T


def quadratic(matrix):
    return lambda theta: theta @ matrix @ theta / 2


def vector(n, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(matrix, v, damping):
    return torch.linalg.solve(matrix + damping * torch.eye(len(v), dtype=v.dtype), v)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_cg_on_a_quadratic(seed, damping):
    matrix, v = spd_matrix(20, seed), vector(20)
    found = inverse_hvp(quadratic(matrix), vector(20, 5), v, "cg", damping=damping, tolerance=1e-10)
    assert relative_error(found, dense(matrix, v, damping)) < 1e-8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_on_a_quadratic(seed):
    matrix, v = spd_matrix(20, seed), vector(20)
    found = inverse_hvp(quadratic(matrix), vector(20, 5), v, "exact", damping=0.3)
    assert relative_error(found, dense(matrix, v, 0.3)) < 1e-12


def logistic(n=200, d=6, seed=0):
    """Loss of a batch (X, y), parameters, and all data, for two-class logistic regression with weights and bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = (torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ vector(d))).double()

    def loss(parameters, batch=(x, y)):
        logits = batch[0] @ parameters["weight"] + parameters["bias"]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch[1])

    return loss, {"weight": vector(d, 2) / 2, "bias": torch.tensor([0.2], dtype=torch.float64)}, (x, y)


def logistic_hessian(parameters, x):
    """X^T diag(p (1 - p)) X / n, with a column of ones for the bias."""
    p = torch.sigmoid(x @ parameters["weight"] + parameters["bias"])
    wide = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    return wide.T @ (wide * (p * (1 - p))[:, None]) / len(x)


@pytest.mark.parametrize(("method", "error"), [("cg", 1e-8), ("exact", 1e-8), ("lissa", 1e-6)])
def test_logistic_regression(method, error):
    loss, parameters, (x, _) = logistic()
    v = {"weight": vector(6, 3), "bias": vector(1, 4)}
    found = inverse_hvp(loss, parameters, v, method, damping=0.05, tolerance=1e-10, scale=0.6, recursion_depth=250)
    expected = dense(logistic_hessian(parameters, x), torch.cat([v["weight"], v["bias"]]), 0.05)
    assert list(found) == ["weight", "bias"]
    assert relative_error(torch.cat([found["weight"], found["bias"]]), expected) < error


@pytest.mark.parametrize("method", ["cg", "exact"])
def test_batches_mean_the_mean_of_their_hessians(method):
    loss, parameters, (x, y) = logistic()
    parts = [slice(0, 60), slice(60, 90), slice(90, 200)]  # of unequal size, taken as equal
    v = {"weight": vector(6, 3), "bias": vector(1, 4)}
    found = inverse_hvp(
        loss, parameters, v, method, damping=0.05, batches=((x[part], y[part]) for part in parts), tolerance=1e-10
    )
    matrix = sum(logistic_hessian(parameters, x[part]) for part in parts) / 3
    expected = dense(matrix, torch.cat([v["weight"], v["bias"]]), 0.05)
    assert relative_error(torch.cat([found["weight"], found["bias"]]), expected) < 1e-8


def test_lissa_is_exact_where_all_batches_have_one_hessian():
    matrix, v = spd_matrix(8, 0), vector(8)
    shifts = [vector(8, seed) for seed in range(5)]  # a linear term moves the gradient, not the Hessian
    found = inverse_hvp(
        lambda theta, shift: quadratic(matrix)(theta) + shift @ theta, vector(8, 5), v, "lissa",
        damping=0.5, batches=shifts, scale=5.0, recursion_depth=400,
    )  # fmt: skip
    assert relative_error(found, dense(matrix, v, 0.5)) < 1e-10


@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_the_scale_of_lissa_does_not_move_its_fixed_point(scale):
    matrix, v = spd_matrix(8, 0), vector(8)
    found = inverse_hvp(quadratic(matrix), vector(8, 5), v, "lissa", damping=0.5, scale=scale, recursion_depth=500)
    assert relative_error(found, dense(matrix, v, 0.5)) < 1e-10


def test_lissa_with_drawn_batches_is_right_on_average():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6)))
    matrices, v = [torch.outer(row, row) for row in rows], vector(6)
    expected = dense(sum(matrices) / len(matrices), v, 0.5)

    def solve(seed, repeats=1):
        draws = np.random.default_rng(seed)
        draw = lambda h: matrices[draws.integers(len(matrices))] @ h  # noqa: E731
        return solver.lissa(draw, v, 0.5, scale=60.0, depth=1500, repeats=repeats).x

    singles = torch.stack([solve(seed) for seed in range(8)])
    assert 0 < relative_error(singles[0], expected) < 0.5
    assert relative_error(singles.mean(dim=0), expected) < 0.1
    averaged = torch.stack([solve(seed, repeats=8) for seed in (100, 200, 300)])
    spread = (averaged - expected).norm(dim=1).mean() / (singles - expected).norm(dim=1).mean()
    assert spread < 0.75  # 1 / sqrt(8) but for chance


def test_lissa_draws_its_batches_by_the_seed():
    matrices, v = [torch.diag(row) for row in torch.rand(10, 4, dtype=torch.float64)], vector(4)

    def solve(seed):
        return inverse_hvp(
            lambda theta, matrix: quadratic(matrix)(theta), v, v, "lissa", damping=0.5, batches=matrices, scale=3.0,
            recursion_depth=100, seed=seed,
        )  # fmt: skip

    torch.testing.assert_close(solve(0), solve(0), rtol=0, atol=0)
    assert not torch.equal(solve(0), solve(1))
    expected = dense(sum(matrices) / len(matrices), v, 0.5)
    assert relative_error(solve(0), expected) < 0.2
    # Each step's batch counts: all of them, or the first alone, give something else.
    assert relative_error(solve(0), dense(matrices[0], v, 0.5)) > relative_error(solve(0), expected)


@pytest.mark.parametrize("method", ["cg", "lissa", "exact"])
def test_nested_structures_keep_their_form(method):
    matrix = spd_matrix(7, 3)

    def loss(tree):
        flat = torch.cat([tree["b"][0].reshape(-1), tree["b"][1], tree["a"].reshape(-1)])
        return quadratic(matrix)(flat)

    v = vector(7)
    tree = {"b": (v[:4].view(2, 2), v[4:6]), "a": v[6].view(())}
    start = {"b": (torch.zeros(2, 2).double(), torch.zeros(2).double()), "a": torch.zeros(()).double()}
    found = inverse_hvp(loss, start, tree, method, damping=0.2, tolerance=1e-12, scale=3.0, recursion_depth=300)
    assert list(found) == ["b", "a"] and isinstance(found["b"], tuple)
    assert found["b"][0].shape == (2, 2) and found["a"].shape == ()
    flat = torch.cat([found["b"][0].reshape(-1), found["b"][1], found["a"].reshape(1)])
    assert relative_error(flat, dense(matrix, v, 0.2)) < 1e-9


@pytest.mark.parametrize("method", ["cg", "exact", "lissa"])
def test_the_order_of_keys_does_not_matter(method):
    matrix = spd_matrix(5, 3)
    v = vector(5)

    def loss(tree):
        return quadratic(matrix)(torch.cat([tree["a"], tree["b"]]))

    found = inverse_hvp(
        loss, {"a": v[:2] * 0, "b": v[2:] * 0}, {"b": v[2:], "a": v[:2]}, method, damping=0.2,
        tolerance=1e-12, scale=3.0, recursion_depth=300,
    )  # fmt: skip
    assert relative_error(torch.cat([found["a"], found["b"]]), dense(matrix, v, 0.2)) < 1e-9


def test_inputs_are_left_alone():
    matrix, start, v = spd_matrix(5, 0), vector(5, 5).requires_grad_(), vector(5)
    before = start.detach().clone(), v.clone()
    for method in ("cg", "lissa", "exact"):
        found = inverse_hvp(quadratic(matrix), start, v, method, damping=0.2, scale=3.0, recursion_depth=400)
        assert not found.requires_grad
    torch.testing.assert_close(start.detach(), before[0], rtol=0, atol=0)
    torch.testing.assert_close(v, before[1], rtol=0, atol=0)
    assert start.grad is None


def test_another_structure_is_refused():
    v = vector(4)
    for odd in ({"a": v}, {"a": v[:2], "c": v[2:]}, [v[:2], v[2:]], v):
        with pytest.raises(ValueError):
            inverse_hvp(lambda tree: (tree["a"] ** 2).sum(), {"a": v[:2], "b": v[2:]}, odd, damping=0.1)


@pytest.mark.parametrize("method", ["cg", "lissa", "exact"])
def test_zero_in_zero_out(method):
    zero = torch.zeros(4, dtype=torch.float64)
    found = inverse_hvp(quadratic(spd_matrix(4, 0)), vector(4), zero, method, damping=0.1, recursion_depth=10)
    assert not found.any()


@pytest.mark.parametrize("method", ["cg", "exact"])
def test_an_indefinite_hessian_is_detected(method):
    matrix = torch.diag(torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64))
    v = torch.ones(3, dtype=torch.float64)
    with pytest.raises(IndefiniteCurvatureError):
        inverse_hvp(quadratic(matrix), v, v, method, damping=0.4)
    found = inverse_hvp(quadratic(matrix), v, v, method, damping=0.6, tolerance=1e-10)
    assert relative_error(found, dense(matrix, v, 0.6)) < 1e-8


def test_a_singular_system_is_detected_by_exact():
    matrix = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    with pytest.raises(IndefiniteCurvatureError):
        inverse_hvp(quadratic(matrix), vector(2), vector(2), "exact", damping=0.0)


def test_the_indefinite_error_says_how_far_it_is():
    matrix = torch.diag(torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64))
    with pytest.raises(IndefiniteCurvatureError, match=re.escape("smallest eigenvalue -1.000e-01")):
        inverse_hvp(quadratic(matrix), torch.ones(3).double(), torch.ones(3).double(), "exact", damping=0.4)


def test_cg_that_does_not_converge_is_warned_about_with_its_residual(caplog):
    matrix, v = spd_matrix(30, 0, low=1e-4), vector(30)
    found = inverse_hvp(quadratic(matrix), v, v, "cg", damping=0.0, max_iterations=3)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "not converged" in record.message
    assert "cg: 3 Hessian-vector products" in record.message
    reported = float(re.search(r"relative residual (\S+?):", record.message).group(1))
    assert reported == pytest.approx(float((matrix @ found - v).norm() / v.norm()), rel=1e-2)
    assert reported > 1e-4


@pytest.mark.parametrize("depth", [50, 200])
def test_lissa_that_still_grows_is_warned_about(depth, caplog):
    matrix, v = spd_matrix(8, 0, low=1e-3), vector(8)
    found = inverse_hvp(quadratic(matrix), v, v, "lissa", damping=1e-3, scale=50.0, recursion_depth=depth)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"lissa: {depth} Hessian-vector products" in record.message
    reported = float(re.search(r"relative residual (\S+?):", record.message).group(1))
    actual = float((matrix @ found + 1e-3 * found - v).norm() / v.norm())
    assert reported == pytest.approx(actual, rel=0.2) and actual > 0.1


def test_lissa_that_is_noise_is_warned_about(caplog):
    matrices = [torch.diag(torch.eye(4, dtype=torch.float64)[place]) * 4 for place in range(4)]
    inverse_hvp(
        lambda theta, matrix: quadratic(matrix)(theta), vector(4), vector(4), "lissa", damping=0.1, batches=matrices,
        scale=2.1, recursion_depth=100,
    )  # fmt: skip
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("method", ["cg", "exact", "lissa"])
def test_convergence_is_no_warning(method, caplog):
    caplog.set_level("INFO")
    matrix, v = spd_matrix(8, 0), vector(8)
    inverse_hvp(quadratic(matrix), v, v, method, damping=0.5, scale=5.0, recursion_depth=400)
    (record,) = caplog.records
    assert record.levelname == "INFO" and record.message.startswith(f"{method}: ")


def test_lissa_that_diverges_is_an_error():
    matrix, v = spd_matrix(4, 0, high=100.0), vector(4)
    with pytest.raises(ArithmeticError, match="lissa: the solution is not finite; raise the damping"):
        inverse_hvp(quadratic(matrix), v, v, "lissa", damping=0.1, scale=1.0, recursion_depth=300)


@pytest.mark.parametrize("method", ["cg", "exact", "lissa"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_curvature_that_is_not_finite_is_an_error(method, value):
    v = vector(3)
    with pytest.raises(ArithmeticError):
        inverse_hvp(lambda theta: value * (theta @ theta), v, v, method, damping=0.1, recursion_depth=20)


@pytest.mark.parametrize("method", ["cg", "exact", "lissa"])
def test_a_right_side_that_is_not_finite_is_an_error(method):
    v = vector(3)
    v[1] = float("nan")
    with pytest.raises(ArithmeticError):
        inverse_hvp(quadratic(spd_matrix(3, 0)), vector(3), v, method, damping=0.1, recursion_depth=20)


def test_exact_has_a_limit():
    v = torch.zeros(solver.EXACT_LIMIT + 1)
    with pytest.raises(ValueError, match="exact solver: 5001 parameters, at most 5000"):
        inverse_hvp(lambda theta: (theta * theta).sum(), v, v, "exact", damping=0.1)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="cg, lissa or exact, not 'newton'"):
        inverse_hvp(quadratic(spd_matrix(2, 0)), vector(2), vector(2), "newton", damping=0.1)


def test_hessian_vector_product():
    def loss(theta):
        return (theta**4).sum() + (theta[0] * theta[1:]).prod().sin()

    theta, direction = vector(4), vector(4, 9)
    found = solver.hessian_vector_product(loss, theta, direction)
    torch.testing.assert_close(found, hessian(loss)(theta) @ direction)


@pytest.mark.parametrize("values", [[5.0, 1.0, 0.5], [1.0, -5.0, 0.5], [0.0, 0.0, 5.0]])
def test_largest_eigenvalue_by_size(values):
    _, basis = torch.linalg.eigh(spd_matrix(3, 0))
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T
    found = solver.Krylov(lambda u: matrix @ u, vector(3)).largest_eigenvalue(tolerance=1e-6)
    assert found == pytest.approx(5.0, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_largest_eigenvalue_to_its_default_tolerance(seed):
    matrix = spd_matrix(200, seed, low=0.0, high=3.0)
    matrix[0, 0] += 3
    found = solver.Krylov(lambda u: matrix @ u, vector(200, seed)).largest_eigenvalue()
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)


def test_the_largest_eigenvalue_is_found_within_some_products():
    matrix = torch.diag(torch.linspace(1, 2, 300, dtype=torch.float64))
    products = []
    krylov = solver.Krylov(lambda u: products.append(1) or matrix @ u, torch.ones(300).double())
    assert 1.8 < krylov.largest_eigenvalue(tolerance=0.0, max_products=12) < 2.0 and len(products) == 12


@pytest.mark.parametrize("start", [vector(3), torch.zeros(3).double()])
def test_the_largest_eigenvalue_of_nothing_is_zero(start):
    assert solver.Krylov(torch.zeros_like, start).largest_eigenvalue() == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_largest_eigenvalue_of_what_is_not_finite_is_nan(value):
    assert np.isnan(solver.Krylov(lambda u: value * u, vector(3)).largest_eigenvalue())


@pytest.mark.parametrize("dampings", [(0.5, 0.01, 2.0), (0.01, 0.5)])
def test_all_dampings_are_solved_by_the_same_products(dampings):
    matrix, v = spd_matrix(60, 2), vector(60)
    products = []
    krylov = solver.Krylov(lambda u: products.append(1) or matrix @ u, v)
    krylov.largest_eigenvalue()
    solutions = [krylov.solve(damping, 1e-10, 100) for damping in dampings]
    for damping, solution in zip(dampings, solutions, strict=True):
        assert relative_error(solution.x, dense(matrix, v, damping)) < 1e-9 and solution.converged
    assert len(products) == max(solution.iterations for solution in solutions) <= 60


@pytest.mark.parametrize("products", [1, 2, 5, 9])
def test_the_iterates_are_those_of_conjugate_gradients(products):
    matrix, v = spd_matrix(40, 4), vector(40)
    found = solver.Krylov(lambda u: matrix @ u, v).solve(0.1, 0.0, products)
    expected, *_ = conjugate_gradients(matrix + 0.1 * torch.eye(40).double(), v, products)
    assert relative_error(found.x, expected) < 1e-10 and found.iterations == products
    residual = (matrix @ found.x + 0.1 * found.x - v).norm() / v.norm()
    assert found.residual == pytest.approx(float(residual), rel=1e-6)


def conjugate_gradients(matrix, v, iterations):
    """The textbook's algorithm (Hestenes and Stiefel, 1952)."""
    x, r, p = torch.zeros_like(v), v, v
    for _ in range(iterations):
        step = (r @ r) / (p @ matrix @ p)
        x, rest = x + step * p, r - step * matrix @ p
        r, p = rest, rest + (rest @ rest) / (r @ r) * p
    return x, r, p


def test_single_precision_of_a_matrix_of_many_scales():
    matrix = torch.diag(torch.logspace(-6, 0, 500))
    v = vector(500).float()
    krylov = solver.Krylov(lambda u: matrix @ u, v)
    found = krylov.solve(0.1 * krylov.largest_eigenvalue(), 1e-4, 100)
    assert relative_error(found.x.double(), dense(matrix.double(), v.double(), 0.1)) < 1e-3 and found.iterations < 20


def test_ravel_and_back():
    tree = {"x": [torch.arange(4.0).view(2, 2)], "y": (torch.tensor(9.0),)}
    flat, unravel = solver.ravel(tree)
    assert flat.tolist() == [0, 1, 2, 3, 9]
    back = unravel(flat * 2)
    assert back["x"][0].tolist() == [[0, 2], [4, 6]] and back["y"][0].item() == 18
