"""Which selection is best by validation? One seed; fine-tunes on each and never looks at the test part.

    python benchmarks/trials.py --model TIGER --dataset games --checkpoint_dir FOLDER --trials "{n_groups: 9}" ...

A trial is a YAML mapping of keys of the selection or the influence (``sampler``, ``effort_weight``, ``n_groups``,
``hard_prune_ratio``, ``influence_on``, ``hessian_damping``), ``{}`` for the defaults. Any configuration key can follow
and holds for all trials. Surrogates, effort and language model are computed once; finished trials in FOLDER are not run
again. Metrics are on all validation queries, with the weights that were best on the queries that stopped training.
Writes benchmarks/results/<dataset>-<model>-trials.md after every trial.
"""

import argparse
from typing import Any

import common
import numpy as np
import yaml
from popularity import recall_of_popularity
from recbole.utils import init_seed
from scipy.stats import rankdata

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import QueryDataLoader, train_loader
from recbole_dealrec.pipeline import Pipeline, configure, prepare
from recbole_dealrec.store.files import read_json
from recbole_dealrec.store.opening import opened
from recbole_dealrec.training.llm_trainer import LLMTrainer

METRICS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]
RESULT = "valid_result.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--trials", type=yaml.safe_load, nargs="+", default=[{}])
    arguments, rest = parser.parse_known_args()
    keys = {"show_progress": False, "topk": [10, 20], "sampler": "DEALRec", **parse_command_line(rest)}
    rows = []
    for trial in arguments.trials:
        rows.append(run(arguments.model, arguments.dataset, keys, trial))
        name = f"{arguments.dataset}-{arguments.model}-trials".lower()
        common.write(name, report(arguments.model, arguments.dataset, rows))


def run(model: str, dataset: str, keys: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    config = configure(model, dataset, None, {**keys, **trial})
    (job,) = prepare([config])
    splits, samples, scoring = job.splits, job.samples, job.scoring()
    with opened(job.folders().run) as folder:
        pipeline = Pipeline(job, scoring, folder)
        selected = pipeline.run(last="finetune")["selected"]
        if not folder.has(RESULT):
            folder.output_json(RESULT, validated(pipeline))
        result = read_json(folder / RESULT)
    scores = scoring.scores(["influence", "effort"])
    ranks = {name: share_below(values)[selected].mean() for name, values in scores.items()}
    popularity = recall_of_popularity(QueryDataLoader(config, splits.valid).positives, samples.item_id[selected])
    name = ", ".join(f"{key} {value}" for key, value in trial.items()) or "defaults"
    return {"trial": name, **ranks, "items": len(set(samples.item_id[selected])), "popularity": popularity, **result}


def validated(pipeline: Pipeline) -> dict[str, float]:
    """Metrics of the best weights on all validation queries."""
    config, llm = pipeline.config, pipeline.llm()
    trainer = LLMTrainer(config, llm, pipeline.folder, llm.weights_folder)
    init_seed(config["seed"], config["reproducibility"])
    trainer.eval_collector.data_collect(train_loader(config, pipeline.splits.train, pipeline.samples.rows))
    result = trainer.evaluate(QueryDataLoader(config, pipeline.splits.valid))
    return {metric: float(value) for metric, value in result.items()}


def share_below(scores: np.ndarray) -> np.ndarray:
    """Rank of each score among all, from 0 to 1."""
    return (rankdata(scores) - 1) / (len(scores) - 1)


def report(model: str, dataset: str, rows: list[dict[str, Any]]) -> str:
    columns = ["trial", "influence", "effort", "items", "popularity", *METRICS]
    return f"""# {dataset}, {model}: selections compared on the validation part

{common.header()}. Influence and effort are the mean ranks of the selected samples among all candidates, from 0 to 1;
items is the number of different targets, popularity the Recall@10 of recommending to everybody the ten that are most
often targets.

{common.table(columns, [[row[name] for name in columns] for row in rows])}
"""


if __name__ == "__main__":
    main()
