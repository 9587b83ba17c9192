"""What does new data cost? Runs on a grown dataset that start from the one before, against runs from nothing.

    python benchmarks/growth.py [--dataset ml-100k] [--data_path FOLDER] [--key=value]

Any configuration key can follow. Three versions of the dataset are made by time: without the last 10 % and the last 1 %
of the interactions, and whole. Each is run from nothing up to its selection, and the whole one also from each of the
others. The language model is the same throughout, as a checkpoint would be: the embedded one of the smallest version,
unless llm_path names another. Writes benchmarks/results/growth.md.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import common
import pandas as pd
from recbole_dealrec.previous_run import PreviousRun

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data import load_splits
from recbole_dealrec.model.bigrec.tiny import tiny_llm

NAME = "growing"  # of the versions; RecBole has one place alone for ml-100k
GROWTHS = (0.01, 0.1)
WHOLE = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    arguments, rest = parser.parse_known_args()
    given = {"show_progress": False, **parse_command_line(rest)}
    of_dataset = properties_folder() / "dataset" / f"{arguments.dataset}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        paths = write_versions(arguments.dataset, given, Path(folder))
        keys = {**(read_yaml(of_dataset) if of_dataset.is_file() else {}), **given, "checkpoint_dir": f"{folder}/saved"}
        if "llm_path" not in keys:
            keys = {**checkpoint(keys, paths[max(GROWTHS)]), **keys}

        def run(version: float, **more: Any) -> dict[str, Any]:
            own = {**keys, "data_path": str(paths[version]), **more}
            return run_recbole_dealrec(dataset=NAME, config_dict=own, stage="select")

        runs = {version: run(version) for version in (*GROWTHS, WHOLE)}
        grown = {version: run(WHOLE, previous_run=runs[version]["run_dir"]) for version in GROWTHS}
        other = run(WHOLE, seed=Config("BIGRec", NAME, config_dict=keys)["seed"] + 1)
        common.write("growth", report(arguments.dataset, given, runs, grown, other))


def write_versions(dataset: str, keys: dict[str, Any], folder: Path) -> dict[float, Path]:
    """Data path of the dataset without each of the last shares of its interactions."""
    config = Config("BIGRec", dataset, config_dict=keys)
    source = Path(config["data_path"])
    separator = config["field_separator"]
    rows = pd.read_csv(source / f"{dataset}.inter", sep=separator, dtype=str, quoting=3, keep_default_na=False)
    times = next(column for column in rows if column.split(":")[0] == config["TIME_FIELD"])
    rows = rows.loc[rows[times].astype(float).sort_values(kind="stable").index]
    titles = (source / f"{dataset}.item").read_bytes()
    paths = {}
    for share in (*GROWTHS, WHOLE):
        paths[share] = folder / f"without-{share}"
        (paths[share] / NAME).mkdir(parents=True)
        kept = rows.iloc[: round(len(rows) * (1 - share))]
        kept.to_csv(paths[share] / NAME / f"{NAME}.inter", sep=separator, index=False, quoting=3)
        (paths[share] / NAME / f"{NAME}.item").write_bytes(titles)
    return paths


def checkpoint(keys: dict[str, Any], data_path: Path) -> dict[str, Any]:
    """Keys for the embedded language model of one version, as a checkpoint for all."""
    positions = 256  # of a prompt and of max_new_tokens
    own = {**keys, "data_path": str(data_path), "max_prompt_length": positions}
    config = Config("BIGRec", NAME, config_dict=own)
    suited = read_yaml(properties_folder() / "llm" / "tiny.yaml")
    del suited["tiny_steps"]
    return {**suited, "llm_path": tiny_llm(config, load_splits(config).train)}


def overlap(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Jaccard index of two selections, and the share of the first that is in the second."""
    left, right = set(one["selected"].tolist()), set(other["selected"].tolist())
    return len(left & right) / len(left | right), len(left & right) / len(left)


def reused(before: dict[str, Any], after: dict[str, Any]) -> str:
    """How many of a run's effort scores were known to the one before."""
    known, needed = (PreviousRun(Path(run["run_dir"])).efforts().keys() for run in (before, after))
    return f"{len(known & needed) / len(needed):.1%}"


def report(
    dataset: str, keys: dict[str, Any], runs: dict[float, dict], grown: dict[float, dict], other: dict[str, Any]
) -> str:
    columns = {"from nothing": runs[WHOLE], **{f"grown by {share:.0%}": run for share, run in grown.items()}}
    stages = list(runs[WHOLE]["seconds"])
    rows = [[stage, *(f"{run['seconds'].get(stage, 0.0):.1f}" for run in columns.values())] for stage in stages]
    totals = {name: sum(run["seconds"].values()) for name, run in columns.items()}
    rows.append(["sum", *(f"{total:.1f}" for total in totals.values())])
    rows.append(["share of the cost", *(f"{total / totals['from nothing']:.0%}" for total in totals.values())])
    rows.append(["effort scores taken over", "0", *(reused(runs[share], run) for share, run in grown.items())])
    overlaps = [
        *((f"grown by {share:.0%}, and from nothing", *overlap(run, runs[WHOLE])) for share, run in grown.items()),
        ("from nothing, with two seeds", *overlap(other, runs[WHOLE])),
    ]
    given = ", ".join(f"{key} {value}" for key, value in keys.items() if key not in ("show_progress", "data_path"))
    n_candidates, n_selected = len(PreviousRun(Path(runs[WHOLE]["run_dir"])).efforts()), len(runs[WHOLE]["selected"])
    return f"""# A run on grown data, {dataset}

{common.header()}. Keys: {given or "the defaults"}. Seconds of each stage of a run up to its selection, on the whole
dataset; a grown run starts from one on the dataset without the last 1 % or 10 % of its interactions by time.

{common.table(["stage", *columns], rows)}

A sample whose history and target are as before keeps its effort score. The candidates are the latest `samples_per_user`
of each user, after the last two items are held out: each new interaction of a user moves these by one, so the oldest
candidate leaves and a new one comes; the others stay. With one candidate a user, each user who came back has a new one.

The {n_selected} selected samples (of {n_candidates} distinct candidates) of two runs on the whole dataset. Two
random selections would have {n_selected / n_candidates:.4f} of their samples in common; the selection draws at random
within groups of similar score.

{common.table(["selections", "Jaccard index", "share in common"], overlaps)}
"""


if __name__ == "__main__":
    main()
