"""Which selection stands a change of time? Rolling folds: train, validate on the next period, test on the one after.

    python benchmarks/drift.py --checkpoint_dir=FOLDER [--folds 3] [--seeds 2020 2021 2022]

The interactions of ml-100k are split at points of global time, as by `recbole-dealrec convert --folds`; each fold is a
dataset. The tiny LLM, or the one of --llm_path; any configuration key can follow. Each finished run adds a row to
benchmarks/results/drift-fold<k>-runs.csv and is not run again while the row is there; the page drift.md is built from
the rows.
"""

import argparse
from pathlib import Path

import common
import pandas as pd
import recbole
from comparison_page import NOTES, number, p_value
from comparison_runs import VALID, Runs

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.data.convert import Columns, convert
from recbole_dealrec.report.comparison_table import REFERENCES

DATASET = "ml-100k"
SAMPLERS = [
    "Random", "TargetFrequency", "Recent", "RecentWindow", "Popular", "DEALRec", "RDS+", "LESS", *VALID,
]  # fmt: skip
# Those of properties/dataset/ml-100k.yaml.
KEYS = {
    "show_progress": False, "topk": [10, 20], "yardsticks": False, "untuned": False, "grounding_popularity": 0,
    "grounding_collaborative": 0, "samples_per_user": 10, "n_fewshot": 256, "surrogate_train_batch_size": 32,
    "surrogate_epochs": 6, "hessian_samples": 512, "prompt_noun": "movie", "prompt_verb": "watched",
}  # fmt: skip
METRIC = "recall@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    arguments, rest = parser.parse_known_args()
    keys = {**KEYS, **parse_command_line(rest)}
    keys["data_path"] = str(folds_written(Path(keys["checkpoint_dir"]).absolute() / "data", arguments.folds))
    tables = [
        Runs("BIGRec", f"{DATASET}-fold{fold}", keys, f"drift-fold{fold}", VALID)
        for fold in range(1, arguments.folds + 1)
    ]
    for seed in arguments.seeds:
        for table in tables:
            for name in arguments.samplers:
                table.run(name, seed)
            common.write("drift", page(tables))


def folds_written(folder: Path, folds: int) -> Path:
    """Write the folds as datasets into a folder, unless they are there, and return it."""
    if not (folder / DATASET).is_dir():
        source = Path(recbole.__file__).parent / "dataset_example" / DATASET
        convert(source, folder / DATASET, columns=Columns(title="movie_title"), folds=folds)
    return folder


def page(tables: list[Runs]) -> str:
    runs = pd.concat([table.rows().assign(fold=place) for place, table in enumerate(tables, 1)])
    folds = range(1, len(tables) + 1)
    cells = []
    for name, part in runs.groupby("sampler", sort=False):
        by_fold = [part.loc[part["fold"] == fold, METRIC] for fold in folds]
        p = [p_value(runs, name, reference, METRIC, ["fold", "seed"]) for reference in REFERENCES]
        cells.append([
            name, len(part), *(common.spread(values) for values in by_fold),
            f"{part.groupby('fold')[METRIC].mean().mean():.4f}", *(number(value) for value in p),
        ])  # fmt: skip
    columns = ["sampler", "runs", *(f"fold {fold}" for fold in folds), "mean of the folds"]
    columns += [f"p {reference}" for reference in REFERENCES]
    parts = [[f"fold {fold}", *sizes(table)] for fold, table in zip(folds, tables, strict=True)]
    config = tables[0].config
    return f"""# Selection and change of time

{common.header()}. {NOTES["BIGRec"]}

ml-100k by rolling folds of global time: each validation and each test period has a tenth of the interactions. Recall@10
on all test queries, {config["n_fewshot"]} samples, means and standard deviations over seeds. The p values are of
two-sided paired t tests over the pairs of fold and seed, not corrected.

{common.table(columns, cells)}

What the folds are:

{common.table(["", "candidates", "validation queries", "test queries", "list of validation targets"], parts)}

The last column is the Recall@10 on the test part of one list for all, the ten most frequent validation targets.
"""


def sizes(table: Runs) -> list[str]:
    targets = CandidateSamples.from_dataset(table.splits.valid).item_id
    queries = [f"{len(positives):,}" for positives in table.queries.values()]
    return [f"{len(table.samples):,}", *queries, f"{table.popularity(targets)['test']:.4f}"]


if __name__ == "__main__":
    main()
