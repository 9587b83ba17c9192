"""Are influence scores right? Against dense algebra, against retraining, and between surrogates of different seeds.

    python benchmarks/retraining.py FOLDER
    python benchmarks/influence_accuracy.py FOLDER [--parts solvers retraining seeds] [--dataset ml-100k]

Each part prints its tables and writes them to benchmarks/results/influence-<part>.md.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from common import header, table, write
from retraining import halves, surrogate, surrogate_config, users_of
from scipy.stats import spearmanr
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, load_splits
from recbole_dealrec.model.surrogate import EveryPosition, surrogate_loader
from recbole_dealrec.run_folder import read_json, write_json
from recbole_dealrec.scorer import InfluenceScorer, solver
from recbole_dealrec.scorer.influence import Curvature, Problem

MATRIX = ["trm_encoder.layer.1.multi_head_attention.dense.weight"]  # what the released code takes
PARAMETERS = {"one matrix (released code)": MATRIX, "encoder": None, "everything": ["*"]}
RELEASED_DAMPING, RELEASED_SCALE, RELEASED_DEPTH = 0.01, 25.0, 5000
SEED_CHOICES = [
    ("one matrix (released code)", MATRIX, "hessian"),
    ("encoder", None, "hessian"),
    ("encoder", None, "gauss_newton"),
]
DAMPINGS = (0.1, 0.3, 1.0)  # relative to the largest eigenvalue
TOP = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path")
    parser.add_argument("--halves", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", type=int, default=10, help="surrogates of the part on seeds")
    parser.add_argument("--surrogates", type=int, default=3, help="surrogates whose predictions are averaged")
    arguments = parser.parse_args()
    config = surrogate_config(arguments.dataset, arguments.data_path)
    experiment = Experiment(config, load_splits(config), arguments)
    for part in arguments.parts:
        text = "\n\n".join([f"# {TITLES[part]}, {arguments.dataset}", f"{header()}.", *PARTS[part](experiment)])
        name = f"influence-{part}"
        write(name if arguments.dataset == "ml-100k" else f"{name}-{arguments.dataset}", text)


class Experiment:
    """The dataset and its surrogates."""

    def __init__(self, config: Config, splits: Splits, arguments: argparse.Namespace) -> None:
        self.config = config
        self.splits = splits
        self.arguments = arguments
        self.users = users_of(splits)
        self.halves = halves(self.users, arguments.halves)
        self.candidates = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
        self.valid = CandidateSamples.from_dataset(splits.valid)

    def full(self, seed: int) -> torch.nn.Module:
        """Surrogate of all users."""
        file = self.arguments.folder / f"full-{seed}.safetensors"
        return surrogate(self.config, self.splits, self.users, seed, file)

    def changes(self, risk: str, seed: int) -> list[float]:
        """Rise of a loss when the surrogate is trained on each half; kept in the folder."""
        return self._kept(f"change-{risk}-{seed}", lambda: self._changes(LOSSES[risk], seed))

    def predictions(self, seed: int) -> list:
        """Of :func:`predictions` by one surrogate; kept in the folder."""
        return self._kept(f"predictions-{seed}", lambda: list(predictions(self, self.full(seed))))

    def _changes(self, loss: Callable, seed: int) -> list[float]:
        before = loss(self, self.full(seed))
        return [loss(self, self._of_half(half, seed)) - before for half in range(len(self.halves))]

    def _of_half(self, half: int, seed: int) -> torch.nn.Module:
        file = self.arguments.folder / f"half-{half}-{seed}.safetensors"
        return surrogate(self.config, self.splits, self.halves[half], seed, file)

    def _kept(self, name: str, compute: Callable[[], list]) -> list:
        file = self.arguments.folder / f"{name}.json"
        if not file.exists():
            write_json(file, compute())
        return read_json(file)

    def with_keys(self, **keys) -> Config:
        """The configuration with other values."""
        for key, value in keys.items():
            self.config[key] = value
        return self.config


def solvers(experiment: Experiment) -> Iterator[str]:
    """Solutions on one matrix against a dense solve in double precision."""
    config = experiment.with_keys(influence_parameters=MATRIX, curvature="hessian")
    problem, samples = Problem(experiment.full(0), config), experiment.candidates
    v = problem.mean_gradient(samples)
    curvature = Curvature(problem, problem.curvature_samples(samples))
    hessian = torch.stack([curvature.product(column) for column in torch.eye(len(v))]).double()
    eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    quantiles = torch.tensor([0, 0.01, 0.1, 0.5, 0.9, 0.99, 1], dtype=torch.float64)
    yield f"Hessian of {MATRIX[0]}, {len(v)} parameters, mean over {len(curvature.samples)} candidates."
    spectrum = [f"{value:.2e}" for value in torch.quantile(eigenvalues, quantiles).tolist()]
    yield table(["quantile", *map(str, quantiles.tolist())], [["eigenvalue", *spectrum]])
    dampings = {
        "the released code's": RELEASED_DAMPING * RELEASED_SCALE,
        "the default": config["hessian_damping"] * float(eigenvalues.abs().max()),
    }
    for name, damping in dampings.items():
        damped = (hessian + hessian.T) / 2 + damping * torch.eye(len(v), dtype=torch.float64)
        reference = torch.linalg.solve(damped, v.double()).to(v)
        expected = problem.directional_derivatives(samples, reference)
        found = {method: solve() for method, solve in methods(curvature, v, damping)}
        scores = {method: problem.directional_derivatives(samples, x) for method, x in found.items()}
        yield f"Damping {damping:.2e}, {name}; each against a dense solve in double precision."
        rows = [[it, cosine(found[it], reference), *agreement(scores[it], expected)] for it in found]
        pairs = list(combinations([method for method in found if method.startswith("lissa")], 2))
        each = [[cosine(found[one], found[other]), *agreement(scores[one], scores[other])] for one, other in pairs]
        rows.append(["lissa, mean between two seeds", *map(mean, zip(*each, strict=True))])
        yield table(["solver", "cosine", "Spearman of the scores", f"top-{TOP} overlap"], rows)


def methods(curvature: Curvature, v: Tensor, damping: float) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    product = curvature.product
    yield "v alone, no Hessian", lambda: v
    yield "cg", lambda: solver.conjugate_gradients(product, v, damping, tolerance=1e-3, max_iterations=100).x
    yield "exact", lambda: solver.dense_solve(product, v, damping).x
    for seed in range(3):
        curvature.problem.config["seed"] = seed
        draw = curvature.single_sample_product()
        lissa = partial(solver.lissa, draw, v, damping, RELEASED_SCALE, RELEASED_DEPTH, repeats=1)
        yield f"lissa, seed {seed}", lambda lissa=lissa: lissa().x


def retraining(experiment: Experiment) -> Iterator[str]:
    """Linear datamodeling score: summed influence of the removed users against the losses after retraining."""
    seeds = range(experiment.arguments.seeds)
    changes = {risk: np.array([experiment.changes(risk, seed) for seed in seeds]) for risk in LOSSES}
    yield (
        f"{len(experiment.halves)} random halves of {len(experiment.users)} users, SASRec retrained on each with "
        f"{len(seeds)} seeds. The change of the mean loss, averaged over the seeds, is compared with the summed "
        "influence of the samples of the users left out (LDS: Spearman over the halves)."
    )
    rows = [[risk, change.mean(), change.mean(axis=0).std(), reliability(change)] for risk, change in changes.items()]
    yield table(["loss", "mean change", "deviation between halves", "reliability over the seeds"], rows)
    each = [experiment.predictions(seed) for seed in range(experiment.arguments.surrogates)]
    rows = []
    for same in zip(*each, strict=True):
        average = np.mean([predicted for _, predicted in same], axis=0)
        for count, predicted in ((1, same[0][1]), (len(same), average)):
            found = [spearmanr(predicted, change.mean(axis=0)).statistic for change in changes.values()]
            rows.append([*same[0][0], count, *found])
    columns = ["parameters", "curvature", "damping", "influence on", "surrogates", "LDS, training", "LDS, validation"]
    yield table(columns, rows)


def train_loss(experiment: Experiment, model: EveryPosition) -> float:
    """Mean loss over all training samples."""
    total, count = 0.0, 0
    for batch in surrogate_loader(experiment.config.surrogate(), experiment.splits.train, model):
        targets = int(batch[model.ITEM_SEQ_LEN].sum())
        total, count = total + float(model.calculate_loss(batch)) * targets, count + targets
    return total / count


def valid_loss(experiment: Experiment, model: EveryPosition) -> float:
    """Mean loss over all validation samples."""
    batch = experiment.valid.interaction(experiment.config, np.arange(len(experiment.valid)))
    logits = model.full_sort_predict(batch)
    return float(torch.nn.functional.cross_entropy(logits, batch[model.POS_ITEM_ID]))


LOSSES = {"training": train_loss, "validation": valid_loss}


def reliability(change: np.ndarray) -> float:
    """Of the mean over seeds, by the formula of Spearman and Brown from the correlations of the single seeds."""
    single = mean(spearmanr(one, other).statistic for one, other in combinations(change, 2))
    return len(change) * single / (1 + (len(change) - 1) * single)


def predictions(experiment: Experiment, model: torch.nn.Module) -> Iterator[tuple[list, list[float]]]:
    """What is predicted, and the predicted change of the risk for each half.

    The scores of the samples left out are summed before the product with the solution, not after: the same number.
    """
    samples = CandidateSamples.from_dataset(experiment.splits.train)
    whole = Problem(model, experiment.with_keys(influence_parameters=["*"]))
    of_user = torch.stack([user_gradient(whole, samples, user) for user in experiment.users])
    left_out = torch.tensor(np.array([~np.isin(experiment.users, half) for half in experiment.halves])).to(of_user)
    gradients = left_out @ of_user / len(samples)
    risks = {"train": of_user.sum(dim=0) / len(samples), "valid": whole.mean_gradient(experiment.valid)}
    for name, patterns in PARAMETERS.items():
        for curvature_name in ("hessian", "gauss_newton"):
            keys = {"influence_parameters": patterns, "curvature": curvature_name}
            problem = Problem(model, experiment.with_keys(**keys))
            own = torch.cat([torch.full((p.numel(),), it in problem.parameters) for it, p in whole.parameters.items()])
            curvature = Curvature(problem, problem.curvature_samples(samples))
            largest = solver.largest_eigenvalue(curvature.product, risks["train"][own], seed=0)
            for damping, (risk, v) in product(DAMPINGS, risks.items()):
                x = damped_solution(curvature, v[own], damping * largest)
                yield [name, curvature_name, f"{damping:g}", risk], (gradients[:, own] @ x).tolist()
    for risk, v in risks.items():
        yield ["everything", "none", "infinite", risk], (gradients @ v).tolist()


def user_gradient(problem: Problem, samples: CandidateSamples, user: int) -> Tensor:
    own = samples[samples.user_id == user]
    return problem.mean_gradient(own) * len(own)


def damped_solution(curvature: Curvature, v: Tensor, damping: float) -> Tensor:
    """By conjugate gradients, to the few digits that an order needs; NaN where the curvature is indefinite."""
    try:
        return solver.conjugate_gradients(curvature.product, v, damping, tolerance=1e-2, max_iterations=100).x
    except solver.IndefiniteCurvatureError:
        return torch.full_like(v, torch.nan)


def seeds(experiment: Experiment) -> Iterator[str]:
    """Agreement of the scores of surrogates that differ by their seeds."""
    models = [experiment.full(seed) for seed in range(experiment.arguments.full)]
    yield f"{len(experiment.candidates)} candidates, {len(models)} surrogates; means over pairs of disjoint averages."
    counts = [count for count in (1, 3, 5) if 2 * count <= len(models)]
    rows = []
    for (name, patterns, curvature), damping in product(SEED_CHOICES, DAMPINGS):
        keys = {"influence_parameters": patterns, "curvature": curvature, "hessian_damping": damping}
        config = experiment.with_keys(**keys)
        scores = np.array([InfluenceScorer(model, config).score(experiment.candidates) for model in models])
        rows.append([name, curvature, f"{damping:g}", *(between_averages(scores, count) for count in counts)])
    yield table(["parameters", "curvature", "damping", *(f"mean of {count}" for count in counts)], rows)
    yield f"Each cell: Spearman of the scores, and the overlap of their top {TOP}."


def between_averages(scores: np.ndarray, count: int) -> str:
    """Mean Spearman and overlap between averages of ``count`` surrogates that share none."""
    groups = scores[: len(scores) // count * count].reshape(-1, count, scores.shape[1]).mean(axis=1)
    each = [agreement(one, other) for one, other in combinations(groups, 2)]
    return ", ".join(f"{mean(values):.3f}" for values in zip(*each, strict=True))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Spearman, and the share that the highest scores of both have in common."""
    highest = [set(np.argsort(-scores, kind="stable")[:TOP]) for scores in (one, other)]
    return float(spearmanr(one, other).statistic), len(highest[0] & highest[1]) / TOP


PARTS = {"solvers": solvers, "retraining": retraining, "seeds": seeds}
TITLES = {
    "solvers": "Solutions of the damped system",
    "retraining": "Influence against retraining",
    "seeds": "Influence between surrogates of different seeds",
}

if __name__ == "__main__":
    with torch.no_grad():
        main()
