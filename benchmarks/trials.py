"""Which defaults are best? Selections of DEALRec with different keys, compared without the test part.

    python benchmarks/trials.py --model TIGER --dataset games --data_path FOLDER --checkpoint_dir FOLDER
    python benchmarks/trials.py --model BIGRec --dataset ml-100k --checkpoint_dir FOLDER

Half of the users of the validation part, drawn once, are the validation part: they stop training, and a selection may
use them. The other half is the test part of the trials, so that no key that sees validation targets is judged on
them. The real test part is not read. Any configuration key can follow and is used for all trials. Each finished run
adds a row to benchmarks/results/<dataset>-<model>-trials-runs.csv and is not run again while the row is there; the page
<dataset>-<model>-trials.md is built from the rows.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
from comparison_page import listed
from comparison_runs import Runs

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.yaml_file import read_yaml_files
from recbole_dealrec.data import CandidateSamples, SequentialDataset, load_splits
from recbole_dealrec.pipeline import configure

PAPER = {"hard_prune_ratio": 0, "influence_on": "train", "effort_weight": 0.5, "n_groups": 50}
VALID = {**PAPER, "influence_on": "valid"}
# The paper's text and one key changed at a time, then the same with the influence on the validation part.
TRIALS = [
    PAPER, {**PAPER, "hard_prune_ratio": 0.1}, VALID,
    {**VALID, "effort_weight": 0.1}, {**VALID, "n_groups": 10}, {**VALID, "effort_weight": 1.0},
    {**VALID, "hard_prune_ratio": 0.1}, {**VALID, "n_groups": 200}, {**PAPER, "effort_weight": 0.1},
    {**PAPER, "n_groups": 10},
]  # fmt: skip
KEYS = {
    "show_progress": False, "topk": [10, 20], "yardsticks": False, "grounding_popularity": 0,
    "grounding_collaborative": 0, "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"],
}  # fmt: skip
METRICS = ["ndcg@10", "recall@10", "ndcg@20", "recall@20"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    arguments, rest = parser.parse_known_args()
    keys = parse_command_line(rest)
    variants = {name(keys): ("DEALRec", keys) for keys in TRIALS} | {"Random": ("Random", {})}
    table = held_out_runs(arguments.model, arguments.dataset, keys, "trials", variants)
    given = {key: value for key, value in keys.items() if key not in ("data_path", "checkpoint_dir")}
    for trial in variants:
        for seed in arguments.seeds:
            table.run(trial, seed)
            common.write(table.name, page(table, given))


def held_out_runs(
    model: str, dataset: str, keys: dict[str, Any], name: str, variants: dict[str, tuple[str, dict[str, Any]]]
) -> Runs:
    """Return a table of runs on the halves of the validation part."""
    held_out = held_out_data(model, dataset, keys)
    of_dataset = read_yaml_files(properties_folder() / "dataset" / f"{dataset}.yaml")
    keys = {**of_dataset, **keys, **KEYS, "data_path": str(held_out.parent)}
    return Runs(model, held_out.name, keys, f"{dataset}-{model}-{name}".lower(), variants)


def name(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def held_out_data(model: str, dataset: str, keys: dict[str, Any]) -> Path:
    """Write the dataset whose validation and test part are halves of the validation part, and return its folder."""
    config = configure(model, dataset, None, keys)
    folder = Path(config["checkpoint_dir"]) / "data" / f"{dataset}-held-out"
    if not folder.is_dir():
        splits = load_splits(config)
        folder.mkdir(parents=True)
        users = np.unique(splits.valid.inter_feat[config["USER_ID_FIELD"]].numpy())
        is_held_out = np.random.default_rng(0).random(users.max() + 1) < 0.5
        for part, rows in (("train", splits.train), ("valid", splits.valid), ("test", splits.valid)):
            frame = benchmark_rows(rows)
            if part != "train":
                held_out = is_held_out[CandidateSamples.from_dataset(rows).user_id]
                frame = frame[held_out if part == "test" else ~held_out]
            frame.to_csv(folder / f"{folder.name}.{part}.inter", sep="\t", index=False)
        shutil.copy(Path(config["data_path"]) / f"{dataset}.item", folder / f"{folder.name}.item")
    return folder


def benchmark_rows(part: SequentialDataset) -> pd.DataFrame:
    """Return user, history and target of each row, as in RecBole's benchmark files."""
    samples, items = CandidateSamples.from_dataset(part), part.field2id_token[part.iid_field]
    histories = [
        " ".join(items[history[:length]])
        for history, length in zip(samples.item_id_list, samples.item_length, strict=True)
    ]
    return pd.DataFrame({
        "user_id:token": part.field2id_token[part.uid_field][samples.user_id],
        "item_id_list:token_seq": histories,
        "item_id:token": items[samples.item_id],
    })  # fmt: skip


def page(table: Runs, given: dict[str, Any]) -> str:
    config, runs = table.config, table.rows()
    columns = ["keys of DEALRec", "seeds", *METRICS, "best validation result", "popularity, test"]
    rows = [
        [trial, len(part), *(common.spread(part[column]) for column in columns[2:])]
        for trial, part in runs.groupby("sampler", sort=False)
    ]
    n_valid, n_test = (len(queries) for queries in table.queries.values())
    return f"""# {config["dataset"]}, {config["model"]}: DEALRec's keys compared on held-out validation users

{common.header()}. Means and standard deviations over seeds of the metrics on half of the users of the validation part,
drawn once ({n_test:,} queries). The other half ({n_valid:,} queries) is what training stopped by and what
`influence_on: valid` saw. The test part was not read. The last column is the Recall@10 of recommending to everybody the
ten most frequent targets of the selection. All runs with {listed(given) or "the defaults of the rest"}.

{common.table(columns, rows)}
"""


if __name__ == "__main__":
    main()
