"""Which samples score high? Rank correlations of scores with properties of a sample, and means of the highest.

    python benchmarks/score_profile.py --model TIGER --dataset games --checkpoint_dir FOLDER --seeds 2020 2021 2022

Counts of targets in the validation and the test part explain a result afterwards; no sampler reads them here. Any
configuration key can follow. Scores in FOLDER are not computed again. Writes
benchmarks/results/<dataset>-<model>-score-profile.md.
"""

import argparse

import common
import numpy as np
import pandas as pd

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.pipeline import configure, prepare

SCORES = ["influence", "effort", "el2n"]
PARTS = {"train": "training", "valid": "validation", "test": "test"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    arguments, rest = parser.parse_known_args()
    keys = {"show_progress": False, "sampler": "DEALRec", **parse_command_line(rest)}
    correlations, means = [], []
    for seed in arguments.seeds:
        config = configure(arguments.model, arguments.dataset, None, {**keys, "seed": seed})
        (job,) = prepare([config])
        splits, samples = job.splits, job.samples
        known = known_of(samples, splits)
        means.append({"samples": "all candidates", **mean_of(known, samples, np.arange(len(samples)))})
        for name, scores in job.scoring().scores(SCORES).items():
            correlations.append({"score": name, **known.corrwith(pd.Series(scores), method="spearman")})
            highest = np.argsort(-scores, kind="stable")[: config["n_fewshot"]]
            means.append({"samples": f"highest {name}", **mean_of(known, samples, highest)})
    name = f"{arguments.dataset}-{arguments.model}-score-profile".lower()
    common.write(name, report(arguments, config["n_fewshot"], correlations, means))


def known_of(samples: CandidateSamples, splits: Splits) -> pd.DataFrame:
    """Return the number of items in each sample's history, and how often its target is a target of each part."""
    counts = {
        f"target in {name} part": np.bincount(
            CandidateSamples.from_dataset(getattr(splits, part)).item_id, minlength=splits.train.item_num
        )[samples.item_id]
        for part, name in PARTS.items()
    }
    return pd.DataFrame({"history": samples.item_length, **counts})


def mean_of(known: pd.DataFrame, samples: CandidateSamples, index: np.ndarray) -> dict[str, float]:
    return {**known.iloc[index].mean(), "different targets": len(np.unique(samples.item_id[index]))}


def report(arguments: argparse.Namespace, n_fewshot: int, correlations: list[dict], means: list[dict]) -> str:
    return f"""# {arguments.dataset}, {arguments.model}: which samples score high

{common.header()}. Seeds: {", ".join(map(str, arguments.seeds))}.

Spearman's rank correlations over all candidates, with the number of items in a sample's history and with how often its
target is one in each part:

{spreads(correlations, "score", 2)}

Means over the {n_fewshot} samples that score highest:

{spreads(means, "samples", 1)}
"""


def spreads(rows: list[dict], by: str, decimals: int) -> str:
    """Return a table of each column over the seeds."""
    frame = pd.DataFrame(rows)
    groups = frame.groupby(by, sort=False)
    cells = [[name, *(common.spread(part[column], decimals) for column in part.columns[1:])] for name, part in groups]
    return common.table(list(frame.columns), cells)


if __name__ == "__main__":
    main()
