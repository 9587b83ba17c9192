"""Measure the yardsticks on a dataset's test queries, for the pages of comparisons.

    python benchmarks/yardsticks.py --dataset games --data_path PATH --checkpoint_dir FOLDER

Any configuration key can follow. Writes benchmarks/results/<dataset>-yardsticks.csv.
"""

import argparse

import common
import pandas as pd

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.scorer.scoring import scoring_steps
from recbole_dealrec.yardstick import Evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--no_surrogates", action="store_true", help="leave out the surrogates, which take longest")
    arguments, rest = parser.parse_known_args()
    keys = {"show_progress": False, "topk": [5, 10, 20], **parse_command_line(rest)}
    config = configure(None, arguments.dataset, None, keys)
    (job,) = prepare([config])
    scoring, surrogates = job.scoring(), {}
    if not arguments.no_surrogates:
        scoring.scores(["influence"])  # trains them
        surrogates = scoring.surrogates(scoring_steps(config, ["influence"]))
    rows = Evaluation(config, job.splits, job.samples).yardsticks(surrogates)
    errors = [{f"{name}, standard error": value for name, value in row["standard_error"].items()} for row in rows]
    table = [{"yardstick": row["name"], **row["unrounded"], **error} for row, error in zip(rows, errors, strict=True)]
    pd.DataFrame(table).to_csv(common.RESULTS / f"{arguments.dataset}-yardsticks.csv", index=False)


if __name__ == "__main__":
    main()
