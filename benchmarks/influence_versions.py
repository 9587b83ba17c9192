"""What has this version gained over an earlier one in influence, and are the scores the same?

    python benchmarks/influence_versions.py FOLDER --before COMMIT [--data_path PATH] [--datasets games ml-100k]

FOLDER keeps a trained surrogate of each dataset (see retraining.py); both versions score all candidates with it, each
in a process of its own, in turn. PATH holds the folder `games`. Writes benchmarks/results/influence-versions.md.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import common
import numpy as np

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", required=True, help="commit to compare with")
    parser.add_argument("--data_path")
    parser.add_argument("--datasets", nargs="+", default=["games", "ml-100k"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        clone = str(common.cloned(arguments.before, Path(folder) / "before"))
        rows = []
        for dataset in arguments.datasets:
            data_path = arguments.data_path if dataset == "games" else None
            file = arguments.folder / f"{dataset}-full-0.safetensors"
            train(dataset, data_path, file)
            found = {clone: [], str(ROOT): []}
            for _ in range(arguments.rounds):
                for checkout, results in found.items():
                    results.append(measured(checkout, dataset, data_path, file, Path(folder) / "scores.npz"))
            rows.append(row(dataset, *found.values()))
    common.write("influence-versions", page(arguments.before, arguments.rounds, rows))


def train(dataset: str, data_path: str | None, file: Path) -> None:
    from retraining import load_splits, surrogate, surrogate_config, users_of

    config = surrogate_config(dataset, data_path)
    splits = load_splits(config)
    surrogate(config, splits, users_of(splits), 0, file)


def measured(checkout: str, dataset: str, data_path: str | None, file: Path, out: Path) -> tuple[float, np.ndarray]:
    """Return the seconds and the scores, float [n], of a version in a process of its own."""
    words = [sys.executable, __file__, "score", dataset, data_path or "", str(file), str(out)]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONPATH": checkout}, cwd=out.parent)
    found = np.load(out)
    return float(found["seconds"]), found["scores"]


def score(dataset: str, data_path: str, file: str, out: str) -> None:
    """Score all candidates by the version that is imported, with its defaults."""
    import torch
    from safetensors.torch import load_file

    from recbole_dealrec.config import Config
    from recbole_dealrec.data import CandidateSamples, load_splits
    from recbole_dealrec.model.surrogate import build_surrogate
    from recbole_dealrec.scorer import InfluenceScorer

    path = {"data_path": data_path} if data_path else {}
    config = Config("BIGRec", dataset, config_dict={**path, "show_progress": False, "use_gpu": False})
    splits = load_splits(config)
    candidates = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    model = build_surrogate(config.surrogate(), splits.train)
    model.load_state_dict(load_file(file))
    with torch.no_grad():
        start = perf_counter()
        scores = InfluenceScorer(model.eval(), config).score(candidates)
        np.savez(out, scores=scores, seconds=perf_counter() - start)


def row(dataset: str, before: list[tuple[float, np.ndarray]], after: list[tuple[float, np.ndarray]]) -> list[str]:
    one, other = before[-1][1], after[-1][1]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    earlier, now = (median(seconds for seconds, _ in each) for each in (before, after))
    return [dataset, f"{len(one):,}", f"{earlier:.1f}", f"{now:.1f}", f"{now / earlier:.2f}", f"{cosine:.6f}"]


def page(before: str, rounds: int, rows: list[list[str]]) -> str:
    columns = ["dataset", "candidates", f"seconds, {before}", f"seconds, {common.commit()}", "ratio", "cosine"]
    return f"""# Influence in two versions

{common.header()}.

One surrogate, all candidates, the defaults of both versions; medians of {rounds} rounds in which the versions run in
turn, each in a process of its own. Seconds are those of the scorer: gradient of the mean loss, solve, scores.

{common.table(columns, rows)}
"""


if __name__ == "__main__":
    score(*sys.argv[2:]) if sys.argv[1:2] == ["score"] else main()
