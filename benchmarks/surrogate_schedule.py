"""Which learning rates train a surrogate best in the fewest steps? By the validation part.

    python benchmarks/surrogate_schedule.py --dataset ml-100k
    python benchmarks/surrogate_schedule.py --dataset games --data_path FOLDER

Each finished training adds a row to benchmarks/results/<dataset>-surrogate-schedule-runs.csv and is not run again while
the row is there; the page <dataset>-surrogate-schedule.md is built from the rows. With --recbole EPOCHS, RecBole's own
SASRec, with a row for each prefix and a constant rate, is trained too, with the first seed. The test part is not read.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest import mock

import common
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.data import load_splits
from recbole_dealrec.model.surrogate import surrogate
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer
from recbole_dealrec.training.surrogate_training import SurrogateTraining

CONSTANT = "constant"  # learning rate of RecBole's trainer
DEFAULT = "default"
RECBOLE = "RecBole, a row for each prefix"
RECBOLE_BATCH = 512  # rows
# Rate, epochs and steps of the rise; the first row is from before the package had a schedule.
TRIED = {
    "ml-100k": [(CONSTANT, 0.001, 8, 0), (DEFAULT, 0.004, 6, 200), ("", 0.004, 4, 200), ("", 0.003, 5, 200)],
    "games": [(CONSTANT, 0.001, 6, 0), (DEFAULT, 0.005, 2, 200), ("", 0.003, 3, 300), ("", 0.003, 2, 250)],
}
COLUMNS = ["schedule", "rate", "epochs", "warm-up steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", choices=TRIED)
    parser.add_argument("--data_path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--recbole", type=int, help="epochs of RecBole's own SASRec")
    arguments = parser.parse_args()
    name = f"{arguments.dataset}-surrogate-schedule"
    file = common.RESULTS / f"{name}-runs.csv"
    recbole = [(RECBOLE, 0.001, arguments.recbole, 0)] if arguments.recbole else []
    for place, seed in enumerate(arguments.seeds):
        for tried in TRIED[arguments.dataset] + (recbole if place == 0 else []):
            row = dict(zip([*COLUMNS, "seed"], [*tried, seed], strict=True))
            rows = pd.read_csv(file, keep_default_na=False) if file.exists() else pd.DataFrame(columns=list(row))
            if not (rows[list(row)] == pd.Series(row)).all(axis=1).any():
                row |= trained(arguments.dataset, arguments.data_path, seed, *tried)
                with atomic_path(file) as path:
                    pd.concat([rows, pd.DataFrame([row])]).to_csv(path, index=False)
                common.write(name, page(arguments.dataset, pd.read_csv(file, keep_default_na=False)))


def trained(
    dataset: str, data_path: str | None, seed: int, schedule: str, rate: float, epochs: int, warmup: int
) -> dict[str, Any]:
    """Train a surrogate, evaluated after each second epoch and the last one, and return what it cost and reached."""
    keys = {"data_path": data_path} if data_path else {}
    keys |= {"seed": seed, "show_progress": False, **schedule_keys(rate, epochs, warmup)}
    if schedule == RECBOLE:
        keys["surrogate_train_batch_size"] = RECBOLE_BATCH
    config = Config("BIGRec", dataset, config_dict=keys)
    with TemporaryDirectory() as folder, ExitStack() as patches:
        for patch in patches_of(schedule):
            patches.enter_context(patch)
        training = SurrogateTraining(config, load_splits(config), RunFolder(Path(folder)), 0)
        start = perf_counter()
        training.fit()
        seconds = perf_counter() - start
        training.finish()
        curve = training.folder.read_json("surrogate.json")["curve"]
    return {"seconds": seconds, "ndcg@10": max(curve["valid_result"]["ndcg@10"])}


def schedule_keys(rate: float, epochs: int, warmup: int) -> dict[str, Any]:
    """Return the configuration keys of a training that is evaluated after each second epoch and the last one."""
    keys = {"learning_rate": rate, "epochs": epochs, "warmup_steps": warmup, "eval_step": 2 - epochs % 2}
    return {f"surrogate_{name}": value for name, value in keys.items()}


def patches_of(schedule: str) -> list[Any]:
    """Return what replaces the package's learning rate, and its model, by RecBole's."""
    constant = mock.patch.object(SafetensorsTrainer, "_advance_rate")
    if schedule != RECBOLE:
        return [constant] if schedule == CONSTANT else []
    own = {"_predicts_every_position": lambda *_: False, "_with_fused_gelu": lambda model: model}
    return [constant, *(mock.patch.object(surrogate, name, change) for name, change in own.items())]


def page(dataset: str, rows: pd.DataFrame) -> str:
    cells = [
        [*key, len(part), common.spread(part["ndcg@10"]), f"{part['seconds'].median():.0f}"]
        for key, part in rows.groupby(COLUMNS, sort=False)
    ]
    return f"""# Surrogates by their learning rate, {dataset}

{common.header()}.

SASRec, NDCG@10 of its best evaluation on the validation part, mean and standard deviation over seeds. The seconds are
medians over seeds and include the evaluations. The rates of all but the first row rise and fall linearly. RecBole's own
SASRec has a row for each prefix, {RECBOLE_BATCH} rows a batch, and a constant rate.

{common.table([*COLUMNS, "seeds", "ndcg@10", "seconds"], cells)}
"""


if __name__ == "__main__":
    main()
