"""Runs of a comparison of samplers, kept as rows of a file of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
from filelock import FileLock
from popularity import recall_of_popularity

from recbole_dealrec import compare_samplers
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, load_splits
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.store.files import atomic_path, read_json

MAIN = ["DEALRec", "InfluenceOnly", "Greedy", "Random", "TargetFrequency", "RDS+", "LESS"]
OTHERS = [
    "EffortOnly", "CCS", "EL2N", "GraNd", "TF-DCon", "RecRanker", "S2L", "GORACS", "Popular", "Longest", "Recent",
    "RecentWindow", "LossTop", "LossMiddle", "LossBottom", "FacilityLocation", "GradientDiverse",
]  # fmt: skip
TIMES = ["Recent", "RecentWindow"]  # refused where the data have no times
# Keys of one sampler. For TIGER on Games they were chosen on the validation part by results/games-tiger-first-trials,
# as first measured.
CHOSEN = {
    ("TIGER", "games"): {
        "DEALRec": {"hard_prune_ratio": 0, "effort_weight": 0.1},
        "InfluenceOnly": {"hard_prune_ratio": 0},
        "EffortOnly": {"hard_prune_ratio": 0},
    },
}
# Keys of rows that were measured with the default of that time.
FORMER = dict.fromkeys(
    [("BIGRec", "ml-100k"), ("BIGRec", "games")],
    {name: {"hard_prune_ratio": 0.1} for name in ("DEALRec", "InfluenceOnly", "EffortOnly")},
)
# Separate rows for a sampler with further keys; they run with all seeds.
VALID = {"DEALRec (influence_on: valid)": ("DEALRec", {"influence_on": "valid"})}
VARIANTS = {("TIGER", "games"): VALID, ("BIGRec", "games"): VALID, ("BIGRec", "ml-100k"): VALID}
# Keys of the fine-tuning on all candidates that make it faster on a CPU.
FULL = {("TIGER", "games"): {"micro_batch_size": 8}}
METRICS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]
# Table 2 of the paper, 1,024-shot, the same metrics.
PAPER = {
    ("TIGER", "games"): {
        "DEALRec": ".0074 .0114 .0062 .0074", "Random": ".0062 .0102 .0039 .0051", "CCS": ".0050 .0084 .0031 .0041",
        "EL2N": ".0034 .0048 .0024 .0029", "GraNd": ".0042 .0053 .0027 .0030", "TF-DCon": ".0051 .0074 .0033 .0040",
        "RecRanker": ".0028 .0045 .0019 .0024",
    },
}  # fmt: skip


class Runs:
    """The table's rows, stored in a file of results.

    Args:
        model: recommender that is fine-tuned.
        dataset: name of the dataset.
        keys: configuration keys of all runs.
        name: name of the file; None means ``<dataset>-<model>``.
        variants: sampler and further keys of separate rows, by name; None means VARIANTS.
        metrics: columns of the page.
    """

    def __init__(
        self,
        model: str,
        dataset: str,
        keys: dict[str, Any],
        name: str | None = None,
        variants: dict[str, tuple[str, dict[str, Any]]] | None = None,
        metrics: Sequence[str] = METRICS,
    ) -> None:
        self.name = name or f"{dataset}-{model}".lower()
        self.file = common.RESULTS / f"{self.name}-runs.csv"
        self.chosen = CHOSEN.get((model, dataset), {})
        self.former = FORMER.get((model, dataset), {})
        self.variants = VARIANTS.get((model, dataset), {}) if variants is None else variants
        self.full = FULL.get((model, dataset), {})
        self.paper = PAPER.get((model, dataset), {})
        self.metrics = list(metrics)
        self.run_keys = {"model": model, "dataset": dataset}
        self.config = Config(model, dataset, config_dict={**keys, "sampler": "DEALRec", **self.own_keys("DEALRec")})
        self._keys = keys
        self.splits = load_splits(self.config)
        self.samples = CandidateSamples.from_dataset(self.splits.train, self.config["samples_per_user"])
        parts = {"valid": self.splits.valid, "test": self.splits.test}
        self.queries = {name: QueryDataLoader(part.config, part).positives for name, part in parts.items()}

    def own_keys(self, sampler: str) -> dict[str, Any]:
        """Return the configuration keys of one sampler in addition to those of all."""
        return self.former.get(sampler, {}) | self.chosen.get(sampler, {})

    def rows(self) -> pd.DataFrame:
        """Return the rows so far, by seed within each sampler."""
        if not self.file.is_file():
            return pd.DataFrame(columns=["sampler", "seed"])
        order = {name: place for place, name in enumerate([*MAIN, *self.variants, *OTHERS, "Full"])}
        rows = pd.read_csv(self.file)
        return rows.sort_values("seed").sort_values("sampler", key=lambda names: names.map(order), kind="stable")

    def run(self, name: str, seed: int) -> None:
        """Add the row of one run of a sampler or variant, unless it exists."""
        rows = self.rows()
        if ((rows["sampler"] == name) & (rows["seed"] == seed)).any():
            return
        sampler, further = self.variants.get(name, (name, self.full if name == "Full" else {}))
        keys = {**self._keys, **self.own_keys(sampler), **further}
        run = compare_samplers([sampler], [seed], config_dict=keys, **self.run_keys)["runs"].iloc[0].to_dict()
        result = read_json(Path(run.pop("run_dir")) / "result.json")
        targets = self.samples.item_id[result["selected"]]
        run |= {"sampler": name, "commit": common.commit()}
        run["best validation result"] = (result["best_valid_result"] or {}).get(self.config["valid_metric"].lower())
        run |= {f"{metric}, standard error": error for metric, error in result["test_standard_error"].items()}
        run |= {f"popularity, {part}": popularity for part, popularity in self.popularity(targets).items()}
        with FileLock(f"{self.config['checkpoint_dir']}/.rows.lock"), atomic_path(self.file) as file:
            pd.concat([self.rows(), pd.DataFrame([run])]).to_csv(file, index=False)

    def sees(self, name: str) -> str:
        """Return the parts of the data that the choice of a sampler or variant depends on."""
        sampler, further = self.variants.get(name, (name, {}))
        config = Config(self.run_keys["model"], self.run_keys["dataset"], config_dict={**self._keys, **further})
        return ", ".join(get_sampler(sampler)(config).sees)

    def yardsticks(self) -> list[dict[str, Any]]:
        """Return the rows that ``yardsticks.py`` has measured on this dataset."""
        file = common.RESULTS / f"{self.config['dataset']}-yardsticks.csv"
        return pd.read_csv(file).to_dict("records") if file.is_file() else []

    def popularity(self, targets: np.ndarray) -> dict[str, float]:
        """Return Recall@10 on each part if all users get the ten most frequent of these targets."""
        return {part: recall_of_popularity(positives, targets) for part, positives in self.queries.items()}
