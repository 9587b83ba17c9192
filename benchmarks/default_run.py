"""Where do the seconds of the default run go, and what has a version gained over an earlier one?

    python benchmarks/default_run.py [--seeds 2020 2021 2022 2023 2024] [--before COMMIT]

Each run is a process that starts from nothing: no surrogate, no score, no tiny language model. With --before, a clone
of this repository at an earlier commit runs in turn with this one. Finished runs are rows of
benchmarks/results/default-run-runs.csv and are not run again; the page default-run.md is built from the rows. Measure
on an idle machine.
"""

import argparse
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import common
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from recbole_dealrec.model.surrogate.surrogate import surrogate_labels
from recbole_dealrec.store.files import atomic_path, read_json

ROOT = Path(__file__).parents[1]
ROWS = common.RESULTS / "default-run-runs.csv"
RANKS = common.RESULTS / "default-run-influence-ranks.npz"
METRICS = ["recall@10", "ndcg@10", "reweighted recall@10"]
TOP = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022, 2023, 2024])
    parser.add_argument("--before", help="commit to compare with")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        checkouts = {common.commit(): ROOT}
        if arguments.before:
            checkouts = {arguments.before: common.cloned(arguments.before, Path(folder) / "before"), **checkouts}
        for seed in arguments.seeds:
            for commit, checkout in checkouts.items():
                if not ((rows()["commit"] == commit) & (rows()["seed"] == seed)).any():
                    add(commit, seed, checkout, Path(folder) / f"{commit}-{seed}")
    common.write("default-run", page(rows()))


def rows() -> pd.DataFrame:
    return pd.read_csv(ROWS, dtype={"commit": str}) if ROWS.exists() else pd.DataFrame(columns=["commit", "seed"])


def add(commit: str, seed: int, checkout: Path, folder: Path) -> None:
    """Run the default job of a checkout, and add its row and its influence scores to the results."""
    keys = [f"--seed={seed}", f"--checkpoint_dir={folder}", "--show_progress=False"]
    start = perf_counter()
    subprocess.run([sys.executable, "run_recbole_dealrec.py", *keys], cwd=checkout, check=True, capture_output=True)
    wall = perf_counter() - start
    (result_file,) = {file.resolve() for file in folder.glob("*/result.json")}  # `latest` is a link
    row = {"commit": commit, "seed": seed, "wall": wall, **measured(read_json(result_file))}
    influence = pd.read_csv(result_file.with_name("scores.csv"))["influence"]
    np.savez_compressed(RANKS, **ranks(), **{f"{commit}-{seed}": influence.rank(method="first").to_numpy(np.int16)})
    with atomic_path(ROWS) as path:
        pd.concat([rows(), pd.DataFrame([row])]).to_csv(path, index=False)


def measured(result: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each step and the metrics of a run."""
    reweighted = result["reweighting"]["test_result"]
    metrics = {**result["test_result"], "reweighted recall@10": reweighted["recall@10"]}
    return {**{name: metrics[name] for name in METRICS}, **result["seconds"]}


def ranks() -> dict[str, np.ndarray]:
    """Return the ranks of the candidates by influence, int16 [n], by commit and seed."""
    return dict(np.load(RANKS)) if RANKS.exists() else {}


def page(runs: pd.DataFrame) -> str:
    by_commit = dict(list(runs.groupby("commit", sort=False)))
    labels = surrogate_labels([name for name in runs if name not in ("commit", "seed", "wall", *METRICS)])
    seconds = [
        [label, *(f"{part[name].median():.1f}" for part in by_commit.values())]
        for name, label in {**labels, "wall": "the whole process"}.items()
    ]
    metrics = [[name, *(common.spread(part[name]) for part in by_commit.values())] for name in METRICS]
    agreement = [[f"influence between seeds, {name}", *cells] for name, *cells in agreements(by_commit)]
    return f"""# The default run

{common.header()}.
`python run_recbole_dealrec.py` from nothing, {runs["seed"].nunique()} seeds for each commit, in turn; medians of the
seconds, means and standard deviations of the rest. The whole process includes imports, reading the data and writing the
report.

{common.table(["seconds", *by_commit], seconds)}

{common.table(["on the test part", *by_commit], metrics)}

{common.table(["repeatability", *by_commit], agreement)}
"""


def agreements(by_commit: dict[str, pd.DataFrame]) -> list[list[str]]:
    """Return the agreement of the influence of all pairs of seeds: Spearman and the overlap of the highest."""
    spearman, overlap = ["Spearman"], [f"overlap of the highest {TOP:,}"]
    for commit, part in by_commit.items():
        pairs = list(combinations([ranks()[f"{commit}-{seed}"] for seed in part["seed"]], 2))
        spearman.append(common.spread(pd.Series([spearmanr(one, other).statistic for one, other in pairs])))
        shared = [np.mean(one[other > len(other) - TOP] > len(one) - TOP) for one, other in pairs]
        overlap.append(common.spread(pd.Series(shared)))
    return [spearman, overlap]


if __name__ == "__main__":
    main()
