"""Does a selection serve another model? What BIGRec's scores chose trains TIGER, and the other way round.

    python benchmarks/transfer.py --checkpoint_dir=FOLDER [--samplers DEALRec EffortOnly LESS] [--seeds 2020 2021 2022]

Each model fine-tunes on its own selection, on the other model's, by `selection.json`, and on Random's; ml-100k, the
tiny LLM, TIGER from random weights. Any configuration key can follow. Each finished run adds a row to
benchmarks/results/transfer-runs.csv and is not run again while the row is there; the page is transfer.md.
"""

import argparse
from typing import Any

import common
import pandas as pd
from comparison_page import NOTES

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.report.comparison_table import paired_p
from recbole_dealrec.store.files import atomic_path

ROWS = common.RESULTS / "transfer-runs.csv"
MODELS = ["BIGRec", "TIGER"]
METRICS = ["recall@10", "ndcg@10"]
KEYS = {
    "show_progress": False, "topk": [10], "yardsticks": False, "untuned": False, "grounding_popularity": 0,
    "grounding_collaborative": 0, "samples_per_user": 10, "n_fewshot": 256,
}  # fmt: skip
COLUMNS = ["model", "sampler", "chosen by", "seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=["DEALRec", "EffortOnly", "LESS"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    arguments, rest = parser.parse_known_args()
    keys = {**KEYS, **parse_command_line(rest)}
    for seed in arguments.seeds:
        for model in MODELS:
            measure(model, "Random", model, seed, keys)
            for sampler in arguments.samplers:
                for chooser in MODELS:
                    measure(model, sampler, chooser, seed, keys)
        common.write("transfer", page(rows()))


def rows() -> pd.DataFrame:
    return pd.read_csv(ROWS) if ROWS.exists() else pd.DataFrame(columns=COLUMNS)


def measure(model: str, sampler: str, chooser: str, seed: int, keys: dict[str, Any]) -> None:
    """Fine-tune a model on what another model's scores chose, and add the row, unless it exists."""
    row = dict(zip(COLUMNS, [model, sampler, chooser, seed], strict=True))
    if (rows()[COLUMNS] == pd.Series(row)).all(axis=1).any():
        return
    keys = {**keys, "seed": seed}
    if chooser != model:
        chosen = run_recbole_dealrec(chooser, "ml-100k", sampler, config_dict=keys, last_step="select")
        keys = {**keys, "selection": f"{chosen['run_dir']}/selection.json"}
        del keys["n_fewshot"], keys["samples_per_user"]
        result = run_recbole_dealrec(model, "ml-100k", config_dict=keys)
    else:
        result = run_recbole_dealrec(model, "ml-100k", sampler, config_dict=keys)
    row |= {metric: result["unrounded"][metric] for metric in METRICS}
    with atomic_path(ROWS) as path:
        pd.concat([rows(), pd.DataFrame([row])]).to_csv(path, index=False)


def page(runs: pd.DataFrame) -> str:
    cells = []
    for (model, sampler, chooser), part in runs.groupby(COLUMNS[:3], sort=False):
        random = runs[(runs["model"] == model) & (runs["sampler"] == "Random")].set_index("seed")
        values = part.set_index("seed")
        p = [paired_p(values[metric], random.loc[values.index, metric]) for metric in METRICS]
        cells.append([
            model, sampler, "" if sampler == "Random" else chooser, len(part),
            *(common.spread(part[metric]) for metric in METRICS),
            *("" if pd.isna(value) else f"{value:.2f}" for value in p),
        ])  # fmt: skip
    columns = ["fine-tuned", "sampler", "chosen by the scores of", "seeds", "Recall@10", "NDCG@10"]
    return f"""# Does a selection serve another model?

{common.header()}. {" ".join(NOTES.values())}

ml-100k, {KEYS["n_fewshot"]} samples; means and standard deviations over seeds on all test queries. The p values are of
two-sided paired t tests against Random over the seeds, not corrected.

{common.table([*columns, "Recall@10, p Random", "NDCG@10, p Random"], cells)}
"""


if __name__ == "__main__":
    main()
