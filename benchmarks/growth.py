"""What does the effort of new data cost? Scored with the cache of the smaller dataset, against without a cache.

    python benchmarks/growth.py [--dataset ml-100k] [--data_path FOLDER] [--key=value]

Any configuration key can follow. There are three versions of the dataset, split by time: without the last 10 % of the
interactions, without the last 1 %, and whole. The candidates of the whole one are scored without a cache, with the
scores of each of the others in the cache, and with their own. The language model is the same for all, like a
checkpoint: the tiny one of the smallest version, unless llm_path names another. Writes benchmarks/results/growth.md.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import common
import pandas as pd
from recbole.utils import init_seed

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.tiny import tiny_llm
from recbole_dealrec.scorer import EffortCache, EffortScorer
from recbole_dealrec.scorer.effort_cache import sample_keys

NAME = "growing"  # of the versions; RecBole has a fixed place for ml-100k
GROWTHS = (0.1, 0.01)
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
        versions = {share: Version({**keys, "data_path": str(path)}) for share, path in paths.items()}
        versions[WHOLE].seconds(Path(folder) / "warm-up")
        rows = [row(versions[WHOLE], versions.get(share), Path(folder) / f"cache-{share}") for share in (None, *paths)]
        common.write("growth", report(arguments.dataset, given, rows))


class Version:
    """Candidates of a version of the dataset, and the language model that scores them."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self.config = Config("BIGRec", NAME, config_dict=keys)
        splits = load_splits(self.config)
        self.samples = CandidateSamples.from_dataset(splits.train, self.config["samples_per_user"])
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.llm = BIGRec(self.config, splits.train)

    def seconds(self, cache: Path) -> float:
        """Return the seconds of a pass that reads and writes the cache."""
        start = perf_counter()
        EffortScorer(self.llm, self.config, EffortCache(cache)).score(self.samples)
        return perf_counter() - start

    def keys(self) -> list[bytes]:
        """Return the cache key of each candidate's score."""
        keys = sample_keys(self.llm, self.llm.fingerprint(), self.samples, self.config["effort_parameters"])
        return [bytes(key) for key in keys]


def row(whole: Version, before: Version | None, cache: Path) -> list[str]:
    """Return how many scores of the whole dataset are known after ``before`` was scored, and the seconds of a pass."""
    scored = set()
    if before:
        before.seconds(cache)
        scored = set(before.keys())
    n, known = len(whole.samples), sum(key in scored for key in whole.keys())
    return [str(n), str(known), str(n - known), f"{whole.seconds(cache):.1f}"]


def write_versions(dataset: str, keys: dict[str, Any], folder: Path) -> dict[float, Path]:
    """Return the data path of the dataset without each of the last shares of its interactions."""
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
    """Return the keys for the tiny language model of one version, as a checkpoint for all."""
    positions = 256  # of a prompt and of max_new_tokens
    own = {**keys, "data_path": str(data_path), "max_prompt_length": positions}
    config = Config("BIGRec", NAME, config_dict=own)
    suited = read_yaml(properties_folder() / "llm" / "tiny.yaml")
    del suited["tiny_steps"]
    return {**suited, "llm_path": tiny_llm(config, load_splits(config).train)}


def report(dataset: str, keys: dict[str, Any], rows: list[list[str]]) -> str:
    given = ", ".join(f"{key} {value}" for key, value in keys.items() if key not in ("show_progress", "data_path"))
    names = ["nothing", *(f"the dataset without the last {share:.0%}" for share in GROWTHS), "the dataset itself"]
    columns = ["scored before", "candidates", "known", "computed", "seconds"]
    return f"""# Effort of grown data, {dataset}

{common.header()}. Keys: {given or "the defaults"}. A pass over the candidates of the whole dataset, with what was
scored before in the cache.

{common.table(columns, [[name, *row] for name, row in zip(names, rows, strict=True)])}

A sample whose history and target are as before is known. The candidates are the latest `samples_per_user` of each user,
after the last two items are held out: each new interaction of a user moves these by one, so the oldest candidate leaves
and a new one comes; the others stay. With one candidate a user, each user who came back has a new one.
"""


if __name__ == "__main__":
    main()
