"""All samplers side by side, with all that has to be known to run them again: table 2 of the DEALRec paper.

    python benchmarks/comparison.py --model TIGER --dataset games --data_path PATH --checkpoint_dir FOLDER

DEALRec, its ablations, Random and CCS run with all seeds, the other samplers with the first three, fine-tuning on all
candidates with the first. Any configuration key can follow. Finished runs in FOLDER are not run again, so seeds can be
run by several processes and a last call puts them together. Writes benchmarks/results/<dataset>-<model>.md after every
seed.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
import pandas as pd
import yaml
from popularity import recall_of_popularity

from recbole_dealrec import compare_samplers
from recbole_dealrec.comparison import COSTS, holm, paired_p
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, Splits, load_splits
from recbole_dealrec.run_folder import read_json
from recbole_dealrec.values import parse_command_line

MAIN = ["DEALRec", "InfluenceOnly", "EffortOnly", "Greedy", "Random", "CCS"]
OTHERS = ["EL2N", "GraNd", "TF-DCon", "RecRanker", "S2L", "GORACS"]
METRICS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]
# Table 2 of the paper, 1,024-shot, the same metrics.
PAPER = {
    ("TIGER", "games"): {
        "DEALRec": ".0074 .0114 .0062 .0074", "Random": ".0062 .0102 .0039 .0051", "CCS": ".0050 .0084 .0031 .0041",
        "EL2N": ".0034 .0048 .0024 .0029", "GraNd": ".0042 .0053 .0027 .0030", "TF-DCon": ".0051 .0074 .0033 .0040",
        "RecRanker": ".0028 .0045 .0019 .0024",
    },
}  # fmt: skip
NOTES = {
    "BIGRec": "The language model is the embedded one, about a million parameters made of the catalogue's titles. "
    "It compares samplers on equal terms and says nothing about what a large language model would reach.",
    "TIGER": "TIGER starts from random weights; nothing is downloaded.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022, 2023, 2024])
    parser.add_argument("--main", nargs="+", default=MAIN, help="samplers that run with all seeds")
    parser.add_argument("--others", nargs="*", default=OTHERS, help="samplers that run with the first three seeds")
    parser.add_argument("--full", type=int, default=1, help="seeds of the fine-tuning on all candidates")
    arguments, rest = parser.parse_known_args()
    keys = {"show_progress": False, "topk": [10, 20], **parse_command_line(rest)}
    runs = []
    for place, seed in enumerate(arguments.seeds):
        samplers = arguments.main + (arguments.others if place < 3 else []) + ["Full"] * (place < arguments.full)
        chosen = {"model": arguments.model, "dataset": arguments.dataset, "config_dict": keys}
        runs.append(compare_samplers(samplers, [seed], **chosen)["runs"])
        name = f"{arguments.dataset}-{arguments.model}".lower()
        common.write(name, report(arguments.model, arguments.dataset, keys, runs))


def report(model: str, dataset: str, keys: dict[str, Any], runs: list[pd.DataFrame]) -> str:
    table = pd.concat(runs)
    config = yaml.safe_load((Path(table["run_dir"].iloc[0]) / "config.yaml").read_text(encoding="utf-8"))
    splits = load_splits(Config(model, dataset, config_dict=keys))
    resolved = {key: value for key, value in config.items() if key not in ("data_path", "checkpoint_dir", "seed")}
    return f"""# {dataset}, {model}, {config["n_fewshot"]} samples

{common.header()}. {NOTES[model]}

## Metrics

Means and standard deviations over seeds, on all test queries, over the full catalogue. The p values are of paired t
tests over the seeds against Random, alternative: the mean is greater; corrected by Holm's method for the number of
samplers.

{metrics_table(table, PAPER.get((model, dataset), {}))}

What the selected targets are worth by themselves: Recall@10 of recommending to everybody the ten items that are most
often targets of the selected samples. A Recall@10 that is not above it gives no sign of anything learnt from the
histories. Best validation result is the {config["valid_metric"]} that training stopped by.

{popularity_table(table, splits, config)}

## Cost

Seconds on this machine, where other work ran beside some of the runs; they compare samplers, not machines. A selection
includes the surrogates and scores that it uses, whichever run they were computed for.

{cost_table(table)}

## Data

{data_table(splits, config["samples_per_user"])}

## Configuration

That of {table["sampler"].iloc[0]}; the other samplers differ in the keys of `properties/sampler/`.

```yaml
{yaml.safe_dump(resolved, allow_unicode=True).rstrip()}
```
"""


def metrics_table(runs: pd.DataFrame, paper: dict[str, str]) -> str:
    samplers = list(dict.fromkeys(runs["sampler"]))
    by_seed = {name: part.set_index("seed") for name, part in runs.groupby("sampler")}
    tested = [name for name in samplers if name not in ("Random", "Full")]
    p = {metric: dict(zip(tested, against_random(by_seed, tested, metric), strict=True)) for metric in METRICS[::2]}
    rows = [
        [
            name, len(by_seed[name]), *(spread(by_seed[name][metric]) for metric in METRICS),
            *(number(p[metric].get(name)) for metric in p), *(paper.get(name, "").split() or [""] * len(METRICS)),
        ]
        for name in samplers
    ]  # fmt: skip
    columns = ["sampler", "seeds", *METRICS, *(f"p {metric}" for metric in p), *(f"paper {m}" for m in METRICS)]
    width = len(columns) if paper else len(columns) - len(METRICS)
    return common.table(columns[:width], [row[:width] for row in rows])


def popularity_table(runs: pd.DataFrame, splits: Splits, config: dict[str, Any]) -> str:
    samples = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    parts = {"valid": splits.valid, "test": splits.test}
    queries = {name: QueryDataLoader(part.config, part).positives for name, part in parts.items()}
    results = {run: read_json(Path(run) / "result.json") for run in runs["run_dir"]}
    for name, positives in queries.items():
        runs[name] = [
            recall_of_popularity(positives, samples.item_id[results[run]["selected"]]) for run in runs["run_dir"]
        ]
    runs["best"] = [results[run]["best_valid_result"].get(config["valid_metric"].lower()) for run in runs["run_dir"]]
    columns = ["valid", "test", "recall@10", "best"]
    rows = [
        [name, *(spread(part[column]) for column in columns)] for name, part in runs.groupby("sampler", sort=False)
    ]
    everything = [recall_of_popularity(positives, samples.item_id) for positives in queries.values()]
    names = ["sampler", "popularity, validation", "popularity, test", "Recall@10, test", "best validation result"]
    return common.table(names, [*rows, ["all candidates", *(f"{value:.4f}" for value in everything), "", ""]])


def against_random(by_seed: dict[str, pd.DataFrame], names: Iterable[str], metric: str) -> list[float]:
    random = by_seed["Random"][metric]
    return list(holm([paired_p(by_seed[name][metric], random[by_seed[name].index]) for name in names]))


def cost_table(runs: pd.DataFrame) -> str:
    means = runs.groupby("sampler", sort=False)[COSTS].mean()
    total = means.sum(axis=1)
    columns = ["sampler", *COSTS, "together"]
    rows = [[name, *(f"{value:.0f}" for value in means.loc[name]), f"{total[name]:.0f}"] for name in means.index]
    if "Full" in means.index:
        columns.append("saved of fine-tuning on all")
        rows = [[*row, f"{1 - total[row[0]] / means.loc['Full', COSTS[1]]:.1%}"] for row in rows]
    return common.table(columns, rows)


def data_table(splits: Splits, samples_per_user: int) -> str:
    samples = CandidateSamples.from_dataset(splits.train, samples_per_user)
    rows = [
        ("users", splits.train.user_num - 1),
        ("items", splits.train.item_num - 1),
        *((f"{name} rows", len(part)) for name, part in vars(splits).items()),
        ("test queries (a user and history)", len(QueryDataLoader(splits.test.config, splits.test).positives)),
        ("candidate samples", len(samples)),
        ("mean history of a candidate", f"{samples.item_length.mean():.2f}"),
    ]
    return common.table(["", ""], rows)


def spread(values: pd.Series) -> str:
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"


if __name__ == "__main__":
    main()
