"""Does memory grow with the number of runs? Many runs in one process on generated data.

    python benchmarks/soak.py [--runs 200] [--models BIGRec TIGER]

Every run has all steps and its own seed: surrogate, influence, effort, selection, fine-tuning, evaluation, report.
Memory is the resident set after a garbage collection. Writes benchmarks/results/soak.md and ends with an error if the
last run leaves more than 1.05 times the memory of the tenth, or more open files or threads.
"""

import argparse
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

from recbole_dealrec import run_recbole_dealrec

QUICK = {
    "show_progress": False, "state": "WARNING", "use_gpu": False, "n_fewshot": 16, "n_groups": 4, "topk": [5],
    "epochs": 2, "surrogate_epochs": 2, "n_surrogates": 2, "hessian_samples": 32, "n_valid": 20, "num_beams": 5,
}  # fmt: skip
MODEL_KEYS = {
    "BIGRec": {"tiny_steps": 5, "max_prompt_length": 96},
    "TIGER": {"eval_step": 1, "valid_metric": "NDCG@5", "t5_num_layers": 1, "t5_d_model": 16, "t5_d_ff": 32},
}
MEASURED = ("resident MB", "open files", "threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--models", nargs="+", default=["BIGRec", "TIGER"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_generated(Path(folder))
        measured = list(soak(arguments.runs, arguments.models))
    common.write("soak", report(measured, arguments.models))
    tenth, last = measured[9], measured[-1]
    if last[0] > 1.05 * tenth[0] or last[1] > tenth[1] or last[2] > tenth[2]:
        raise SystemExit(f"error: {MEASURED} were {tenth} after the tenth run and are {last} after the last")


def write_generated(folder: Path, users: int = 60, items: int = 40) -> None:
    """Write atomic files of sequences in which the next item is often the next number."""
    random = np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        start, steps = random.integers(items), random.choice([1, 1, 1, 2, 5], size=random.integers(5, 12))
        rows += [f"u{user}\ti{item}\t{place}" for place, item in enumerate((start + np.cumsum(steps)) % items)]
    titles = ["item_id:token\ttitle:token_seq", *(f"i{item}\tTitle number {item}" for item in range(items))]
    (folder / "generated").mkdir()
    (folder / "generated" / "generated.inter").write_text("\n".join([*rows, ""]), encoding="utf-8")
    (folder / "generated" / "generated.item").write_text("\n".join([*titles, ""]), encoding="utf-8")


def soak(runs: int, models: list[str]) -> Iterator[tuple[float, int, int]]:
    for number in range(runs):
        model = models[number % len(models)]
        keys = {**QUICK, **MODEL_KEYS[model], "data_path": os.getcwd(), "seed": number}
        # Every second run is kept, so that run folders are both read and deleted.
        run_recbole_dealrec(model, "generated", config_dict=keys, saved=number % 4 < 2)
        gc.collect()
        yield resident_mb(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(measured: list[tuple[float, int, int]], models: list[str]) -> str:
    shown = sorted({1, 10, *range(25, len(measured), 25), len(measured)})
    rows = [
        [number, *(f"{value:.0f}" for value in measured[number - 1])] for number in shown if number <= len(measured)
    ]
    return f"""# {len(measured)} runs in one process

{common.header()}. {" and ".join(models)} in turn on 60 generated users, each run with its own seed; every other pair of
runs keeps its folder. After the last run {measured[-1][0] / measured[9][0]:.3f} times the memory after the tenth.

{common.table(["after run", *MEASURED], rows)}
"""


if __name__ == "__main__":
    main()
