"""Which other ways of training surrogates are faster, at equal NDCG and equal repeatability of the influence scores?

    python benchmarks/surrogate_variants.py [--dataset ml-100k] [--data_path FOLDER] [--ways NAME ...] [--rounds 3]

Six surrogates are trained in each way, for two runs of three; snapshots are of four trainings. Each adds a row to
benchmarks/results/<dataset>-surrogate-variants-runs.csv and is not tried again while the row is there. Then all ways
train once in each round, in turn, on an idle machine, and the page <dataset>-surrogate-variants.md is written; with
--rounds 0 it is not. The test part is not read.
"""

import argparse
import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple
from unittest import mock

import common
import numpy as np
import pandas as pd
import torch
from influence_accuracy import TOP, agreement
from recbole.data.interaction import Interaction
from surrogate_schedule import TRIED, patches_of, schedule_keys
from torch import Tensor, func, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model.surrogate import EveryPosition, surrogate
from recbole_dealrec.scorer import InfluenceScorer
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training import safetensors_trainer
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer
from recbole_dealrec.training.surrogate_training import SurrogateTraining

MEMBERS = 3  # surrogates of a run
OF_SNAPSHOTS = 4  # trainings, each of them a run
CYCLE = {"ml-100k": 4, "games": 1}  # epochs for each snapshot
FINISH = {"ml-100k": 2, "games": 1}  # last epochs with the whole softmax
NEGATIVES = {"ml-100k": 256, "games": 2048}  # of 1,682 and 17,330 items
STEPS = 20
DEFAULT, CONSTANT, COMPILED = "default", "constant rate", "torch.compile"
SNAPSHOTS, SAMPLED = "snapshots of one training", "sampled softmax"


class Variant(NamedTuple):
    """A way of training: other keys, a change of the code while training, and cycles that each give a surrogate.

    One that is not ``judged`` is timed alone, because it computes the same.
    """

    keys: dict[str, Any] = {}
    change: Callable[["Bench"], AbstractContextManager] = lambda bench: nullcontext()
    cycles: int = 1
    judged: bool = True


class Training(NamedTuple):
    """One training: its seconds, and the weights and NDCG@10 of each surrogate that it gave."""

    seconds: float
    weights: list[dict[str, Tensor]]
    ndcg: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", choices=NEGATIVES)
    parser.add_argument("--data_path")
    parser.add_argument("--ways", nargs="+", help="names on the page, beside the default; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    name = f"{arguments.dataset}-surrogate-variants"
    file = common.RESULTS / f"{name}-runs.csv"
    bench = Bench(arguments.dataset, arguments.data_path)
    known = variants(bench)
    known = {name: known[name] for name in (DEFAULT, *(arguments.ways or known))}
    for variant in known:
        rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["variant"])
        if known[variant].judged and variant not in set(rows["variant"]):
            rows = pd.concat([rows, pd.DataFrame([{"variant": variant, **bench.quality(known[variant])}])])
            with atomic_path(file) as path:
                rows.to_csv(path, index=False)
    if arguments.rounds:
        rounds = [{name: bench.trained(way, 0).seconds for name, way in known.items()} for _ in range(arguments.rounds)]
        rows = pd.read_csv(file).set_index("variant").reindex(list(known))
        common.write(name, page(bench, rows, pd.DataFrame(rounds), step_seconds(bench)))


class Bench:
    """A dataset with its candidates, and what is measured on it."""

    def __init__(self, dataset: str, data_path: str | None) -> None:
        self.dataset = dataset
        self.keys = {"show_progress": False, "use_gpu": False}
        self.keys |= {"data_path": data_path} if data_path else {}
        self.config = Config("BIGRec", dataset, config_dict=self.keys)
        self.splits = load_splits(self.config)
        self.candidates = CandidateSamples.from_dataset(self.splits.train, self.config["samples_per_user"])

    def quality(self, variant: Variant) -> dict[str, float]:
        """Train in one way; return NDCG@10, and the agreement of runs that share no training."""
        per_run, count = (MEMBERS, 2 * MEMBERS) if variant.cycles == 1 else (1, OF_SNAPSHOTS)
        trained = [self.trained(variant, number) for number in range(count)]
        scores = [np.mean([self.influence(weights) for weights in training.weights], axis=0) for training in trained]
        runs = list(combinations(range(count), per_run))
        influence = {run: np.mean([scores[number] for number in run], axis=0) for run in runs}
        pairs = [pair for pair in combinations(runs, 2) if not set(pair[0]) & set(pair[1])]
        spearman, overlap = np.mean([agreement(influence[one], influence[other]) for one, other in pairs], axis=0)
        ndcg = [mean(training.ndcg) for training in trained]
        return {"ndcg@10": mean(ndcg), "deviation": stdev(ndcg), "spearman": spearman, "overlap": overlap}

    def trained(self, variant: Variant, number: int) -> Training:
        """Train once; the weights are those that the package keeps, or those at the end of each cycle."""
        config = Config("BIGRec", self.dataset, config_dict={**self.keys, **variant.keys})
        weights: list[dict[str, Tensor]] = []
        with TemporaryDirectory() as folder, variant.change(self):
            training = SurrogateTraining(config, self.splits, RunFolder(Path(folder)), number)
            start = perf_counter()
            if variant.cycles == 1:
                training.fit()
                weights.append(copied(training.model))
            else:
                training.watch(lambda model: weights.append(copied(model)))
            seconds = perf_counter() - start
        curve = training._trainer.curve
        kept = range(variant.cycles) if variant.cycles > 1 else [curve.valid_epoch.index(curve.kept_epoch)]
        return Training(seconds, weights, [curve.valid_result["ndcg@10"][place] for place in kept])

    def influence(self, weights: dict[str, Tensor]) -> np.ndarray:
        """Return the candidates' influence by a surrogate with these weights, [candidates]."""
        model = surrogate.build_surrogate(self.config.surrogate(), self.splits.train)
        model.load_state_dict(weights)
        with torch.no_grad():
            return InfluenceScorer(model.eval(), self.config).score(self.candidates)

    def batches(self) -> tuple[nn.Module, list[Interaction]]:
        """Return an untrained surrogate and its first batches."""
        config = self.config.surrogate()
        model = surrogate.build_surrogate(config, self.splits.train)
        return model, list(islice(surrogate.surrogate_loader(config, self.splits.train, model), STEPS))


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name.replace("_orig_mod.", ""): values.clone() for name, values in model.state_dict().items()}


def constant(bench: Bench) -> Variant:
    """Return the way of before the package had a schedule: a constant rate and more epochs."""
    schedule, *numbers = TRIED[bench.dataset][0]
    return Variant(schedule_keys(*numbers), lambda _: patches_of(schedule)[0])


def sampled(full: int, bench: Bench) -> AbstractContextManager:
    """Train with a softmax over the target and items drawn for each batch, and over all items in the last epochs.

    Args:
        full: number of the last epochs.
        bench: the dataset.
    """
    count, first_full = NEGATIVES[bench.dataset], bench.config["surrogate_epochs"] - full
    whole = surrogate.softmax_cross_entropy
    epoch_of = SafetensorsTrainer._train_epoch

    def loss(outputs: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        drawn = torch.randint(1, len(items), (count,))
        others = outputs @ items[drawn].T + math.log((len(items) - 1) / count)  # estimates the sum over all items
        others = others.masked_fill(targets[:, None] == drawn, -math.inf)
        own = (outputs * items[targets]).sum(dim=-1, keepdim=True)
        return nn.functional.cross_entropy(torch.cat([own, others], dim=-1), torch.zeros_like(targets))

    def train_epoch(trainer: SafetensorsTrainer, data: Any, epoch: int, *rest: Any, **options: Any) -> float:
        with mock.patch.object(surrogate, "softmax_cross_entropy", whole if epoch >= first_full else loss):
            return epoch_of(trainer, data, epoch, *rest, **options)

    return mock.patch.object(SafetensorsTrainer, "_train_epoch", train_epoch)


def compiled(bench: Bench) -> AbstractContextManager:
    """Compile the encoder by torch.compile."""
    built = surrogate._built

    def with_compiled_encoder(*arguments: Any) -> nn.Module:
        model = built(*arguments)
        model.trm_encoder.compile(dynamic=True)
        return model

    return mock.patch.object(surrogate, "_built", with_compiled_encoder)


def bfloat16_products() -> AbstractContextManager:
    """Compute the encoder's products in bfloat16."""
    forward = EveryPosition.position_outputs

    def outputs(model: EveryPosition, *arguments: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(model, *arguments).float()

    return mock.patch.object(EveryPosition, "position_outputs", outputs)


def cyclic(bench: Bench) -> AbstractContextManager:
    """Let the learning rate rise and fall once for each snapshot."""
    share = safetensors_trainer.rate_share

    def cycle(step: int, warmup: int, total: int) -> float:
        length = math.ceil(total / MEMBERS)
        return share(step % length, warmup, length)

    return mock.patch.object(safetensors_trainer, "rate_share", cycle)


def step_seconds(bench: Bench) -> tuple[float, float, float]:
    """Return the seconds of a step of three surrogates: in turn, with stacked parameters, and in turn in bfloat16.

    All compute the softmax by ``cross_entropy``, because ``vmap`` does not take the package's loss.
    """
    model, batches = bench.batches()
    models = [copy.deepcopy(model) for _ in range(MEMBERS)]
    parameters, buffers = func.stack_module_state(models)
    losses = func.vmap(
        lambda values, fixed, batch: func.functional_call(Loss(model), (prefixed(values), prefixed(fixed)), batch),
        in_dims=(0, 0, None),
        randomness="different",
    )

    def in_turn(batch: Interaction) -> None:
        for member in models:
            member.calculate_loss(batch).backward()

    def as_one(batch: Interaction) -> None:
        losses(parameters, buffers, batch).sum().backward()

    with mock.patch.object(surrogate, "softmax_cross_entropy", plain_cross_entropy):
        seconds = seconds_of(in_turn, batches), seconds_of(as_one, batches)
        with bfloat16_products():
            return (*seconds, seconds_of(in_turn, batches))


class Loss(nn.Module):
    """The loss of a surrogate as a forward pass, which ``functional_call`` needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Interaction) -> Tensor:
        return self.model.calculate_loss(batch)


def prefixed(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": value for name, value in values.items()}


def plain_cross_entropy(outputs: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs @ items.T, targets)


def seconds_of(step: Callable[[Interaction], None], batches: list[Interaction]) -> float:
    """Return the median seconds of a step."""
    ends = [perf_counter()]
    for batch in batches:
        step(batch)
        ends.append(perf_counter())
    return float(np.median(np.diff(ends)))


def variants(bench: Bench) -> dict[str, Variant]:
    """Return the ways of training by name."""
    epochs, batch, rate = (bench.config[f"surrogate_{key}"] for key in ("epochs", "train_batch_size", "learning_rate"))
    cycle = CYCLE[bench.dataset]
    return {
        DEFAULT: Variant(),
        CONSTANT: constant(bench),
        "twice the batch": Variant({"surrogate_train_batch_size": 2 * batch}),
        "twice the batch, 1.5 times the rate": Variant(
            {"surrogate_train_batch_size": 2 * batch, "surrogate_learning_rate": 1.5 * rate}
        ),
        "evaluated once": Variant({"surrogate_eval_step": epochs}),
        "evaluated once, twice the batch": Variant(
            {"surrogate_eval_step": epochs, "surrogate_train_batch_size": 2 * batch}
        ),
        "evaluated once, three quarters of the rate": Variant(
            {"surrogate_eval_step": epochs, "surrogate_learning_rate": 0.75 * rate}
        ),
        "two thirds of the epochs": Variant({"surrogate_epochs": 2 * epochs // 3}),
        "evaluated once, two thirds of the epochs": Variant(
            {"surrogate_eval_step": 2 * epochs // 3, "surrogate_epochs": 2 * epochs // 3}
        ),
        f"{SAMPLED}, then all items": Variant(change=partial(sampled, FINISH[bench.dataset])),
        SAMPLED: Variant(change=partial(sampled, 0)),
        SNAPSHOTS: Variant({"surrogate_epochs": MEMBERS * cycle, "surrogate_eval_step": cycle}, cyclic, MEMBERS),
        COMPILED: Variant(change=compiled, judged=False),
    }


def page(bench: Bench, rows: pd.DataFrame, seconds: pd.DataFrame, steps: tuple[float, float, float]) -> str:
    dataset, epochs, default = bench.dataset, bench.config["surrogate_epochs"], seconds[DEFAULT].median()
    cells = []
    for way, row in rows.iterrows():
        of_run = seconds[way].median() * (1 if way == SNAPSHOTS else MEMBERS)
        cells.append([
            way, f"{of_run:.0f}", f"{of_run / default / MEMBERS:.2f}",
            *([""] * 3 if row.isna().all() else judged(row)),
        ])  # fmt: skip
    columns = ["way", "seconds", "ratio", "ndcg@10", "Spearman", f"overlap of the highest {TOP}"]
    in_turn, as_one, in_bfloat16 = steps
    return f"""# Other ways to train surrogates, {dataset}

{common.header()}.

The default is {epochs} epochs. Seconds of {MEMBERS} surrogates, evaluations included, by the median
over the rounds, {len(seconds)} in all, in which each way trains once.
NDCG@10 of the kept weights on the validation part, mean and standard deviation of {2 * MEMBERS} trainings.
Spearman and overlap: influence between two runs of {MEMBERS} surrogates, the mean over all pairs that share none.
{explained(bench, seconds)}

{common.table(columns, cells)}

The ensemble trained as one, parameters stacked and mapped by `torch.func.vmap`: a step of {MEMBERS} surrogates takes
{as_one:.3f} s, in turn {in_turn:.3f} s, and in turn with the encoder's products in bfloat16 {in_bfloat16:.3f} s. It is
the forward and backward pass, with the softmax by `cross_entropy`.
"""


def judged(row: pd.Series) -> list[str]:
    return [f"{row['ndcg@10']:.4f} ± {row['deviation']:.4f}", f"{row['spearman']:.3f}", f"{row['overlap']:.3f}"]


def explained(bench: Bench, seconds: pd.DataFrame) -> str:
    """Return a sentence for each way in the table whose name does not say all."""
    dataset, (_, rate, epochs, _) = bench.dataset, TRIED[bench.dataset][0]
    first = seconds.reindex(columns=[COMPILED]).max().item()
    sentences = {
        CONSTANT: f"Constant rate: {epochs} epochs at {rate}.",
        SNAPSHOTS: f"Snapshots: one training of {MEMBERS} cycles of the learning rate gives {MEMBERS} surrogates; "
        f"{OF_SNAPSHOTS} trainings.",
        SAMPLED: f"Sampled softmax: {NEGATIVES[dataset]} items drawn for each batch; then all items, at the end "
        f"(epochs: {FINISH[dataset]}).",
        COMPILED: f"With `torch.compile` the first training took {first:.0f} s, with the compilation.",
    }
    return "\n".join(sentence for way, sentence in sentences.items() if way in seconds)


if __name__ == "__main__":
    main()
