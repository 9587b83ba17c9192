"""What do a million users cost, stage by stage, and where does one machine's memory end? On generated data.

    python benchmarks/scale_users.py [--users 10000 100000 1000000] [--epoch_users 2000] [--candidates 2000]

Five users for each item and 50 interactions a user. Each stage runs in a process of its own, on the CPU; one whose
predicted memory exceeds what the machine has left is not run. Linux only, as peaks are read from /proc. Each finished
stage adds rows to benchmarks/results/scale-users-runs.csv and is not run again while they are there; the page
scale-users.md is built from the rows.
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
import pandas as pd
import pyarrow as pa
import torch
from on_paper import (
    EACH,
    HELD_OUT,
    LEAST,
    LONGEST,
    MOST_PRODUCTS,
    PAPER_USERS,
    SELECTED,
    USERS_PER_ITEM,
    duration,
    paper,
)
from pyarrow import parquet
from scale import peak, write_lines

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, dataset, load_splits
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.parquet_file import ParquetFile
from recbole_dealrec.data.sequence import covering_rows
from recbole_dealrec.data.typed_file import TypedFile
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.model.surrogate.surrogate import surrogate_loader
from recbole_dealrec.sampler import coverage_enhanced_selection
from recbole_dealrec.scorer.curvature import Curvature
from recbole_dealrec.scorer.influence import tried_problem
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer

FILE = common.RESULTS / "scale-users-runs.csv"
NAME = "scale"  # of the dataset
MEMORY_GIB = 23, 128
ARRAYS = "user", "item", "tokens"
CHECKS, READING = "the package's file checks", "RecBole's read and remap"
SLICES, SPLIT, ROWS = "sort and slices", "RecBole's sort by time and split", "candidates and the surrogate's rows"
TEXT, PARQUET = (
    {part: f"{kind}: {part}" for part in (CHECKS, READING, SLICES, SPLIT, ROWS)} for kind in ("Text", "Parquet")
)
EPOCH, SELECTION = "An epoch of the surrogate", "Selection of 2 %"
V, PRODUCT, SCORES = "Influence: v", "Influence: products with the curvature", "Influence: scores"
CHECKED = "check_rows", "check_present", "n_repeated", "places"
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
        reading_text: (tuple(TEXT.values()), ()),
        reading_parquet: (tuple(PARQUET.values()), ()),
        epoch: ((EPOCH,), (arguments.epoch_users,)),
        influence: ((V, PRODUCT, SCORES), (arguments.candidates,)),
        selection: ((SELECTION,), ()),
    }
    costs = known_costs([part for parts, _ in stages.values() for part in parts])
    for users in sorted(arguments.users):
        due = {stage: of for stage, of in stages.items() if users not in costs[of[0][0]]}
        with TemporaryDirectory() as folder:
            if due:
                apart(write_data, folder, users)
                apart(write_arrays, folder)
            for stage, (parts, given) in due.items():
                for part, cost in measured(stage, {part: costs[part] for part in parts}, folder, users, *given).items():
                    costs[part][users] = cost
                    print(part, users, cost, flush=True)
                keep(costs)
    common.write("scale-users", report(costs))


def known_costs(parts: Sequence[str]) -> dict[str, Costs]:
    """Return the measured cost of each part by the number of users."""
    costs: dict[str, Costs] = {part: {} for part in parts}
    for part, users, *values in pd.read_csv(FILE).itertuples(index=False) if FILE.exists() else []:
        costs[part][users] = Cost(*values)
    return costs


def keep(costs: Mapping[str, Costs]) -> None:
    """Write the rows of all costs that were measured."""
    rows = [
        {"part": part, "users": users, **cost._asdict()}
        for part, by_users in costs.items()
        for users, cost in by_users.items()
        if isinstance(cost, Cost)
    ]
    with atomic_path(FILE) as path:
        pd.DataFrame(rows).to_csv(path, index=False)


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
    """Write a dataset with interactions in time order as Parquet."""
    random, n, items = np.random.default_rng(0), users * EACH, users // USERS_PER_ITEM
    shares = random.exponential(size=users)
    lengths = LEAST + random.multinomial(n - LEAST * users, shares / shares.sum())
    weights = 1 / np.arange(10, items + 10)
    columns = {
        "user_id:token": tokens("u", random.permutation(np.repeat(np.arange(users, dtype=np.int32), lengths)), users),
        "item_id:token": tokens("i", random.choice(items, n, p=weights / weights.sum()), items),
        "timestamp:float": pa.array(1_600_000_000 + np.arange(n)),
    }
    write_titles(Path(folder), [f"i{item}" for item in range(items)])
    parquet.write_table(pa.table(columns), parquet_file(folder))


def tokens(letter: str, codes: np.ndarray, count: int) -> pa.ChunkedArray:
    """Return the tokens of codes below ``count``, as text."""
    texts = pa.array([f"{letter}{code}" for code in range(count)])
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), texts)]).cast(pa.string())


def parquet_file(folder: str) -> Path:
    return Path(folder) / NAME / f"{NAME}.inter.parquet"


def write_titles(folder: Path, items: Sequence[str]) -> None:
    (folder / NAME).mkdir(exist_ok=True, parents=True)
    rows = [f"{item}\titem number {item}" for item in items]
    write_lines(folder / NAME / f"{NAME}.item", ["item_id:token\ttitle:token_seq", *rows])


def write_interactions(folder: str) -> None:
    """Write the dataset with its interactions as an atomic file, in chunks."""
    with open(copied(folder, "text") / f"{NAME}.inter", "w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for batch in parquet.ParquetFile(parquet_file(folder)).iter_batches():
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            stream.writelines(f"{user}\t{item}\t{time}\n" for user, item, time in rows)


def copied(folder: str, name: str) -> Path:
    """Return the folder of another dataset with the same titles, below ``name``."""
    source, other = parquet_file(folder).with_name(f"{NAME}.item"), Path(folder) / name / NAME
    other.mkdir(parents=True, exist_ok=True)
    (other / source.name).write_bytes(source.read_bytes())
    return other


def configured(folder: str | Path, **keys: Any) -> Config:
    given = {"data_path": str(folder), "checkpoint_dir": str(folder), "use_gpu": False, "show_progress": False}
    return Config("BIGRec", NAME, config_dict={**given, **keys})


def reading_text(folder: str, users: int) -> dict[str, Cost]:
    apart(write_interactions, folder)
    return reading(f"{folder}/text", users, AtomicFile, TEXT)


def reading_parquet(folder: str, users: int) -> dict[str, Cost]:
    return reading(folder, users, ParquetFile, PARQUET)


def reading(folder: str, users: int, reader: type[TypedFile], names: Mapping[str, str]) -> dict[str, Cost]:
    """Measure ``load_splits``, leave-one-out, and what a run makes of its rows first."""
    config, parts = configured(folder), Parts(names[READING])
    measured = {(reader, name): (CHECKS, READING) for name in CHECKED}
    measured[dataset, "read_titles"] = CHECKS, READING
    measured[dataset.SequentialDataset, "data_augmentation"] = SLICES, SPLIT
    with ExitStack() as patches:
        for (owner, name), (part, then) in measured.items():
            function = parts.around(getattr(owner, name), names[part], names[then])
            patches.enter_context(mock.patch.object(owner, name, function))
        splits = load_splits(config)
    parts.next(names[ROWS])
    CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    covering_rows(splits.train)
    return parts.end(users * EACH, users * EACH)


def write_arrays(folder: str) -> None:
    """Keep the interactions as arrays for the next stages."""
    for name, array in zip(ARRAYS, read_arrays(folder), strict=True):
        np.save(Path(folder) / name, array)


def read_arrays(folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes of users and items, int32, sorted by user and time, and the items' tokens by code."""
    text = ["user_id:token", "item_id:token"]
    interactions = parquet.read_table(parquet_file(folder), read_dictionary=text).unify_dictionaries()
    user, item = (np.concatenate([chunk.indices.to_numpy() for chunk in interactions[name].chunks]) for name in text)
    order = np.lexsort((interactions["timestamp:float"].to_numpy(), user))
    return user[order], item[order], interactions["item_id:token"].chunk(0).dictionary.to_numpy(zero_copy_only=False)


def load_arrays(folder: str) -> list[np.ndarray]:
    return [np.load(Path(folder) / f"{name}.npy", allow_pickle=name == "tokens") for name in ARRAYS]


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
    rows = [f"u{code}\t{named[item[row]]}\t{row}" for row, code in enumerate(user[: np.searchsorted(user, part)])]
    path = copied(folder, "part")
    write_lines(path / f"{NAME}.inter", ["user_id:token\titem_id:token\ttimestamp:float", *rows])
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    return load_splits(configured(path.parent, load_col=columns))


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
        f"## All stages\n\n{SUMMARISED}\n\n{summary(costs, users)}", *parts, f"## On paper\n\n{estimate(costs)}",
    ]  # fmt: skip
    return "\n\n".join(sections)


def answer(costs: Mapping[str, Costs], users: int) -> str:
    """Return where memory ends first for this number of users, as text and as Parquet."""
    return "\n\n".join(_end(costs, kind, users) for kind in (TEXT, PARQUET))


def _end(costs: Mapping[str, Costs], kind: Mapping[str, str], users: int) -> str:
    worst = max(kind.values(), key=lambda part: memory(costs[part], users))
    ends = " and ".join(f"{gib} GiB at {short(fitting(costs[worst], gib))} million" for gib in MEMORY_GIB)
    cost = costs[worst][users]
    word = "took" if isinstance(cost, Cost) else "would take"
    text = (
        f'**Memory ends first in "{worst}": {ends} interactions.** {users:,} users with {users * EACH:,} interactions '
        f"{word} {memory(costs[worst], users) / 1e3:.3g} GB there, {bytes_each(costs[worst]):,.0f} bytes each."
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
        if part in (*TEXT.values(), *PARQUET.values()):
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


def estimate(costs: Mapping[str, Costs]) -> str:
    """Return the hours of a run with ``PAPER_USERS``, read from Parquet."""
    on_cpu = {part: in_proportion(costs[part], PAPER_USERS) for part in (*PARQUET.values(), SELECTION)}
    return paper(configured(".", llm_path="checkpoint"), on_cpu)  # the tiny one has defaults of its own


def in_proportion(costs: Costs, users: int) -> float:
    """Return the seconds for a number of users, in proportion to the largest size measured."""
    ran = largest(costs)
    return costs[ran].seconds_for_all * users / ran


if __name__ == "__main__":
    main()
