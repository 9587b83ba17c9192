"""What do a million users cost, stage by stage, and where does one machine's memory end? On generated data.

    python benchmarks/scale_users.py [--users 10000 100000 1000000] [--epoch_users 2000] [--candidates 2000]

Five users for each item and 50 interactions a user. Each stage runs in a process of its own, on the CPU; one whose
predicted memory exceeds what the machine has left is not run. Linux only, as peaks are read from /proc. Prints tables
and writes them to benchmarks/results/scale-users.md.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import wraps
from math import log
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple
from unittest import mock

import common
import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from scale import peak, write_lines

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, dataset, load_splits
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.sequence import covering_rows
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.model.surrogate.surrogate import surrogate_loader
from recbole_dealrec.sampler import coverage_enhanced_selection
from recbole_dealrec.scorer.influence import Curvature, tried_problem
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer

NAME = "scale"  # of the dataset
EACH, LEAST, USERS_PER_ITEM = 50, 4, 5  # interactions of a user; LEAST: history, training, validation and test row
HELD_OUT = 2  # rows of each user that are not training rows
LONGEST = 50  # items of a history, RecBole's default
SELECTED = 50  # one candidate in 50 is selected
MOST_PRODUCTS = 100  # of conjugate gradients, see scorer/influence.py
MEMORY_GIB = 23, 128
PAPER_USERS = 2_000_000  # of the estimate
GPUS = 1, 8
BF16, FP32, BYTES = 989e12, 67e12, 3.35e12  # dense FLOP/s and bytes/s of an H100 SXM, NVIDIA's data sheet
REACHED = 0.4  # share of these rates, an assumption
LLM_PARAMETERS, TOKENS = 7e9, 150  # of a prompt with its answer
EFFORT_PASSES = 1.8  # forward passes, benchmarks/results/effort-cost.md
EPOCHS = 4  # of a surrogate, the least that surrogate_epochs: auto takes
# Times that a logit is read or written: model/surrogate/softmax_loss.py, scorer/surrogate_loss.py.
IN_TRAINING, IN_GRADIENT, IN_CURVATURE = 11, 5, 16
ARRAYS = "user", "item", "tokens"
CHECKS, READING = "Reading: the package's file checks", "Reading: RecBole's read and remap"
AUGMENTATION, SPLIT = "Reading: RecBole's sort and row per prefix", "Reading: RecBole's sort by time and split"
ROWS = "Candidates and the surrogate's rows from these splits"
OF_PACKAGE = CHECKS, READING, AUGMENTATION, SPLIT, ROWS
PARQUET, CANDIDATES = "Reading Parquet into arrays", "Candidates from these arrays"
EPOCH, SELECTION = "An epoch of the surrogate", "Selection of 2 %"
V, PRODUCT, SCORES = "Influence: v", "Influence: products with the curvature", "Influence: scores"
CHECKED = [(AtomicFile, name) for name in ("check_rows", "check_present", "n_repeated", "places")]
EXPLANATION = f"""\
{USERS_PER_ITEM} users for each item, {EACH} interactions a user on average and {LEAST} at least, popularity falls with
an item's rank, every item has a title. Reading is measured on interactions, the rest on users, or candidates, one a
user. Seconds for all are in proportion to what was measured: for the surrogate all users, for influence all candidates,
for the products `hessian_samples` candidates times {MOST_PRODUCTS}, the most that conjugate gradients take. MB on top
is the peak of resident memory above what was there when the part began. A slope is that of the logarithms against the
users, for the memory without the libraries: 1 is growth in proportion, 2 is growth with users times items."""

SUMMARISED = """\
Time and GB are those of the largest run, for all; where it had fewer users, in proportion to them. Bytes an interaction
are those at the peak without the libraries, and on top those above what was there when the part began. Interactions
that fit are in proportion as well, beside the libraries."""


class Cost(NamedTuple):
    """What was measured and of how much; seconds; MB: on top at the peak, in all, and before the stage (libraries)."""

    measured: int
    total: int
    seconds: float
    added: float
    whole: float
    libraries: float

    @property
    def seconds_for_all(self) -> float:
        return self.seconds * self.total / self.measured

    def memory(self, ratio: float) -> float:
        """Return MB in all for ``ratio`` times the data, in proportion."""
        return self.libraries + (self.whole - self.libraries) * ratio


class NotRun(NamedTuple):
    """Predicted and available MB of a stage that is not run."""

    predicted: float
    available: float


Costs = dict[int, Cost | NotRun]  # by the number of users


class Parts:
    """Seconds and peak memory of the parts of a stage, which follow one another in this process."""

    def __init__(self, name: str) -> None:
        self._found: dict[str, tuple[float, float, float]] = {}
        self._open(name)
        self._libraries = self._before

    def next(self, name: str) -> None:
        """End a part, and begin or continue another."""
        seconds, whole = perf_counter() - self._start, peak()
        before = self._found.get(self._name, (0.0, 0.0, 0.0))
        added, highest = max(before[1], whole - self._before), max(before[2], whole)
        self._found[self._name] = before[0] + seconds, added, highest
        self._open(name)

    def end(self, measured: int, total: int) -> dict[str, Cost]:
        """End the stage, and return the cost of its parts."""
        self.next(self._name)
        return {name: Cost(measured, total, *found, self._libraries) for name, found in self._found.items()}

    def around(self, function: Callable, name: str, then: str) -> Callable:
        """Return the function as a part of its own, which the part ``then`` follows."""

        @wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            self.next(name)
            try:
                return function(*arguments, **named)
            finally:
                self.next(then)

        return measured

    def _open(self, name: str) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._name, self._before, self._start = name, peak(), perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--epoch_users", type=int, default=2000, help="users of the surrogate's epoch")
    parser.add_argument("--candidates", type=int, default=2000, help="candidates of the influence")
    arguments = parser.parse_args()
    stages = {
        reading: (OF_PACKAGE, ()),
        arrays: ((PARQUET,), ()),
        candidates: ((CANDIDATES,), ()),
        epoch: ((EPOCH,), (arguments.epoch_users,)),
        influence: ((V, PRODUCT, SCORES), (arguments.candidates,)),
        selection: ((SELECTION,), ()),
    }
    costs: dict[str, Costs] = {part: {} for parts, _ in stages.values() for part in parts}
    for users in sorted(arguments.users):
        with TemporaryDirectory() as folder:
            apart(write_data, folder, users)
            for stage, (parts, given) in stages.items():
                for part, cost in measured(stage, {part: costs[part] for part in parts}, folder, users, *given).items():
                    costs[part][users] = cost
                    print(part, users, cost, flush=True)
    common.write("scale-users", report(costs))


def measured(stage: Callable, before: Mapping[str, Costs], folder: str, users: int, *given: int) -> Mapping[str, Any]:
    """Return the cost of each part of a stage, or why it is not run; ``before`` has those of smaller sizes."""
    predicted, available = max(memory(costs, users) for costs in before.values()), available_memory()
    if predicted > available:
        return dict.fromkeys(before, NotRun(predicted, available))
    return apart(stage, folder, users, *given)


def memory(costs: Costs, users: int) -> float:
    """Return MB in all for a number of users, in proportion to the largest size measured; 0 if there is none."""
    ran = largest(costs)
    return costs[ran].memory(users / ran) if ran else 0.0


def largest(costs: Costs) -> int:
    """Return the largest number of users that was measured, or 0."""
    return max((users for users, cost in costs.items() if isinstance(cost, Cost)), default=0)


def available_memory() -> float:
    """Return the MB that the machine can give to a new process."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6


def apart(function: Callable, *arguments: Any) -> Any:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def write_data(folder: str, users: int) -> None:
    """Write interactions in time order as Parquet, and the titles as an atomic file."""
    random, n, items = np.random.default_rng(0), users * EACH, users // USERS_PER_ITEM
    shares = random.exponential(size=users)
    lengths = LEAST + random.multinomial(n - LEAST * users, shares / shares.sum())
    weights = 1 / np.arange(10, items + 10)
    columns = {
        "user_id": tokens("u", random.permutation(np.repeat(np.arange(users, dtype=np.int32), lengths)), users),
        "item_id": tokens("i", random.choice(items, n, p=weights / weights.sum()), items),
        "timestamp": pa.array(1_600_000_000 + np.arange(n)),
    }
    parquet.write_table(pa.table(columns), parquet_file(folder))
    write_titles(Path(folder), [f"i{item}" for item in range(items)])


def tokens(letter: str, codes: np.ndarray, count: int) -> pa.ChunkedArray:
    """Return the tokens of codes below ``count``, as text."""
    texts = pa.array([f"{letter}{code}" for code in range(count)])
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), texts)]).cast(pa.string())


def parquet_file(folder: str) -> Path:
    return Path(folder) / f"{NAME}.parquet"


def write_titles(folder: Path, items: Sequence[str]) -> None:
    (folder / NAME).mkdir(exist_ok=True, parents=True)
    rows = [f"{item}\titem number {item}" for item in items]
    write_lines(folder / NAME / f"{NAME}.item", ["item_id:token\ttitle:token_seq", *rows])


def write_interactions(folder: str) -> None:
    """Write the interactions as an atomic file, in chunks."""
    with open(Path(folder) / NAME / f"{NAME}.inter", "w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for batch in parquet.ParquetFile(parquet_file(folder)).iter_batches():
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            stream.writelines(f"{user}\t{item}\t{time}\n" for user, item, time in rows)


def configured(folder: str | Path, **keys: Any) -> Config:
    given = {"data_path": str(folder), "checkpoint_dir": str(folder), "use_gpu": False, "show_progress": False}
    return Config("BIGRec", NAME, config_dict={**given, **keys})


def reading(folder: str, users: int) -> dict[str, Cost]:
    """Measure ``load_splits``, leave-one-out, and what a run makes of its rows first."""
    apart(write_interactions, folder)
    config, parts = configured(folder), Parts(READING)
    with ExitStack() as patches:
        for owner, name in [*CHECKED, (dataset, "read_titles")]:
            check = parts.around(getattr(owner, name), CHECKS, READING)
            patches.enter_context(mock.patch.object(owner, name, check))
        augmentation = parts.around(dataset.SequentialDataset.data_augmentation, AUGMENTATION, SPLIT)
        patches.enter_context(mock.patch.object(dataset.SequentialDataset, "data_augmentation", augmentation))
        splits = load_splits(config)
    parts.next(ROWS)
    CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    covering_rows(splits.train)
    return parts.end(users * EACH, users * EACH)


def arrays(folder: str, users: int) -> dict[str, Cost]:
    """Measure the reading of Parquet, and keep the arrays for the next stages."""
    parts = Parts(PARQUET)
    found = read_arrays(folder)
    costs = parts.end(users * EACH, users * EACH)
    for name, array in zip(ARRAYS, found, strict=True):
        np.save(Path(folder) / name, array)
    return costs


def read_arrays(folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes of users and items, int32, sorted by user and time, and the items' tokens by code."""
    text = ["user_id", "item_id"]
    interactions = parquet.read_table(parquet_file(folder), read_dictionary=text).unify_dictionaries()
    user, item = (np.concatenate([chunk.indices.to_numpy() for chunk in interactions[name].chunks]) for name in text)
    order = np.lexsort((interactions["timestamp"].to_numpy(), user))
    return user[order], item[order], interactions["item_id"].chunk(0).dictionary.to_numpy(zero_copy_only=False)


def load_arrays(folder: str) -> list[np.ndarray]:
    return [np.load(Path(folder) / f"{name}.npy", allow_pickle=name == "tokens") for name in ARRAYS]


def candidates(folder: str, users: int) -> dict[str, Cost]:
    user, item, _ = load_arrays(folder)
    parts = Parts(CANDIDATES)
    latest_samples(user, item)
    return parts.end(users, users)


def latest_samples(user: np.ndarray, item: np.ndarray) -> CandidateSamples:
    """Return the latest training row of each user; the rows are sorted by user and time."""
    last = np.flatnonzero(np.diff(user, append=-1))
    first = np.concatenate([[0], last[:-1] + 1])
    target = last - HELD_OUT
    length = np.minimum(target - first, LONGEST)
    places = np.arange(LONGEST)
    history = item[np.maximum(target - length, 0)[:, None] + np.minimum(places, length[:, None] - 1)] + 1
    history *= places < length[:, None]
    ids = (column.astype(np.int64) for column in (user[target] + 1, item[target] + 1, history))
    return CandidateSamples(*ids, length, (), np.arange(len(target)))


def epoch(folder: str, users: int, part: int) -> dict[str, Cost]:
    """Measure an epoch on some users, with the items of all."""
    part = min(part, users)
    splits = load_part(folder, part)
    config = splits.train.config.surrogate()
    config["epochs"] = 1
    model = build_surrogate(config, splits.train)
    loader = surrogate_loader(config, splits.train, model)
    trainer = SafetensorsTrainer(config, model, RunFolder(Path(folder)), "surrogate")
    parts = Parts(EPOCH)
    trainer.fit(loader, saved=False, verbose=False)
    return parts.end(part, users)


def load_part(folder: str, part: int) -> Splits:
    """Return the interactions of some users, and the items of all."""
    user, item, named = load_arrays(folder)
    end, path = np.searchsorted(user, part), Path(folder) / "part"
    rows = [f"u{code}\t{named[item[row]]}\t{row}" for row, code in enumerate(user[:end])]
    source = Path(folder) / NAME / f"{NAME}.item"
    (path / NAME).mkdir(parents=True, exist_ok=True)
    write_lines(path / NAME / f"{NAME}.inter", ["user_id:token\titem_id:token\ttimestamp:float", *rows])
    (path / NAME / source.name).write_bytes(source.read_bytes())
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    return load_splits(configured(path, load_col=columns))


def influence(folder: str, users: int, part: int) -> dict[str, Cost]:
    """Measure v, a product with the curvature and the scores of some candidates; random weights."""
    user, item, _ = load_arrays(folder)
    end = np.searchsorted(user, part)
    samples, train = latest_samples(user[:end], item[:end]), load_part(folder, part).train
    config = train.config
    surrogate = build_surrogate(config.surrogate(), train).eval()
    with torch.no_grad():  # torch.func differentiates all the same
        problem = tried_problem(surrogate, config, samples[:2])
        parts = Parts(V)
        v = problem.mean_gradient(samples)
        parts.next(PRODUCT)
        Curvature(problem, samples).product(v)
        parts.next(SCORES)
        problem.directional_derivatives(samples, v)
        costs = parts.end(len(samples), users)
    products = min(config["hessian_samples"], users) * MOST_PRODUCTS
    return {**costs, PRODUCT: costs[PRODUCT]._replace(total=products)}


def selection(_folder: str, users: int) -> dict[str, Cost]:
    scores = np.random.default_rng(0).normal(size=users)
    parts = Parts(SELECTION)
    coverage_enhanced_selection(scores, users // SELECTED)
    return parts.end(users, users)


def report(costs: Mapping[str, Costs]) -> str:
    users = max(max(by_users) for by_users in costs.values())
    columns = ["users", "measured on", "seconds", "seconds for all", "slope", "MB on top", "MB in all", "MB's slope"]
    parts = [f"## {part}\n\n{common.table(columns, table_rows(by_users))}" for part, by_users in costs.items()]
    sections = [
        f"# {users:,} users, stage by stage", answer(costs, users), f"{common.header()}. {EXPLANATION}",
        f"## All stages\n\n{SUMMARISED}\n\n{summary(costs, users)}", *parts, f"## On paper\n\n{paper(costs)}",
    ]  # fmt: skip
    return "\n\n".join(sections)


def answer(costs: Mapping[str, Costs], users: int) -> str:
    """Return where memory ends first for this number of users, and what the same interactions take as arrays."""
    worst = max(costs, key=lambda part: memory(costs[part], users))
    ends = " and ".join(f"{gib} GiB at {short(fitting(costs[worst], gib))} million" for gib in MEMORY_GIB)
    arrays_too = " and ".join(short(fitting(costs[PARQUET], gib)) for gib in MEMORY_GIB)
    cost = costs[worst][users]
    word = "took" if isinstance(cost, Cost) else "would take"
    text = (
        f'**Memory ends first in "{worst}": {ends} interactions.** {users:,} users with {users * EACH:,} interactions '
        f"{word} {memory(costs[worst], users) / 1e3:.3g} GB there, {bytes_each(costs[worst]):,.0f} bytes each. "
        f"Reading the same interactions from Parquet into arrays takes {bytes_each(costs[PARQUET]):,.0f} bytes each: "
        f"{arrays_too} million fit."
    )
    if isinstance(cost, NotRun):
        text += f" The stage was not run for {users:,} users: the machine had {cost.available / 1e3:.3g} GB left."
    return text


def summary(costs: Mapping[str, Costs], users: int) -> str:
    """Return time and memory of all stages for this number of users, and how many interactions fit into a memory."""
    fits = [f"millions in {gib} GiB" for gib in MEMORY_GIB]
    columns = ["stage", "largest run", "time", "GB in all", "bytes an interaction", "on top", *fits]
    rows = []
    for part, by_users in costs.items():
        ran = largest(by_users)
        if not ran:
            continue
        cells = [part, f"{ran:,}", duration(in_proportion(by_users, users)), f"{memory(by_users, users) / 1e3:.1f}"]
        if part in (*OF_PACKAGE, PARQUET, CANDIDATES):
            on_top = by_users[ran].added * 1e6 / (ran * EACH)
            limits = (short(fitting(by_users, gib)) for gib in MEMORY_GIB)
            rows.append([*cells, f"{bytes_each(by_users):,.0f}", f"{on_top:,.0f}", *limits])
        else:
            rows.append([*cells, *[""] * (len(columns) - len(cells))])
    return common.table(columns, rows)


def short(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1}f}"


def bytes_each(costs: Costs) -> float:
    """Return the bytes an interaction at the peak, without the libraries, at the largest size measured."""
    users = largest(costs)
    return (costs[users].whole - costs[users].libraries) * 1e6 / (users * EACH)


def fitting(costs: Costs, gib: float) -> float:
    """Return how many million interactions fit into a memory, libraries included."""
    libraries = costs[largest(costs)].libraries * 1e6
    return (gib * 2**30 - libraries) / bytes_each(costs) / 1e6


def table_rows(costs: Costs) -> list[list[str]]:
    rows, before = [], None
    for users, cost in costs.items():
        if isinstance(cost, NotRun):
            words = f"not run: {cost.predicted / 1e3:.3g} GB predicted, {cost.available / 1e3:.3g} GB available"
            rows.append([f"{users:,}", words, *[""] * 6])
            continue
        now = cost.seconds_for_all, max(cost.whole - cost.libraries, 1)  # the process itself varies by a megabyte
        slopes = ["", ""]
        if before is not None:
            ratios = (after / earlier for after, earlier in zip(now, before[1], strict=True))
            slopes = [f"{log(ratio) / log(users / before[0]):.2f}" for ratio in ratios]
        numbers = f"{cost.measured:,}", f"{cost.seconds:.3g}", f"{now[0]:.3g}", slopes[0]
        rows.append([f"{users:,}", *numbers, f"{cost.added:.0f}", f"{cost.whole:.0f}", slopes[1]])
        before = users, now
    return rows


class Step(NamedTuple):
    """A step on paper: how it is counted, its FLOP at a rate, its bytes, and whether several GPUs share it."""

    name: str
    formula: str
    flop: float
    rate: float
    moved: float
    shared: bool

    def seconds(self, gpus: int) -> float:
        alone = self.flop / (REACHED * self.rate) + self.moved / (REACHED * BYTES)
        return alone / gpus if self.shared else alone


def paper(costs: Mapping[str, Costs]) -> str:
    """Return the estimate for ``PAPER_USERS``."""
    steps = gpu_steps(configured(".", llm_path="checkpoint"))  # the tiny one has defaults of its own
    rows = [
        [step.name, step.formula, f"{step.flop:.2g}", f"{step.moved:.2g}", *(duration(step.seconds(n)) for n in GPUS)]
        for step in steps
    ]
    on_cpu = {part: in_proportion(costs[part], PAPER_USERS) for part in (PARQUET, CANDIDATES, SELECTION)}
    rows += [[part, "CPU, in proportion", "", "", *[duration(now)] * len(GPUS)] for part, now in on_cpu.items()]
    totals = [sum(step.seconds(n) for step in steps) + sum(on_cpu.values()) for n in GPUS]
    rows.append(["in all", "", "", "", *map(duration, totals)])
    names = [f"{n} GPU{'s' * (n > 1)}" for n in GPUS]
    columns = ["step", "counted as", "FLOP", "bytes", *names]
    needed = max(memory(costs[part], PAPER_USERS) for part in OF_PACKAGE) / 1e3
    whole = " and ".join(f"{duration(total)} with {column}" for total, column in zip(totals, names, strict=True))
    return f"""\
**{PAPER_USERS * EACH:,} interactions would take about {whole}.** An estimate, nothing of it was measured on a GPU:
{PAPER_USERS:,} users, {PAPER_USERS // USERS_PER_ITEM:,} items, one candidate a user, the package's defaults otherwise,
a language model of {LLM_PARAMETERS / 1e9:.0f} billion parameters with LoRA and {TOKENS} tokens a sample. Seconds are
FLOP / (share x rate) + bytes / (share x bandwidth) with a share of {REACHED}, an assumption, and the rates of an H100
SXM in NVIDIA's data sheet: {BF16 / 1e12:.0f} TFLOP/s in bf16 (language model), {FP32 / 1e12:.0f} in float32
(surrogate), {BYTES / 1e12} TB/s; bytes are those of the logits in float32. Starting of kernels and evaluation are left
out. Only effort, scores and fine-tuning are shared among GPUs: surrogates, v and products run on the first one.
The package's own reading would take {needed:,.0f} GB, so that the reading here is that of Parquet.

{common.table(columns, rows)}"""


def gpu_steps(config: Config) -> list[Step]:
    """Return the steps of a run that need a GPU, with the operations and bytes of their matrices."""
    surrogate, users, items = config.surrogate(), PAPER_USERS, PAPER_USERS // USERS_PER_ITEM
    width, inner, layers = (surrogate[key] for key in ("hidden_size", "inner_size", "n_layers"))
    encoder, logit = layers * (4 * width**2 + 2 * width * inner), 2 * width * items
    n, positions, few = config["n_surrogates"], users * (EACH - HELD_OUT - 1), users // SELECTED
    trained, products = n * EPOCHS * positions, n * config["hessian_samples"] * MOST_PRODUCTS
    token = 2 * LLM_PARAMETERS  # FLOP of a forward pass
    per = 4 * items  # bytes of the logits of a position
    return [
        Step(f"{n} surrogates, {EPOCHS} epochs", "surrogates x epochs x positions x (6 x encoder + 6 x width x items)",
             trained * (6 * encoder + 3 * logit), FP32, trained * IN_TRAINING * per, False),
        Step("influence: v", "surrogates x candidates x (6 x encoder x history + 4 x width x items)",
             n * users * (6 * encoder * LONGEST + 2 * logit), FP32, n * users * IN_GRADIENT * per, False),
        Step(f"influence: {MOST_PRODUCTS} products",
             "surrogates x products x samples x (10 x encoder x history + 6 x width x items)",
             products * (10 * encoder * LONGEST + 3 * logit), FP32, products * IN_CURVATURE * per, False),
        Step("influence: scores", "surrogates x candidates x (4 x encoder x history + 4 x width x items)",
             n * users * (4 * encoder * LONGEST + 2 * logit), FP32, n * users * IN_GRADIENT * per, True),
        Step("effort", f"{EFFORT_PASSES} x 2 x parameters x tokens x candidates",
             EFFORT_PASSES * token * TOKENS * users, BF16, 0, True),
        Step(f"fine-tuning, {config['epochs']} epochs at most", "4 x parameters x tokens x selected x epochs",
             2 * token * TOKENS * few * config["epochs"], BF16, 0, True),
    ]  # fmt: skip


def in_proportion(costs: Costs, users: int) -> float:
    """Return the seconds for a number of users, in proportion to the largest size measured."""
    ran = largest(costs)
    return costs[ran].seconds_for_all * users / ran


def duration(seconds: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= unit or unit == 1
    )
    return f"{seconds / unit:.2g} {name}"


if __name__ == "__main__":
    main()
