"""What does effort on a part cost and change? Selection and few-shot result at several ratios, against scoring all.

    python benchmarks/effort_part.py [--dataset ml-100k] [--ratios 0.05 0.1 0.25] [--seeds 2020 2021 2022] [--key=value]

Any configuration key can follow. Surrogates and influence of a seed are computed once and copied. Prints a table and
writes it to benchmarks/results/effort-part.md after every seed.
"""

import argparse
import logging
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import pandas as pd
import yaml
from scipy.stats import spearmanr

from recbole_dealrec import compare_samplers, run_recbole_dealrec
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.sampler import coverage_enhanced_selection
from recbole_dealrec.scorer.partial_effort import part_size, stratified_part
from recbole_dealrec.store.files import read_json

COLUMNS = [
    "ratio", "seed", "held-out Spearman", "Spearman of the rest", "overlap", "overlap of draws", "Recall@10", "NDCG@10",
    "seconds of effort",
]  # fmt: skip
EXPLANATION = """\
Held-out Spearman is what the run logs, of the prediction with the scored part by cross-validation; the next column is
that of the predicted with the true effort of the samples that were not scored (1 where the prediction was given up and
they were scored after all). Overlap is the share of the selection from all efforts that is selected again. Beside it,
as a yardstick, the same share for a second draw, with the next seed, from the very same scores. By chance it would be
{chance:.4f}. Recall and NDCG are of the test part."""


class Run(NamedTuple):
    """A run's result.json, its configuration, its scores.csv and the Spearman that it logged (NaN if none)."""

    result: dict[str, Any]
    config: dict[str, Any]
    scores: pd.DataFrame
    held_out: float


class LoggedSpearman(logging.Filter):
    """Let all records pass and keep the held-out Spearman; with a handler, RecBole's logging would not start."""

    value = float("nan")

    def filter(self, record: logging.LogRecord) -> bool:
        if found := re.search(r"held-out Spearman of the prediction (\S+)", record.getMessage()):
            self.value = float(found[1])
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.1, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    arguments, rest = parser.parse_known_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        keys = {"checkpoint_dir": folder, "show_progress": False, **parse_command_line(rest)}
        for seed in arguments.seeds:
            runs = compare_samplers(["DEALRec"], [seed], dataset=arguments.dataset, config_dict=keys)["runs"]
            full = read(runs["run_dir"].iloc[0])
            rows.append(row(full, full))
            rows += [row(run(arguments.dataset, {**keys, "seed": seed}, ratio), full) for ratio in arguments.ratios]
            chance = len(full.result["selected"]) / len(full.scores)
            common.write("effort-part", report(arguments.dataset, rows, chance))


def run(dataset: str, keys: dict[str, Any], ratio: float) -> Run:
    logged = LoggedSpearman()
    logging.getLogger().addFilter(logged)
    try:
        config_dict = {**keys, "effort_sample_ratio": ratio}
        result = run_recbole_dealrec(dataset=dataset, sampler="DEALRec", config_dict=config_dict)
    finally:
        logging.getLogger().removeFilter(logged)
    return read(result["run_dir"])._replace(held_out=logged.value)


def read(folder: str | Path) -> Run:
    folder = Path(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return Run(read_json(folder / "result.json"), config, pd.read_csv(folder / "scores.csv"), float("nan"))


def row(part: Run, full: Run) -> list:
    metrics = [part.result["test_result"][metric] for metric in ("recall@10", "ndcg@10")]
    return [
        part.config["effort_sample_ratio"], part.config["seed"], part.held_out, true_spearman(part, full),
        overlap(part.result["selected"], full.result["selected"]), overlap_of_draws(full), *metrics,
        part.result["seconds"]["effort"],
    ]  # fmt: skip


def true_spearman(part: Run, full: Run) -> float:
    """Return Spearman of predicted and true effort over the samples that the language model did not score."""
    n, config = len(part.scores), part.config
    scored = stratified_part(part.scores["influence"], part_size(n, config["effort_sample_ratio"]), config["seed"])
    rest = np.delete(np.arange(n), scored)
    if not len(rest):
        return float("nan")
    return float(spearmanr(part.scores["effort"][rest], full.scores["effort"][rest]).statistic)


def overlap(selected: np.ndarray, reference: np.ndarray) -> float:
    return len(np.intersect1d(selected, reference)) / len(reference)


def overlap_of_draws(full: Run) -> float:
    keys, selected = full.config, full.result["selected"]
    settings = keys["n_fewshot"], keys["n_groups"], keys["hard_prune_ratio"], keys["seed"] + 1
    return overlap(coverage_enhanced_selection(full.scores["score"], *settings), selected)


def report(dataset: str, rows: list[list], chance: float) -> str:
    runs = pd.DataFrame(rows, columns=COLUMNS)
    means = runs.groupby("ratio").mean().reset_index().assign(seed="mean")
    lines = pd.concat([means, runs])[COLUMNS].sort_values("ratio", ascending=False, kind="stable").to_numpy()
    body = common.table(COLUMNS, [[f"{ratio:g}", seed, *map(cell, values)] for ratio, seed, *values in lines])
    return f"""# Effort on a part, {dataset}

{common.header()}.

{EXPLANATION.format(chance=chance)}

{body}
"""


def cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


if __name__ == "__main__":
    main()
