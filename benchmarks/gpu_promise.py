"""Part c of gpu.py: gain and whole cost of a selection, with the language model and Games."""

from functools import partial
from typing import Any

import numpy as np
from gpu_rows import Row, Rows, peak
from gpu_setup import Setup
from popularity import recall_of_popularity

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.data import CandidateSamples, QueryDataLoader

# In addition to the package's defaults; not tuned.
KEYS = {
    "llm_dtype": "bfloat16", "mixed_precision": "bf16", "grounding": "trie", "num_beams": 10, "learning_rate": 5e-4,
    "epochs": 20, "eval_step": 2, "stopping_step": 3, "tokens_per_batch": 32_768, "micro_batch_size": 128,
    "eval_batch_size": 512, "n_test": 2000, "yardsticks": False,
    "grounding_popularity": 0, "grounding_collaborative": 0,
}  # fmt: skip
FULL_EPOCHS = 10  # maximum for fine-tuning on all candidates
# Row: sampler, its own keys, probable seconds on a large GPU.
RUNS = {
    "untuned": ("Random", {"epochs": 0}, 40),
    "Random": ("Random", {}, 60),
    "DEALRec": ("DEALRec", {}, 180),
    "DEALRec, influence_on: valid": ("DEALRec", {"influence_on": "valid"}, 90),
    "TargetFrequency": ("TargetFrequency", {}, 60),
}
POPULAR = "most frequent validation targets, nothing trained"


def measure(setup: Setup, rows: Rows) -> None:
    """Add the rows of this part."""
    rows.add(POPULAR, partial(popularity, setup), setup.about(5))
    for name, (sampler, own, expected) in RUNS.items():
        rows.add(name, partial(run, setup, sampler, own), setup.about(expected))
    random = rows.find("Random")
    if random and not rows.find("Full"):
        epochs = affordable_epochs(random, len(setup.candidates), rows.deadline.left())
        expected = random["row seconds"] + epoch_seconds(random, len(setup.candidates))
        rows.add("Full", partial(run_full, setup, max(1, epochs)), expected)


def keys(setup: Setup) -> dict[str, Any]:
    """Return the keys of all runs."""
    return {**setup.keys, **KEYS, **({"epochs": 2} if setup.small else {})}


def run(setup: Setup, sampler: str, own: dict[str, Any]) -> Row:
    """Run all steps; the cost is that of all steps except loading the language model and the evaluation."""
    result = run_recbole_dealrec(sampler=sampler, dataset="games", config_dict={**keys(setup), **own})
    seconds = dict(result["seconds"])
    evaluation = seconds.pop("evaluation")
    seconds.pop("language model", None)
    tuning = seconds.pop("fine-tuning")
    curve = result["training"]["fine-tuning"]
    losses = curve["valid_result"].get("loss", [])
    best = int(np.argmin(losses)) if losses else None
    queries = test_queries(setup)
    return {
        **{metric: value for metric, value in result["test_result"].items() if metric.endswith("@10")},
        "recall@10, standard error": result["test_standard_error"]["recall@10"],
        "test queries": len(queries),
        "popularity of the targets": recall_of_popularity(queries, setup.candidates.item_id[result["selected"]]),
        "samples": len(result["selected"]),
        "epochs": len(curve["train_loss"]),
        "best epoch": None if best is None else curve["valid_epoch"][best] + 1,
        "validation loss": None if best is None else losses[best],
        "effort, s": seconds.get("effort"),
        "selection, s": sum(seconds.values()),
        "fine-tuning, s": tuning,
        "whole cost, s": sum(seconds.values()) + tuning,
        "evaluation, s": evaluation,
        "peak MiB": max(map(peak, result["memory_mib"].values())),
    }


def run_full(setup: Setup, epochs: int) -> Row:
    """Fine-tune on all candidates for at most ``epochs``; say whether the validation loss might fall further."""
    row = run(setup, "Full", {"epochs": epochs, "eval_step": 1})
    cut = epochs < FULL_EPOCHS and row["best epoch"] == row["epochs"] == epochs
    return {**row, "epochs allowed by the time": epochs, "cut": cut}


def popularity(setup: Setup) -> Row:
    """Evaluate one list for all users: the items that are most often targets of the validation part."""
    queries = test_queries(setup)
    targets = CandidateSamples.from_dataset(setup.splits.valid).item_id
    return {"recall@10": recall_of_popularity(queries, targets), "test queries": len(queries), "whole cost, s": 0.0}


def test_queries(setup: Setup) -> list[np.ndarray]:
    """Return the positive items of the test queries that a run is evaluated on."""
    config = setup.config(**keys(setup))
    return QueryDataLoader(config, setup.splits.test, config["n_test"]).positives


def epoch_seconds(random: Row, candidates: int) -> float:
    """Return the seconds of an epoch over all candidates, from the row of Random, including its validations."""
    return candidates * random["fine-tuning, s"] / (random["samples"] * random["epochs"])


def affordable_epochs(random: Row, candidates: int, left: float) -> int:
    """Return how many epochs over all candidates end in time, with their evaluation; at most ``FULL_EPOCHS``."""
    rest = left - (random["row seconds"] - random["fine-tuning, s"])
    return min(FULL_EPOCHS, int(0.9 * rest / epoch_seconds(random, candidates)))
