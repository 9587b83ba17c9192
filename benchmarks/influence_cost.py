"""What influence scores cost: against a plain forward pass, a loop over samples, and dattri where it is installed.

    python benchmarks/influence_cost.py FOLDER [--data_path PATH] [--repeats 5]

FOLDER keeps the trained surrogate (see retraining.py). PATH holds the folder `games`; without it a dataset of the same
shape is generated. All ratios come from runs side by side. Prints a table, writes benchmarks/results/influence-cost.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from common import header, table, write
from generated import write_games_like
from retraining import surrogate, surrogate_config, users_of
from scipy.stats import spearmanr
from torch.utils.data import DataLoader, TensorDataset

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model.surrogate.surrogate import EveryPosition, surrogate_batches
from recbole_dealrec.scorer import InfluenceScorer, solver
from recbole_dealrec.scorer.problem import Problem

MATRIX = ["trm_encoder.layer.1.multi_head_attention.dense.weight"]
AFTER_ATTENTION = [f"trm_encoder.layer.1.{name}" for name in ("multi_head_attention.dense.*", "feed_forward.*")]
CHOICES = {"encoder": None, "after the last attention": AFTER_ATTENTION, "one matrix": MATRIX}
SLICE = 8192  # candidates timed against the forward pass
LOOP = 200  # candidates of the loop
CURVATURE_SAMPLES = (8192, 4096, 2048, 1024, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data_path")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    data_path = arguments.data_path or write_games_like(arguments.folder)
    config = surrogate_config("games", data_path)
    splits = load_splits(config)
    model = surrogate(config, splits, users_of(splits), 0, arguments.folder / "full-0.safetensors")
    candidates = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    drawn = np.random.default_rng(0).choice(len(candidates), min(SLICE, len(candidates)), replace=False)
    data = "Games" if arguments.data_path else "generated data of the shape of Games"
    text = [
        f"# Cost of influence scores, {data}",
        f"{header()}.",
        f"{len(candidates)} candidates, {model.n_items} items, SASRec. Ratios: medians of {arguments.repeats} rounds, "
        f"each of which runs all steps one after the other on {len(drawn)} candidates. The forward pass is RecBole's "
        "`full_sort_predict` and the cross-entropy, on the batches that the scores are computed on. After v, which is "
        "on the same samples by default, the gradients of the losses by the outputs are known.",
        against_forward(model, config, candidates[drawn], arguments.repeats),
        against_loop(model, config, candidates[drawn]),
        whole_step(model, config, candidates),
        curvature_samples(model, config, candidates),
    ]
    write("influence-cost", "\n\n".join(text))


def against_forward(model: EveryPosition, config: Config, samples: CandidateSamples, repeats: int) -> str:
    """Scores of all samples, given the solution, as multiples of a forward pass."""
    steps: dict[str, Callable] = {"plain forward pass": lambda: forward(model, config, samples)}
    for name, patterns in CHOICES.items():
        config["influence_parameters"] = patterns
        alone, problem = Problem(model, config), Problem(model, config)
        direction = torch.randn_like(problem.flat)
        steps[f"scores, {name}"] = lambda p=alone, x=direction: p.directional_derivatives(samples, x)
        steps[f"v, {name}"] = lambda p=problem: p.mean_gradient(samples)
        steps[f"scores after v, {name}"] = lambda p=problem, x=direction: p.directional_derivatives(samples, x)
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step))
    base = times["plain forward pass"]
    rows = [
        [name, f"{1000 * median(each) / len(samples):.3f}", f"{median(np.divide(each, base)):.2f}"]
        for name, each in times.items()
    ]
    return table(["step", "milliseconds a sample", "times the forward pass"], rows)


def forward(model: EveryPosition, config: Config, samples: CandidateSamples) -> None:
    for _, batch in surrogate_batches(model, samples, config):
        logits = model.full_sort_predict(batch)
        torch.nn.functional.cross_entropy(logits, batch[model.POS_ITEM_ID], reduction="none")


def against_loop(model: EveryPosition, config: Config, samples: CandidateSamples) -> str:
    """One backward pass per sample over the same loss and parameters, and the peer's, on a slice."""
    rows = []
    for name, patterns in CHOICES.items():
        config["influence_parameters"] = patterns
        problem = Problem(model, config)
        direction = torch.randn_like(problem.flat)
        part = samples[:LOOP]
        loop = looped(problem, part, direction)  # also warms up
        ours = problem.directional_derivatives(part, direction)
        error = np.abs(loop - ours).max() / np.abs(loop).max()
        slow = seconds(lambda p=problem, x=direction, s=part: looped(p, s, x)) / len(part)
        with torch.autograd.set_detect_anomaly(True):
            watched = seconds(lambda p=problem, x=direction, s=part: looped(p, s, x)) / len(part)
        fast = seconds(lambda p=problem, x=direction: p.directional_derivatives(samples, x)) / len(samples)
        times = [f"{1000 * slow:.2f}", f"{1000 * watched:.2f}", f"{1000 * fast:.3f}"]
        rows.append([name, *times, f"{slow / fast:.0f}", f"{watched / fast:.0f}", f"{error:.1e}"])
    columns = ["parameters", "loop, ms a sample", "watched loop", "here", "ratio", "ratio", "greatest difference"]
    lines = [
        f"One backward pass per sample, timed on {LOOP} samples. The watched loop has autograd's anomaly detection on, "
        "as RecBole leaves it for the whole process once its sequential models are imported:",
        table(columns, rows),
    ]
    try:
        peer = f"{1000 * dattri_seconds(model, samples):.2f} ms a sample"
        lines.append(f"dattri, encoder, by per-sample gradients under `vmap` and inner products: {peer}.")
    except ImportError:
        lines.append("dattri is not installed and was not timed.")
    return "\n\n".join(lines)


def looped(problem: Problem, samples: CandidateSamples, direction: torch.Tensor) -> np.ndarray:
    """Gradient of each sample by itself, times the direction."""
    model, config = problem.surrogate, problem.config
    chosen = [parameter for name, parameter in model.named_parameters() if f"surrogate.{name}" in problem.parameters]
    scores = np.empty(len(samples))
    for row in range(len(samples)):
        batch = samples.interaction(config, np.array([row]))
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(model.full_sort_predict(batch), batch[model.POS_ITEM_ID])
        gradient = torch.autograd.grad(loss, chosen)
        scores[row] = float(solver.ravel(gradient)[0] @ direction)
    return scores


def dattri_seconds(model: EveryPosition, samples: CandidateSamples) -> float:
    """Seconds a sample of dattri's attribution to one test sample, without its solve: the slope over two sizes."""
    from dattri.algorithm.influence_function import IFAttributorCG
    from dattri.task import AttributionTask

    width = samples.item_id_list.shape[1]

    def loss(parameters, data):
        sequence, length, target = (part.reshape(-1, width) if part.dim() and part.shape[-1] == width else
                                    part.reshape(-1) for part in data)  # fmt: skip
        outputs = torch.func.functional_call(model, parameters, (sequence, length))
        return torch.nn.functional.cross_entropy(outputs @ model.item_embedding.weight.T, target)

    def attribute(count: int) -> float:
        arrays = (samples.item_id_list[:count], samples.item_length[:count], samples.item_id[:count])
        data = TensorDataset(*map(torch.from_numpy, arrays))
        one = TensorDataset(*(tensor[:1] for tensor in data.tensors))
        names = [name for name, _ in model.named_parameters() if "embedding" not in name]
        task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
        attributor = IFAttributorCG(task, layer_name=names, max_iter=1, regularization=1.0)
        attributor.cache(DataLoader(one))
        with torch.enable_grad():
            return seconds(lambda: attributor.attribute(DataLoader(data, batch_size=64), DataLoader(one)))

    attribute(64)
    return (attribute(256) - attribute(128)) / 128


def whole_step(model: EveryPosition, config: Config, samples: CandidateSamples) -> str:
    rows = []
    for name, patterns in CHOICES.items():
        config["influence_parameters"] = patterns
        rows.append([name, f"{seconds(lambda: InfluenceScorer(model, config).score(samples)):.1f}"])
    count = config["hessian_samples"]
    title = f"The whole step (v, solve, scores) on all candidates, one surrogate, hessian_samples {count}:"
    return f"{title}\n\n{table(['parameters', 'seconds'], rows)}"


def curvature_samples(model: EveryPosition, config: Config, samples: CandidateSamples) -> str:
    """What the number of samples behind the curvature changes, against the largest number."""
    config["influence_parameters"] = None
    rows, reference = [], None
    for count in CURVATURE_SAMPLES:
        config["hessian_samples"] = count
        start = perf_counter()
        scores = InfluenceScorer(model, config).score(samples)
        reference = scores if reference is None else reference
        rows.append([count, f"{perf_counter() - start:.0f}", float(spearmanr(scores, reference).statistic)])
    columns = ["hessian_samples", "seconds of the step", f"Spearman with {CURVATURE_SAMPLES[0]}"]
    return "The number of candidates that the curvature is measured on, encoder:\n\n" + table(columns, rows)


def seconds(step: Callable) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start


if __name__ == "__main__":
    with torch.no_grad():
        main()
