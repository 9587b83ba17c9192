"""Measure everything that needs a GPU, most important first, in as many calls as necessary.

    python benchmarks/gpu.py --llm PATH --games PATH [--parts a b c d e] [--seconds N]

a. Are effort, influence, beam search and a run of each model right on this device?
b. Samples per second and peak memory of effort, fine-tuning and beam search, from 135 million to 8 billion parameters.
c. Gain and whole cost of a selection, on Games, against no, other and full fine-tuning.
d. From b: the whole cost of DEALRec against fine-tuning on all candidates.
e. Does a score predict what the language model learns from a sample?

Each row is written to benchmarks/results/gpu-*.csv when it is measured, and is not measured again. A row that failed
has its error and is measured again. Each part runs in a separate process, so that a crash does not affect the others.
After --seconds, from the start of the process, the call ends with what it has. The page gpu.md is built from the rows
of a GPU. --smoke does everything on the CPU with a tiny Llama and generated data, in the folder --out.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import common
import gpu_cost
import gpu_datamodel
import gpu_page
import gpu_promise
import gpu_rates
import gpu_right
import pandas as pd
from gpu_rows import Deadline, Rows
from gpu_setup import Setup

NAMES = {"a": "right", "b": "rates", "c": "promise", "d": "cost", "e": "datamodel"}
MEASURED = {"a": gpu_right.measure, "b": gpu_rates.measure, "c": gpu_promise.measure, "e": gpu_datamodel.measure}
PROCESS = "process"  # row of a part whose process died


def main() -> None:
    arguments = parsed()
    if arguments.inside:
        measure(arguments, arguments.inside, arguments.seconds)
        return
    deadline = Deadline(arguments.seconds)
    for part in arguments.parts:
        if part in MEASURED and measure(arguments, part, 0):
            run_part(arguments, part, deadline)
    tables = {part: rows_of(arguments, part).table() for part in NAMES}
    if "d" in arguments.parts:
        tables["d"] = computed_costs(arguments, tables)
    devices = {device for part in MEASURED for device in tables[part].get("device", [])}
    if devices and "cpu" not in devices:
        (arguments.out / "gpu.md").write_text(gpu_page.page(tables), encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", help="llm_path: folder or file of SmolLM2-135M-Instruct")
    parser.add_argument("--games", help="data_path: folder that contains games/")
    parser.add_argument("--parts", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--seconds", type=float, default=540, help="when the call has to end")
    parser.add_argument("--out", type=Path, default=common.RESULTS, help="folder of the results")
    parser.add_argument("--checkpoint_dir", type=Path, default=Path("saved"))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--inside", choices=list(MEASURED), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == common.RESULTS:
        parser.error("--smoke needs --out: its rows are no results")
    if not arguments.smoke and not (arguments.llm and arguments.games):
        parser.error("--llm and --games are needed, or --smoke")
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def setup(arguments: argparse.Namespace) -> Setup:
    if arguments.smoke:
        return Setup.smoke(arguments.out / "smoke")
    return Setup(arguments.llm, arguments.games, arguments.checkpoint_dir, small=False)


def rows_of(arguments: argparse.Namespace, part: str, seconds: float = 0.0) -> Rows:
    return Rows(arguments.out / f"gpu-{NAMES[part]}.csv", Deadline(seconds))


def measure(arguments: argparse.Namespace, part: str, seconds: float) -> list[str]:
    """Measure rows while there is time; return the names of the rows that are left (without seconds, all absent)."""
    rows = rows_of(arguments, part, seconds)
    MEASURED[part](setup(arguments), rows)
    if seconds and rows.left_out:
        print(f"part {part} is left with: {'; '.join(rows.left_out)}", flush=True)
    return rows.left_out


def run_part(arguments: argparse.Namespace, part: str, deadline: Deadline) -> None:
    """Run a part in a separate process, and end it if it takes more than the time that is left."""
    rows = rows_of(arguments, part)
    seconds = deadline.left()
    command = [sys.executable, __file__, *sys.argv[1:], "--inside", part, "--seconds", str(seconds)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if arguments.smoke else {}
    try:
        code = subprocess.run(command, env={**os.environ, **hidden}, timeout=max(0.0, seconds)).returncode
    except subprocess.TimeoutExpired:
        print(f"part {part} was ended, its time was over", flush=True)
        return
    rows.replace([row for row in rows.table().to_dict("records") if row["row"] != PROCESS])
    if code:
        rows.put({"row": PROCESS, "error": f"the process of the part ended with code {code}"})


def computed_costs(arguments: argparse.Namespace, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of part d, computed from those of the other parts each time."""
    rows = rows_of(arguments, "d")
    promise = rows_of(arguments, "c").find("DEALRec")
    surrogates = promise["selection, s"] - promise["effort, s"] if promise else 0.0
    rows.replace(gpu_cost.cost_rows(tables["b"], surrogates) if "model" in tables["b"] else [])
    return rows.table()


if __name__ == "__main__":
    main()
