"""Do quotas of targets, filled by influence, beat the free draw? On validation users that no selection has seen.

    python benchmarks/own_method.py --model TIGER --dataset games --data_path FOLDER --checkpoint_dir FOLDER
    python benchmarks/own_method.py --model BIGRec --dataset ml-100k --checkpoint_dir FOLDER

The data are those of trials.py: scores and early stopping see one half of the validation part, the other half judges,
the test part is not read. Any configuration key can follow. Each finished run adds a row to
benchmarks/results/<dataset>-<model>-own-method-runs.csv and is not run again while the row is there; the page
<dataset>-<model>-own-method.md is built from the rows.
"""

import argparse

import common
import numpy as np
from comparison_page import number, p_value
from comparison_runs import Runs
from trials import METRICS, held_out_runs

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.report.comparison_table import REFERENCES
from recbole_dealrec.sampler import FewShotSampler, register_sampler

INFLUENCE = {"influence_on": "valid"}
VARIANTS = {
    "Random": ("Random", {}),
    "TargetFrequency": ("TargetFrequency", {}),
    "quotas": ("TargetQuota", {}),
    "quotas, most influential": ("TargetInfluence", INFLUENCE),
    "quotas of squared frequency, most influential": ("FrequentTargetInfluence", INFLUENCE),
    "most influential": ("InfluenceOnly", INFLUENCE),
}
TESTED = METRICS[:2]


@register_sampler("TargetQuota")
class TargetQuotaSampler(FewShotSampler):
    """As many samples of each target as its share of the validation part asks for, drawn at random within a target."""

    needs: tuple[str, ...] = ("target_frequency",)
    ranked_by = "rank"
    exponent = 1

    def rank(self, samples: CandidateSamples) -> np.ndarray:
        """Return what a target's samples are ranked by, float64 [n]."""
        return np.random.default_rng(self.config["seed"]).random(len(samples))

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        rank, items = self.rank(samples), samples.item_id
        self.columns = {"target_frequency": self.scores["target_frequency"], "rank": rank}
        offered = np.bincount(items)
        wanted = np.zeros(len(offered))
        wanted[items] = self.scores["target_frequency"] * offered[items]
        given = quotas(wanted**self.exponent, offered, self.config["n_fewshot"])
        order = np.lexsort((-rank, items))
        place = np.arange(len(items)) - np.searchsorted(items[order], items[order])
        return np.sort(order[place < given[items[order]]])


@register_sampler("TargetInfluence")
class TargetInfluenceSampler(TargetQuotaSampler):
    """The most influential samples of each target, as many as its share of the validation part asks for."""

    needs = ("target_frequency", "influence")

    def rank(self, samples: CandidateSamples) -> np.ndarray:
        return self.scores["influence"]


@register_sampler("FrequentTargetInfluence")
class FrequentTargetInfluenceSampler(TargetInfluenceSampler):
    """The same with shares of the squared frequencies, which favour frequent targets."""

    exponent = 2


def quotas(wanted: np.ndarray, offered: np.ndarray, count: int) -> np.ndarray:
    """Share out ``count`` places in proportion to ``wanted`` by largest remainders, at most ``offered`` to each.

    Args:
        wanted: weights of the targets, float [m]; a target of weight 0 gets no place.
        offered: samples of the targets, int64 [m].
        count: places; the targets with a weight must offer as many.

    Returns:
        int64 [m], with the sum ``count``.

    Raises:
        InputError: the targets with a weight offer fewer.
    """
    if (most := offered[wanted > 0].sum()) < count:
        raise InputError(f"only {most} candidates have a validation target; lower n_fewshot")
    given = np.zeros(len(wanted), dtype=np.int64)
    while left := count - given.sum():
        share = np.where(given < offered, wanted, 0.0)
        share *= left / share.sum()
        whole = np.minimum(np.floor(share).astype(np.int64), offered - given)
        if not whole.any():
            largest = np.argsort(-share, kind="stable")[:left]
            whole[largest[share[largest] > 0]] = 1
        given += whole
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--dataset", default="games")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022, 2023, 2024])
    arguments, rest = parser.parse_known_args()
    keys = {"untuned": False, **parse_command_line(rest)}
    table = held_out_runs(arguments.model, arguments.dataset, keys, "own-method", VARIANTS)
    for seed in arguments.seeds:
        for name in VARIANTS:
            table.run(name, seed)
            common.write(table.name, page(table))


def page(table: Runs) -> str:
    config, runs = table.config, table.rows()
    rows = [
        [
            name, len(part), *(common.spread(part[column]) for column in (*METRICS[:2], "popularity, test")),
            *(number(p_value(runs, name, reference, metric)) for metric in TESTED for reference in REFERENCES),
        ]
        for name, part in runs.groupby("sampler", sort=False)
    ]  # fmt: skip
    tests = [f"{metric}, p {reference}" for metric in TESTED for reference in REFERENCES]
    n_valid, n_test = (len(queries) for queries in table.queries.values())
    return f"""# {config["dataset"]}, {config["model"]}: quotas of targets, filled by influence

{common.header()}. Means and standard deviations over seeds of the metrics on half of the users of the validation part,
drawn once ({n_test:,} queries). The other half ({n_valid:,} queries) is what training stopped by, and what frequencies
of targets and influence were measured on. The test part was not read. Popularity is the Recall@10 of recommending to
everybody the ten most frequent targets of the selection. The p values are of two-sided paired t tests over the seeds,
not corrected.

{common.table(["selection", "seeds", *METRICS[:2], "popularity, test", *tests], rows)}
"""


if __name__ == "__main__":
    main()
