"""How do time and memory grow with the candidates? Influence, effort and selection on generated ones.

    python benchmarks/scale.py [--sizes 10000 100000 1000000] [--selection 10000000]

Each figure comes from a separate process, on the CPU. The models are small and have random weights: the figures show
how the cost grows, not how large it is for real models. Prints tables and writes them to benchmarks/results/scale.md.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from math import log
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import common
import numpy as np

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.tiny_llama import build_tiny_llm
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.sampler import coverage_enhanced_selection
from recbole_dealrec.scorer import EffortScorer, InfluenceScorer

ITEMS, LONGEST = 1000, 10
KEYS = {
    "MAX_ITEM_LIST_LENGTH": LONGEST, "surrogate_hidden_size": 32, "surrogate_inner_size": 64, "surrogate_n_layers": 1,
    "curvature": "gauss_newton", "hessian_samples": 512, "prompt_input": "{history}", "prompt_layout": "{input}\n",
    "max_history_titles": 2, "max_prompt_length": 64, "use_gpu": False, "show_progress": False,
}  # fmt: skip
EXPLANATION = f"""\
A catalogue of {ITEMS:,} items, histories of 1 to {LONGEST}. MB on top is the peak of resident memory above what was
there before, which is the candidates (for selection: the scores) and the models. A slope is that of the logarithms from
one size to the next: 1 is growth in proportion, 0 is none."""


class Cost(NamedTuple):
    """Seconds, and in MB: the given candidates or scores, the additional memory at the peak, and the whole."""

    seconds: float
    given: float
    added: float
    whole: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--selection", type=int, default=10**7, help="scores of one more selection")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        surrogate, llm = write_models(Path(folder))
        costs = {
            f"Influence: SASRec of {surrogate:,} parameters": measured(influence, folder, arguments.sizes),
            f"Effort: Llama with LoRA, {llm:,} parameters": measured(effort, folder, arguments.sizes),
            "Selection of 2 %": measured(selection, folder, [*arguments.sizes, arguments.selection]),
        }
    common.write("scale", report(costs))


def measured(part: Callable[[str, int], Cost], folder: str, sizes: Sequence[int]) -> dict[int, Cost]:
    costs = {}
    for size in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            costs[size] = process.submit(part, folder, size).result()
        print(part.__name__, size, costs[size], flush=True)
    return costs


def influence(folder: str, n: int) -> Cost:
    config, splits = load(folder)
    surrogate, samples = build_surrogate(config.surrogate(), splits.train), candidates(splits, n)
    return cost(lambda: InfluenceScorer(surrogate, config).score(samples), bytes_of(samples))


def effort(folder: str, n: int) -> Cost:
    config, splits = load(folder)
    llm, samples = BIGRec(config, splits.train), candidates(splits, n)
    return cost(lambda: EffortScorer(llm, config).score(samples), bytes_of(samples))


def selection(_folder: str, n: int) -> Cost:
    scores = np.random.default_rng(0).normal(size=n)
    return cost(lambda: coverage_enhanced_selection(scores, n // 50), scores.nbytes)


def cost(compute: Callable[[], object], given: int) -> Cost:
    before, start = peak(), perf_counter()
    compute()
    return Cost(perf_counter() - start, given / 1e6, peak() - before, peak())


def peak() -> float:
    """Return the peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def candidates(splits: Splits, n: int) -> CandidateSamples:
    """Return random histories and targets."""
    random = np.random.default_rng(0)
    length = random.integers(1, LONGEST + 1, n)
    items = random.integers(1, ITEMS + 1, (n, LONGEST))
    items *= np.arange(LONGEST) < length[:, None]
    target = random.integers(1, ITEMS + 1, n)
    return CandidateSamples(np.ones(n, dtype=np.int64), target, items, length, splits.train.titles, np.arange(n))


def bytes_of(samples: CandidateSamples) -> int:
    return sum(column.nbytes for column in astuple(samples) if isinstance(column, np.ndarray))


def write_models(folder: Path) -> tuple[int, int]:
    """Write a catalogue, its interactions and a small Llama; return the parameters of the surrogate and the LLM."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(300)]
    titles = [" ".join(random.choice(words, random.integers(1, 4))) for _ in range(ITEMS)]
    (folder / "scale").mkdir()
    items = [f"i{item}\t{title}" for item, title in enumerate(titles)]
    write_lines(folder / "scale" / "scale.item", ["item_id:token\ttitle:token_seq", *items])
    rows = [f"u{user}\ti{(4 * user + place) % ITEMS}\t{place}" for user in range(ITEMS // 4) for place in range(8)]
    write_lines(folder / "scale" / "scale.inter", ["user_id:token\titem_id:token\ttimestamp:float", *rows])
    shape = {"hidden_size": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 1024, "max_length": 64}
    build_tiny_llm(folder / "llm", titles, np.ones(ITEMS), steps=1, show_progress=False, **shape)
    config, splits = load(str(folder))
    models = build_surrogate(config.surrogate(), splits.train), BIGRec(config, splits.train)
    return tuple(sum(parameter.numel() for parameter in model.parameters()) for model in models)


def write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(folder: str) -> tuple[Config, Splits]:
    keys = {**KEYS, "data_path": folder, "checkpoint_dir": folder, "llm_path": f"{folder}/llm"}
    config = Config("BIGRec", "scale", config_dict=keys)
    return config, load_splits(config)


def report(costs: dict[str, dict[int, Cost]]) -> str:
    columns = ["n", "seconds", "slope", "MB given", "MB on top", "slope", "MB in all"]
    parts = [f"## {title}\n\n{common.table(columns, table_rows(by_size))}" for title, by_size in costs.items()]
    title = "# Time and memory against the number of candidates"
    return "\n\n".join([title, f"{common.header()}. {EXPLANATION}", *parts])


def table_rows(costs: dict[int, Cost]) -> list[list]:
    rows, before = [], None
    for size, now in costs.items():
        slopes = ["", ""]
        if before is not None:
            # The process itself varies by about a megabyte.
            ratios = now.seconds / before[1].seconds, max(now.added, 1) / max(before[1].added, 1)
            slopes = [f"{log(ratio) / log(size / before[0]):.2f}" for ratio in ratios]
        memory = [f"{value:.0f}" for value in now[1:]]
        rows.append([f"{size:,}", f"{now.seconds:.3g}", slopes[0], *memory[:2], slopes[1], memory[2]])
        before = size, now
    return rows


if __name__ == "__main__":
    main()
