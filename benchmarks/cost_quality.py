"""Is a selection worth its seconds? Recall against the seconds of selection and fine-tuning, from 64 samples to all.

    python benchmarks/cost_quality.py --checkpoint_dir=FOLDER [--sizes 64 256 1024 4096] [--seeds 2020 2021 2022]

The tiny LLM, or the one of --llm_path, on ml-100k; any configuration key can follow. Each finished run adds a row to
benchmarks/results/cost-quality-runs.csv and is not run again while the row is there. The page cost-quality.md and the
picture cost-quality.svg are built from the rows. Needs the package matplotlib.
"""

import argparse
from pathlib import Path

import common
import matplotlib
import numpy as np
import pandas as pd
from comparison_page import NOTES
from comparison_runs import Runs

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.report.comparison_table import COSTS

NAME = "cost-quality"
SAMPLERS = ["Random", "TargetFrequency", "DEALRec", "LESS"]
KEYS = {
    "show_progress": False, "topk": [10, 20], "yardsticks": False, "untuned": False, "grounding_popularity": 0,
    "grounding_collaborative": 0,
}  # fmt: skip
METRIC = "recall@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--page", action="store_true", help="write the page of the rows that are there")
    arguments, rest = parser.parse_known_args()
    variants = {f"{name} {size}": (name, {"n_fewshot": size}) for size in arguments.sizes for name in SAMPLERS}
    keys = {**KEYS, **parse_command_line(rest)}
    table = Runs("BIGRec", "ml-100k", keys, NAME, {**variants, "Full": ("Full", {})})
    for seed in [] if arguments.page else arguments.seeds:
        for name in table.variants:
            table.run(name, seed)
            common.write(NAME, page(table))
    points = points_of(table.rows(), len(table.samples))
    draw(points, common.RESULTS / f"{NAME}.svg")
    common.write(NAME, page(table))


def points_of(runs: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return a row for each sampler and number of samples: the means of the metric and of the seconds.

    Args:
        runs: rows of ``Runs``.
        n: number of candidates, which Full takes.
    """
    parts = runs["sampler"].str.split(" ", expand=True).reindex(columns=[0, 1])
    seconds = runs[COSTS[:2]].sum(axis=1)
    points = pd.DataFrame({
        "sampler": parts[0], "samples": parts[1].fillna(n).astype(int), "seconds": seconds, METRIC: runs[METRIC],
    })  # fmt: skip
    return points.groupby(["sampler", "samples"], as_index=False, sort=False).agg(
        seconds=("seconds", "mean"), mean=(METRIC, "mean"), std=(METRIC, "std"), seeds=(METRIC, "size")
    )


def random_curve(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of Random and of all candidates, by seconds."""
    return points[points["sampler"].isin(["Random", "Full"])].sort_values("samples")


def at_equal_seconds(points: pd.DataFrame) -> np.ndarray:
    """Return what Random reaches in the seconds of each point, between two sizes by interpolation on their logarithm.

    Below its least size and above all candidates it has the value there.
    """
    curve = random_curve(points)
    return np.interp(np.log(points["seconds"]), np.log(curve["seconds"]), curve["mean"])


def page(table: Runs) -> str:
    points = points_of(table.rows(), len(table.samples))
    rows = [
        [point.sampler, f"{point.samples:,}", point.seeds, f"{point.seconds:.0f}", value(point), f"{equal:.4f}",
         f"{point.mean - equal:+.4f}"]
        for point, equal in zip(points.itertuples(), at_equal_seconds(points), strict=True)
    ]  # fmt: skip
    columns = ["sampler", "samples", "seeds", "seconds", "Recall@10", "Random in these seconds", "difference"]
    return f"""# Is a selection worth its seconds?

{common.header()}. {NOTES["BIGRec"]} A row for each run: [{table.file.name}]({table.file.name}).

Means and standard deviations over seeds on all test queries of {table.config["dataset"]}. Seconds are those of the
selection, with the surrogates and scores that it needs, and of the fine-tuning; other work ran beside some of the runs.
Random in these seconds is read off the line through Random's points and Full, linear in the logarithm of the seconds.

{common.table(columns, rows)}

![Recall@10 against seconds]({NAME}.svg)
"""


def value(point) -> str:
    return f"{point.mean:.4f}" + ("" if np.isnan(point.std) else f" ± {point.std:.4f}")


def draw(points: pd.DataFrame, file: Path) -> None:
    """Draw the metric against the seconds, a line for each sampler."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = NAME  # the same file from the same rows
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, mark in zip(SAMPLERS, "osD^", strict=True):
        line = random_curve(points) if name == "Random" else points[points["sampler"] == name].sort_values("samples")
        axes.errorbar(line["seconds"], line["mean"], line["std"], marker=mark, capsize=3, label=name)
    axes.set(xscale="log", xlabel="seconds of selection and fine-tuning", ylabel="Recall@10 on the test part")
    axes.legend()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
