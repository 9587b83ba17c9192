"""Are influence scores right? Against dense algebra, against retraining, and between surrogates of different seeds.

    python benchmarks/retraining.py FOLDER
    python benchmarks/influence_accuracy.py FOLDER [--parts solvers retraining seeds] [--dataset ml-100k]

Each part prints its tables and writes them to benchmarks/results/influence-<part>.md.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import chain, combinations, product
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
from recbole_dealrec.model.surrogate.surrogate import EveryPosition, surrogate_loader
from recbole_dealrec.scorer import InfluenceScorer, solver
from recbole_dealrec.scorer.curvature import Curvature
from recbole_dealrec.scorer.problem import Problem
from recbole_dealrec.store.run_folder import read_json, write_json

MATRIX = ["trm_encoder.layer.1.multi_head_attention.dense.weight"]  # as in the released code
HESSIAN_DAMPINGS = (0.1, 0.3, 1.0)  # relative to the largest eigenvalue; lower ones leave it indefinite
GAUSS_NEWTON_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)
DAMPINGS = {"hessian": HESSIAN_DAMPINGS, "gauss_newton": GAUSS_NEWTON_DAMPINGS}
# Label, pattern of parameters, curvature, surrogates to average over.
RETRAINING_CHOICES = [
    ("one matrix (released code)", MATRIX, "hessian", 1),
    ("one matrix (released code)", MATRIX, "gauss_newton", 1),
    ("encoder", None, "hessian", 3),
    ("encoder", None, "gauss_newton", 3),
    ("everything", ["*"], "hessian", 1),
    ("everything", ["*"], "gauss_newton", 1),
]
SEED_CHOICES = [
    ("one matrix (released code)", MATRIX, "hessian", (0.1, 0.3, 1.0)),
    ("encoder", None, "gauss_newton", (0.1,)),
]
RELEASED_DAMPING, RELEASED_SCALE, RELEASED_DEPTH = 0.01, 25.0, 5000
TOP = 1024
PARTINGS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path")
    parser.add_argument("--halves", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", type=int, default=10, help="surrogates of the part on seeds")
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
        """Return the surrogate of all users."""
        file = self.arguments.folder / f"full-{seed}.safetensors"
        return surrogate(self.config, self.splits, self.users, seed, file)

    def changes(self, risk: str, seed: int) -> list[float]:
        """Return the rise of a loss when the surrogate is trained on each half; stored in the folder."""
        return self.kept(f"change-{risk}-{seed}", lambda: self._changes(LOSSES[risk], seed))

    def scores(self, name: str, seed: int, keys: dict) -> list[float]:
        """Return the candidates' influence by one surrogate, with other values of some keys; stored in the folder."""
        scorer = InfluenceScorer(self.full(seed), self.with_keys(**keys))
        return self.kept(name, lambda: scorer.score(self.candidates).tolist())

    def left_out(self) -> np.ndarray:
        """Return whether each half leaves out each user, [halves, users]."""
        return np.array([~np.isin(self.users, half) for half in self.halves])

    def _changes(self, loss: Callable, seed: int) -> list[float]:
        before = loss(self, self.full(seed))
        return [loss(self, self._of_half(half, seed)) - before for half in range(len(self.halves))]

    def _of_half(self, half: int, seed: int) -> torch.nn.Module:
        file = self.arguments.folder / f"half-{half}-{seed}.safetensors"
        return surrogate(self.config, self.splits, self.halves[half], seed, file)

    def kept(self, name: str, compute: Callable[[], list]) -> list:
        file = self.arguments.folder / f"{name}.json"
        if not file.exists():
            write_json(file, compute())
        return read_json(file)

    def with_keys(self, **keys) -> Config:
        """Return the configuration with other values."""
        for key, value in keys.items():
            self.config[key] = value
        return self.config


def solvers(experiment: Experiment) -> Iterator[str]:
    """Compare solutions on one matrix with a dense solve in double precision."""
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
        "0.3 of the largest eigenvalue": 0.3 * float(eigenvalues.abs().max()),
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
    yield "cg", lambda: solver.Krylov(product, v).solve(damping, tolerance=1e-3, max_products=100).x
    yield "exact", lambda: solver.dense_solve(product, v, damping).x
    for seed in range(3):
        curvature.problem.config["seed"] = seed
        draw = curvature.single_sample_product()
        lissa = partial(solver.lissa, draw, v, damping, RELEASED_SCALE, RELEASED_DEPTH, repeats=1)
        yield f"lissa, seed {seed}", lambda lissa=lissa: lissa().x


def retraining(experiment: Experiment) -> Iterator[str]:
    """Measure the linear datamodeling score: summed influence of removed users against losses after retraining."""
    seeds = range(experiment.arguments.seeds)
    changes = {risk: np.array([experiment.changes(risk, seed) for seed in seeds]) for risk in LOSSES}
    yield (
        f"{len(experiment.halves)} random halves of {len(experiment.users)} users, SASRec retrained on each with "
        f"{len(seeds)} seeds. The change of the mean loss, averaged over the seeds, is compared with the summed "
        "influence of the samples of the users left out (LDS: Spearman over the halves)."
    )
    rows = [[risk, change.mean(), change.mean(axis=0).std(), reliability(change)] for risk, change in changes.items()]
    yield table(["loss", "mean change", "deviation between halves", "reliability over the seeds"], rows)
    yield (
        "Users differ by their number of samples, and that number alone predicts much of the change. The columns after "
        "each LDS are the partial correlation: what a prediction knows beyond the number of samples left out."
    )
    columns = ["parameters", "curvature", "damping", "influence on", "surrogates"]
    columns += ["LDS, training", "partial", "LDS, validation", "partial"]
    yield table(columns, list(lds_rows(experiment, {risk: change.mean(axis=0) for risk, change in changes.items()})))


def lds_rows(experiment: Experiment, changes: dict[str, np.ndarray]) -> Iterator[list]:
    lengths = np.bincount(CandidateSamples.from_dataset(experiment.splits.train).user_id)[experiment.users]
    counts = experiment.left_out() @ lengths

    def row(*cells, predicted) -> list:
        return [*cells, *chain.from_iterable(correlations(predicted, change, counts) for change in changes.values())]

    yield row("number of samples left out", "", "", "", "", predicted=counts)
    forecasts = [Forecast(experiment, seed) for seed in range(max(count for *_, count in RETRAINING_CHOICES))]
    for risk in ("train", "valid"):
        yield row("encoder", "none", "infinite", risk, 1, predicted=forecasts[0].without_curvature(risk))
    for name, patterns, curvature, count in RETRAINING_CHOICES:
        each = [forecast.with_curvature(name, patterns, curvature) for forecast in forecasts[:count]]
        for same in zip(*each, strict=True):
            damping, risk, first = same[0]
            yield row(name, curvature, f"{damping:g}", risk, 1, predicted=first)
            if count > 1:
                mean_of_all = np.mean([predicted for _, _, predicted in same], axis=0)
                yield row(name, curvature, f"{damping:g}", risk, count, predicted=mean_of_all)


def correlations(predicted: np.ndarray, change: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return Spearman, and the partial one for fixed counts."""
    ranks = spearmanr(np.column_stack([predicted, change, counts])).statistic
    with_change, with_counts, change_counts = ranks[0, 1], ranks[0, 2], ranks[1, 2]
    unexplained = np.sqrt(max((1 - with_counts**2) * (1 - change_counts**2), 1e-12))
    return float(with_change), float((with_change - with_counts * change_counts) / unexplained)


def train_loss(experiment: Experiment, model: EveryPosition) -> float:
    """Return the mean loss over all training samples."""
    total, count = 0.0, 0
    for batch in surrogate_loader(experiment.config.surrogate(), experiment.splits.train, model):
        targets = int(batch[model.ITEM_SEQ_LEN].sum())
        total, count = total + float(model.calculate_loss(batch)) * targets, count + targets
    return total / count


def valid_loss(experiment: Experiment, model: EveryPosition) -> float:
    """Return the mean loss over all validation samples."""
    batch = experiment.valid.interaction(experiment.config, np.arange(len(experiment.valid)))
    logits = model.full_sort_predict(batch)
    return float(torch.nn.functional.cross_entropy(logits, batch[model.POS_ITEM_ID]))


LOSSES = {"training": train_loss, "validation": valid_loss}


def reliability(change: np.ndarray) -> float:
    """Return the reliability of the mean over seeds, by Spearman and Brown's formula from correlations of seeds."""
    single = mean(spearmanr(one, other).statistic for one, other in combinations(change, 2))
    return len(change) * single / (1 + (len(change) - 1) * single)


class Forecast:
    """Predicted change of the risk for each half, by the surrogate of one seed; stored in the folder.

    The gradients of the samples left out are summed before the product with the solution, not after: the same number.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.experiment = experiment
        self.seed = seed
        self.samples = CandidateSamples.from_dataset(experiment.splits.train)

    def with_curvature(self, name: str, patterns: list[str] | None, curvature: str) -> list:
        """Return damping, risk and prediction for each half, for all dampings and risks."""
        file = f"forecast-{self.seed}-{name.replace(' ', '-')}-{curvature}"
        keys = {"influence_parameters": patterns, "curvature": curvature}
        return self.experiment.kept(file, lambda: list(self._with_curvature(keys)))

    def without_curvature(self, risk: str) -> list[float]:
        """Return the predictions from the gradients of the encoder alone."""
        file = f"forecast-{self.seed}-none-{risk}"
        return self.experiment.kept(file, lambda: self._without_curvature(risk).tolist())

    @cached_property
    def model(self) -> torch.nn.Module:
        return self.experiment.full(self.seed)

    @cached_property
    def whole(self) -> Problem:
        return Problem(self.model, self.experiment.with_keys(influence_parameters=["*"]))

    @cached_property
    def user_gradients(self) -> Tensor:
        """Return the summed gradient of each user's samples, [users, parameters]."""
        return torch.stack([user_gradient(self.whole, self.samples, user) for user in self.experiment.users])

    @cached_property
    def risks(self) -> dict[str, Tensor]:
        train = self.user_gradients.sum(dim=0) / len(self.samples)
        return {"train": train, "valid": self.whole.mean_gradient(self.experiment.valid)}

    @cached_property
    def gradients(self) -> Tensor:
        """Return the summed gradient of what each half leaves out, over the number of samples, [halves, parameters]."""
        left_out = torch.from_numpy(self.experiment.left_out()).to(self.user_gradients)
        return left_out @ self.user_gradients / len(self.samples)

    def _own(self, problem: Problem) -> Tensor:
        """Return whether each parameter belongs to the problem."""
        parameters = self.whole.parameters.items()
        return torch.cat([torch.full((values.numel(),), name in problem.parameters) for name, values in parameters])

    def _with_curvature(self, keys: dict) -> Iterator[tuple[float, str, list[float]]]:
        problem = Problem(self.model, self.experiment.with_keys(**keys))
        own = self._own(problem)
        curvature = Curvature(problem, problem.curvature_samples(self.samples))
        spaces = {risk: solver.Krylov(curvature.product, v[own]) for risk, v in self.risks.items()}
        largest = spaces["train"].largest_eigenvalue()
        for damping, (risk, space) in product(DAMPINGS[keys["curvature"]], spaces.items()):
            x = damped_solution(space, damping * largest)
            yield damping, risk, (self.gradients[:, own] @ x).tolist()

    def _without_curvature(self, risk: str) -> Tensor:
        own = self._own(Problem(self.model, self.experiment.with_keys(influence_parameters=None)))
        return self.gradients[:, own] @ self.risks[risk][own]


def user_gradient(problem: Problem, samples: CandidateSamples, user: int) -> Tensor:
    own = samples[samples.user_id == user]
    return problem.mean_gradient(own) * len(own)


def damped_solution(space: solver.Krylov, damping: float) -> Tensor:
    """Solve by conjugate gradients, to the few digits that a ranking needs; NaN if the curvature is indefinite."""
    try:
        return space.solve(damping, tolerance=1e-2, max_products=100).x
    except solver.IndefiniteCurvatureError:
        return torch.full_like(space.v, torch.nan)


def seeds(experiment: Experiment) -> Iterator[str]:
    """Measure the agreement of the scores of surrogates with different seeds."""
    n_models = experiment.arguments.full
    n_candidates = len(experiment.candidates)
    yield f"{n_candidates} candidates, {n_models} surrogates; means over {PARTINGS} pairs of averages that share none."
    counts = [count for count in (1, 3, 5) if 2 * count <= n_models]
    rows = []
    for name, patterns, curvature, dampings in SEED_CHOICES:
        for damping in dampings:
            keys = {"influence_parameters": patterns, "curvature": curvature, "hessian_damping": damping}
            file = f"scores-{name.replace(' ', '-')}-{curvature}-{damping:g}"
            scores = np.array([experiment.scores(f"{file}-{seed}", seed, keys) for seed in range(n_models)])
            rows.append([name, curvature, f"{damping:g}", *(between_averages(scores, count) for count in counts)])
    yield table(["parameters", "curvature", "damping", *(f"mean of {count}" for count in counts)], rows)
    yield f"Each cell: Spearman of the scores, and the overlap of their top {TOP}."


def between_averages(scores: np.ndarray, count: int) -> str:
    """Return mean Spearman and overlap between averages of ``count`` different surrogates, over random splits."""
    random = np.random.default_rng(0)
    parted = (random.permutation(len(scores))[: 2 * count].reshape(2, count) for _ in range(PARTINGS))
    each = [agreement(*(scores[part].mean(axis=0) for part in parts)) for parts in parted]
    return ", ".join(f"{mean(values):.3f}" for values in zip(*each, strict=True))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return Spearman, and the share that the highest scores of both have in common."""
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
