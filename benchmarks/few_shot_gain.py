"""Does few-shot fine-tuning help in the default run? ml-100k, several seeds, against no fine-tuning and chance.

    python benchmarks/few_shot_gain.py [--seeds 2020 2021 2022] [--sampler DEALRec] [--key=value]

Any configuration key can follow; runs that are finished in checkpoint_dir are not run again. Prints a table and writes
it to benchmarks/results/few-shot-gain.md.
"""

import argparse
import tempfile
from statistics import mean

import common

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config.command_line import parse_command_line

ITEMS = 1682  # of ml-100k; each query has one positive; a random ranking has it in the first ten with 10 / ITEMS
METRICS = ("recall@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--sampler", default="DEALRec")
    arguments, rest = parser.parse_known_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            keys = {"checkpoint_dir": folder, "show_progress": False, **parse_command_line(rest), "seed": seed}
            tuned = run_recbole_dealrec(sampler=arguments.sampler, config_dict=keys)
            # Without an epoch the selection has no effect, so the cheapest sampler is used.
            plain = run_recbole_dealrec(sampler="Random", config_dict={**keys, "epochs": 0})
            seconds = sum(tuned["seconds"].values())
            rows.append((seed, *results(tuned), *results(plain), seconds))
    common.write("few-shot-gain", report(rows, arguments.sampler))


def results(run: dict) -> list[float]:
    return [run["test_result"][metric] for metric in METRICS]


def report(rows: list[tuple], sampler: str) -> str:
    means = ["mean", *(mean(column) for column in list(zip(*rows, strict=True))[1:])]
    columns = ["seed", "Recall@10", "NDCG@10", "Recall@10 untuned", "NDCG@10 untuned", "seconds of all steps"]
    body = common.table(columns, [[*row[:-1], f"{row[-1]:.0f}"] for row in [*rows, means]])
    return f"""# Few-shot fine-tuning on ml-100k, sampler {sampler}

{common.header()}. A random ranking has Recall@10 {10 / ITEMS:.4f}.

{body}
"""


if __name__ == "__main__":
    main()
