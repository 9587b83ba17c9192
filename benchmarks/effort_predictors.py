"""What predicts the effort of a sample at a fraction of its cost?

    python benchmarks/effort_predictors.py [--samples 2000] [--name effort-predictors] [--key=value ...]

Effort is computed exactly for some candidates of ml-100k, and so are cheaper quantities of the same language model.
Each is compared with effort by itself, and as a feature of a regressor that has seen the effort of a tenth of the
samples, beside the numbers of tokens and history items, which cost nothing. Any configuration key can follow, such as
--llm_path. The page is benchmarks/results/<name>.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import common
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from torch import nn

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import EffortScorer

SCORED = 0.1  # of the samples, which the regressor learns from
DRAWS = 10  # of the part that is scored
LAYERS = 0.1  # of a network, for the effort of its lower layers; at least one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--name", default="effort-predictors")
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = {"checkpoint_dir": folder, "show_progress": False, **parse_command_line(rest)}
        config = Config("BIGRec", "ml-100k", config_dict=keys)
        train = load_splits(config).train
        llm = BIGRec(config, train).eval()
        candidates = CandidateSamples.from_dataset(train, config["samples_per_user"])
        drawn = np.random.default_rng(config["seed"]).choice(len(candidates), arguments.samples, replace=False)
        samples = candidates[np.sort(drawn)]
        exact, seconds = timed(lambda: effort(llm, samples))
        found = [(name, *timed(lambda: measure(llm, samples))) for name, measure in PREDICTORS.items()]  # noqa: B023
    free = np.column_stack([llm.token_lengths(samples), samples.item_length])
    rows = [["nothing: lengths alone", 0.0, float("nan"), predicted(free, exact)]]
    rows += [row(name, values, spent / seconds, free, exact) for name, values, spent in found]
    common.write(arguments.name, page(config, arguments.samples, rows))


def timed(measure: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = perf_counter()
    return measure(), perf_counter() - start


def effort(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    return EffortScorer(llm, llm.config).score(samples)


def effort_of_titles(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    """Return the effort of each sample's target without a history, which is computed once for each target."""
    _, first, place = np.unique(samples.item_id, return_index=True, return_inverse=True)
    return effort(llm, shortened(samples[first], 0))[place]


def effort_of_last_item(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    return effort(llm, shortened(samples, 1))


def shortened(samples: CandidateSamples, most: int) -> CandidateSamples:
    """Return the samples with the last items of their histories, at most ``most``."""
    lists, lengths = np.zeros_like(samples.item_id_list), np.minimum(samples.item_length, most)
    for row, length in enumerate(lengths):
        lists[row, :length] = samples.history(row)[len(samples.history(row)) - length :]
    return replace(samples, item_id_list=lists, item_length=lengths)


def effort_of_last_layer(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    return EffortScorer(llm, {"effort_parameters": "last", "show_progress": False}).score(samples)


@torch.no_grad()
def loss(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    values = np.empty(len(samples))
    for index, batch in llm.batches(samples):
        values[index] = sample_losses(llm.network, batch).numpy()
    return values


def effort_of_lower_layers(llm: BIGRec, samples: CandidateSamples) -> np.ndarray:
    """Return the effort of a network that ends after its lower layers."""
    with lower_layers(llm.network):
        return effort(llm, samples)


@contextmanager
def lower_layers(network: nn.Module) -> Iterator[None]:
    decoder = next(module for module in network.modules() if isinstance(getattr(module, "layers", None), nn.ModuleList))
    layers = decoder.layers
    decoder.layers = layers[: max(1, round(LAYERS * len(layers)))]
    try:
        yield
    finally:
        decoder.layers = layers


PREDICTORS = {
    "effort of the target without history, once for each target": effort_of_titles,
    "effort with the last item as history": effort_of_last_item,
    "loss": loss,
    "effort of the last layer": effort_of_last_layer,
    "effort of the network cut after its lower layers": effort_of_lower_layers,
}


def row(name: str, values: np.ndarray, cost: float, free: np.ndarray, exact: np.ndarray) -> list:
    alone = float(spearmanr(values, exact).statistic)
    return [name, cost, alone, predicted(np.column_stack([free, values]), exact)]


def predicted(features: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean Spearman of held-out effort with its prediction from the features, over draws of the part."""
    found = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(exact))
        part, rest = np.split(order, [round(SCORED * len(exact))])
        trees = ExtraTreesRegressor(300, min_samples_leaf=3, random_state=draw).fit(features[part], exact[part])
        found.append(spearmanr(trees.predict(features[rest]), exact[rest]).statistic)
    return float(np.mean(found))


def page(config: Config, count: int, rows: list[list]) -> str:
    best = max(rows, key=lambda cells: cells[3] if cells[1] <= SCORED else -1)
    body = [
        [name, f"{cost:.2f}", "" if np.isnan(alone) else f"{alone:.2f}", f"{both:.2f}"]
        for name, cost, alone, both in rows
    ]
    return f"""# Predictors of effort, ml-100k

At no more than a tenth of the cost of effort, the best feature is "{best[0]}", with a Spearman of {best[3]:.2f}.

{common.header()}.

{count} candidates, `llm_path: {str(config["llm_path"]).rsplit("/", 1)[-1]}`. Cost is that of
computing the quantity for all samples, as a share of the cost of their effort. The last column is for a regressor
(extremely randomised trees) that has seen the effort of {SCORED:.0%} of the samples, which costs as much again; the
Spearman is of the others, mean over {DRAWS} draws. In all candidates, targets repeat more often than in these, which
lowers the cost of the second row.

{common.table(["predictor", "cost", "Spearman by itself", "Spearman in the regressor"], body)}
"""


if __name__ == "__main__":
    main()
