"""Surrogates trained on all users and on random halves of them: the ground truth of influence_accuracy.py.

    python benchmarks/retraining.py FOLDER [--dataset ml-100k] [--data_path PATH] [--halves 32] [--seeds 3] [--full 10]

Every finished surrogate is saved in FOLDER; the same command resumes where it stopped. Halves share their seeds, so
that they differ only in their users.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from recbole.utils import init_seed
from safetensors.torch import load_file, save_file

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, load_splits, train_loader
from recbole_dealrec.data.sequence import covering_rows
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path")
    parser.add_argument("--halves", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each half")
    parser.add_argument("--full", type=int, default=10, help="trainings on all users")
    arguments = parser.parse_args()
    config = surrogate_config(arguments.dataset, arguments.data_path)
    splits = load_splits(config)
    users = users_of(splits)
    for seed in range(arguments.full):
        surrogate(config, splits, users, seed, arguments.folder / f"full-{seed}.safetensors")
    for seed in range(arguments.seeds):
        for half, kept in enumerate(halves(users, arguments.halves)):
            surrogate(config, splits, kept, seed, arguments.folder / f"half-{half}-{seed}.safetensors")


def surrogate_config(dataset: str, data_path: str | None = None) -> Config:
    """Return the package's defaults for the dataset."""
    path = {} if data_path is None else {"data_path": data_path}
    return Config("BIGRec", dataset, config_dict={**path, "show_progress": False, "use_gpu": torch.cuda.is_available()})


def users_of(splits: Splits) -> np.ndarray:
    """Return the users who have training samples, int64, ascending."""
    return np.unique(CandidateSamples.from_dataset(splits.train).user_id)


def halves(users: np.ndarray, count: int) -> list[np.ndarray]:
    """Return random halves of the users, always the same."""
    random = np.random.default_rng(0)
    return [np.sort(random.choice(users, len(users) // 2, replace=False)) for _ in range(count)]


@torch.enable_grad()  # the scripts that use surrogates run without gradients
def surrogate(config: Config, splits: Splits, users: np.ndarray, seed: int, file: Path) -> torch.nn.Module:
    """Return a surrogate trained on some users for ``surrogate_epochs``; load it if ``file`` exists."""
    own = config.surrogate()
    init_seed(seed, own["reproducibility"])
    model = build_surrogate(own, splits.train)
    if not file.exists():
        samples = CandidateSamples.from_dataset(splits.train)
        rows = covering_rows(splits.train)
        data = train_loader(own, splits.train, rows[np.isin(samples.user_id[rows], users)])
        trainer = SafetensorsTrainer(own, model, RunFolder(file.parent), file.name)
        trainer.fit(data, verbose=False, saved=False)
        with atomic_path(file) as path:
            save_file({name: value.cpu() for name, value in model.state_dict().items()}, path)
        print(file.name, flush=True)
    model.load_state_dict(load_file(file))
    return model.eval()


if __name__ == "__main__":
    main()
