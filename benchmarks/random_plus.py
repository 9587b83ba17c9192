"""Is a selection worth its seconds? Random+ spends them on further samples instead.

    python benchmarks/random_plus.py saved/<comparison> [--sampler DEALRec]

The folder is that of a finished comparison with Random and the sampler. For each of its seeds, Random is run again with
as many samples more as the seconds of the sampler's selection would have fine-tuned on; a run that is finished is not
run again. Prints a table and writes it to benchmarks/results/<dataset>-<model>-random-plus.md.
"""

import argparse
from pathlib import Path
from typing import Any

import common
import pandas as pd

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.errors import InputError
from recbole_dealrec.report.comparison_table import COSTS, paired_p
from recbole_dealrec.store.files import read_json

PLUS = "Random+"
SELECTION, FINE_TUNING = COSTS[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of a comparison")
    parser.add_argument("--sampler", default="DEALRec", help="whose selection Random+ has the seconds of")
    arguments = parser.parse_args()
    budgets = random_budgets(arguments.comparison, arguments.sampler)
    runs = pd.concat([compared(arguments.comparison, arguments.sampler), random_plus(budgets)])
    name = arguments.comparison.resolve().name.partition("-comparison-")[0].lower()
    common.write(f"{name}-random-plus", report(name, arguments.sampler, budgets, runs))


def equal_cost_fewshot(n_fewshot: int, n_candidates: int, selection: float, fine_tuning: float) -> int:
    """Return the samples of Random+: ``n_fewshot``, and those that the selection's seconds would have tuned on.

    A sample costs the same share of the fine-tuning's seconds, validation included. Validation does not grow with the
    samples, so the result is rather too low than too high.

    Args:
        n_fewshot: samples of Random.
        n_candidates: number of candidates, which the result does not exceed.
        selection: seconds of the other sampler's selection, with surrogates and scores.
        fine_tuning: seconds of fine-tuning on ``n_fewshot`` samples.
    """
    return min(n_fewshot + int(selection * n_fewshot / fine_tuning), n_candidates)


def compared(folder: Path, sampler: str) -> pd.DataFrame:
    """Return the rows of a sampler and of Random in a comparison, with absolute ``run_dir``.

    Raises:
        InputError: the folder has no comparison, or one of the samplers is not in it or was not fine-tuned.
    """
    if not (folder / "runs.csv").is_file():
        raise InputError(f"{folder}: no runs.csv; give the folder of a comparison")
    runs = pd.read_csv(folder / "runs.csv")
    for name in (sampler, "Random"):
        if not (runs.loc[runs["sampler"] == name, FINE_TUNING] > 0).any():
            raise InputError(f"{folder}: no run of {name} with seconds of fine-tuning; compare it with Random")
    runs = runs[runs["sampler"].isin([sampler, "Random"])]
    return runs.assign(run_dir=[str((folder / run).resolve()) for run in runs["run_dir"]])


def random_budgets(folder: Path, sampler: str) -> pd.DataFrame:
    """Return a row for each seed: ``seed``, ``run_dir`` of Random, its ``n_fewshot``, and ``n_plus`` of Random+."""
    by_seed = compared(folder, sampler).set_index(["seed", "sampler"])
    rows = []
    for seed in by_seed.index.unique("seed"):
        random, other = by_seed.loc[(seed, "Random")], by_seed.loc[(seed, sampler)]
        result = read_json(Path(random["run_dir"]) / "result.json")
        n_fewshot = len(result["selected"])
        n_plus = equal_cost_fewshot(n_fewshot, result["n_candidates"], other[SELECTION], random[FINE_TUNING])
        rows.append({"seed": seed, "run_dir": random["run_dir"], "n_fewshot": n_fewshot, "n_plus": n_plus})
    return pd.DataFrame(rows)


def random_plus(budgets: pd.DataFrame) -> pd.DataFrame:
    """Run Random+ for each seed; return its rows with ``sampler``, ``seed``, ``run_dir`` and metrics."""
    return pd.DataFrame([_row(budget) for budget in budgets.to_dict("records")])


def _row(budget: dict[str, Any]) -> dict[str, Any]:
    run = Path(budget["run_dir"])
    keys = {"n_fewshot": int(budget["n_plus"]), "checkpoint_dir": str(run.parent)}
    result = run_recbole_dealrec(config_file_list=[run / "config.yaml"], config_dict=keys)
    return {"sampler": PLUS, "seed": budget["seed"], "run_dir": result["run_dir"], **result["unrounded"]}


def report(name: str, sampler: str, budgets: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return the page: means over seeds, and p values of paired t tests of the sampler against Random+."""
    values = {method: rows.set_index("seed").sort_index() for method, rows in runs.groupby("sampler")}
    metrics = [column for column in values[PLUS] if column != "run_dir" and values[PLUS][column].notna().all()]
    methods = [sampler, "Random", PLUS]
    rows = [
        [metric, *(common.spread(values[method][metric]) for method in methods), _p(values, metric, sampler)]
        for metric in (metric for metric in metrics if metric not in ("sampler", *COSTS))
    ]
    samples = [[str(row["seed"]), str(row["n_fewshot"]), str(row["n_plus"])] for row in budgets.to_dict("records")]
    return f"""# {name}: the seconds of {sampler} as samples of Random

{common.header()}. Mean ± standard deviation over seeds; p of a two-sided paired t test, not corrected.

{common.table(["metric", *methods, f"p, {sampler} and {PLUS}"], rows)}

{common.table(["seed", "samples of Random", f"samples of {PLUS}"], samples)}
"""


def _p(values: dict[str, pd.DataFrame], metric: str, sampler: str) -> str:
    p = paired_p(values[sampler][metric], values[PLUS].loc[values[sampler].index, metric])
    return "–" if pd.isna(p) else f"{p:.3g}"


if __name__ == "__main__":
    main()
