"""Compare all samplers, with everything needed to run them again: table 2 of the DEALRec paper.

    python benchmarks/comparison.py --model TIGER --dataset games --data_path PATH --checkpoint_dir FOLDER

The samplers of MAIN and the variants run with all seeds, the others and fine-tuning on all candidates with the first
three. Any configuration key can follow and is used for all samplers; keys of a single sampler are in CHOSEN of
comparison_runs.py. Each finished run adds a row to benchmarks/results/<dataset>-<model>-runs.csv and is not run again
while the row is there, so the table can be measured in parts, on several machines; the page <dataset>-<model>.md is
built from the rows.
"""

import argparse

import common
from comparison_page import report
from comparison_runs import MAIN, OTHERS, TIMES, Runs

from recbole_dealrec.config.command_line import parse_command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022, 2023, 2024])
    parser.add_argument("--main", nargs="+", help="samplers that run with all seeds")
    parser.add_argument("--others", nargs="*", default=OTHERS, help="samplers that run with the first three seeds")
    parser.add_argument("--full", type=int, default=3, help="seeds of the fine-tuning on all candidates")
    parser.add_argument("--page", action="store_true", help="write the page of the rows that are there")
    arguments, rest = parser.parse_known_args()
    keys = {"show_progress": False, "topk": [10, 20], **parse_command_line(rest)}
    table = Runs(arguments.model, arguments.dataset, keys)
    names = arguments.main or [*MAIN, *table.variants]
    others = [name for name in arguments.others if name not in TIMES or table.samples.time is not None]
    for place, seed in enumerate([] if arguments.page else arguments.seeds):
        for name in names + (others if place < 3 else []) + ["Full"] * (place < arguments.full):
            table.run(name, seed)
    common.write(table.name, report(table))


if __name__ == "__main__":
    main()
