"""What a dry run says that the steps will take."""

import importlib.util
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.cli import part
from recbole_dealrec.cli.dry_run import dry_run_text
from recbole_dealrec.cli.estimate import Estimator
from recbole_dealrec.config.registry import SCORERS
from recbole_dealrec.model.surrogate.surrogate import surrogate_labels
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.sampler import get_sampler, sampler_names
from recbole_dealrec.scorer.scorer import LLM, Scorer, register_scorer
from recbole_dealrec.scorer.scoring import scoring_steps
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import records

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 2,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 2, "n_valid": 10,
    "num_beams": 4, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 2,
    "yardsticks": False,
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": "saved"}


@pytest.fixture
def estimates(keys, tmp_path, tmp_path_factory, monkeypatch):
    """``estimates(names, samplers)``: estimates of these steps, or of all that the samplers' runs have."""

    def make(names=None, samplers=("DEALRec",), model="BIGRec", **changed):
        values = {**keys, **changed}
        if model == "TIGER":
            del values["tiny_steps"]
        jobs = prepare([configure(model, "movies", None, {**values, "sampler": sampler}) for sampler in samplers])
        folder = tmp_path_factory.mktemp("estimate")
        estimator, found = Estimator(jobs[0], folder), {}
        monkeypatch.chdir(folder)
        for job in jobs:
            own = [LLM, "selection", "fine-tuning", "reweighting", "evaluation"]
            for name in names or [*scoring_steps(job.config, job.sampler.needs), *own]:
                found[name] = estimator.estimate(job, name)
        monkeypatch.chdir(tmp_path)
        return found

    return make


def _estimated(text):
    lines = [line for line in text.splitlines() if line.startswith("  estimate")]
    return [line[12:38].strip() for line in lines]


def test_the_estimated_steps_are_those_that_the_run_then_has(keys, tmp_path):
    level = logging.root.manager.disable
    estimated = _estimated(dry_run_text(["DEALRec"], None, "BIGRec", "movies", [], keys))
    assert not any(tmp_path.iterdir()) and os.getcwd() == str(tmp_path) and logging.root.manager.disable == level
    result = run_recbole_dealrec(dataset="movies", config_dict=keys)
    assert set(estimated) == {*surrogate_labels(result["seconds"]).values(), "total"}


def test_evaluation_and_memory_are_about_those_of_the_run(estimates, keys):
    keys.update(tiny_steps=20, n_surrogates=1)
    found = estimates(samplers=["Random"])
    result = run_recbole_dealrec(dataset="movies", sampler="Random", config_dict=keys)
    measured = {name: record["memory"]["resident"] for name, record in _records(result).items()}
    for name, memory in measured.items():
        assert 1 / 1.5 < found[name].memory["resident"] / memory < 1.5, name
    assert 1 / 4 < found["evaluation"].seconds / result["seconds"]["evaluation"] < 4


def _records(result):
    return records(RunFolder(Path(result["run_dir"])))


def test_what_any_sampler_needs_can_be_estimated(estimates):
    samplers = [name for name in sampler_names() if name != "GORACS" or importlib.util.find_spec("ot")]
    found = estimates(samplers=samplers)
    assert {need for name in samplers for need in get_sampler(name).needs} <= found.keys()
    assert all(estimate.seconds >= 0 and estimate.memory["resident"] > 0 for estimate in found.values())


def test_tiger_can_be_estimated(estimates):
    small = {"t5_num_layers": 1, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 4, "t5_d_ff": 24}
    found = estimates(samplers=["EffortOnly"], model="TIGER", max_history_items=5, valid_metric="NDCG@2", **small)
    assert found["effort"].seconds > 0


def test_seconds_grow_with_what_is_to_do(estimates):
    names = ["surrogate", "influence", "el2n", LLM, "effort", "fine-tuning", "evaluation"]
    once = estimates(names)
    more = estimates(names, surrogate_epochs=20, n_surrogates=20, samples_per_user=10, epochs=20)
    for name in ("surrogate", "influence", "el2n", "effort", "fine-tuning"):
        assert more[name].seconds > 2 * once[name].seconds, name
    assert more["evaluation"].seconds < 4 * once["evaluation"].seconds


def test_lissa_is_estimated_by_its_steps(estimates, monkeypatch):
    monkeypatch.setattr(part, "_LISSA_STEPS", 20)
    lissa = {"hessian_solver": "lissa", "lissa_depth": 200}
    seconds = [estimates(["influence"], **lissa, lissa_repeats=repeats)["influence"].seconds for repeats in (1, 20)]
    assert seconds[1] > 5 * seconds[0]


def test_a_scorer_of_another_package_is_measured_on_a_part(estimates, monkeypatch):
    monkeypatch.setattr(SCORERS, "entries", dict(SCORERS.entries))
    sizes = []

    @register_scorer("foreign")
    class Foreign(Scorer):
        needs = (LLM, "el2n")

        @classmethod
        def from_inputs(cls, inputs):
            assert inputs.llm is not None and len(inputs.scores["el2n"])
            return cls()

        def score(self, samples):
            sizes.append(len(samples))
            return np.zeros(len(samples))

    assert estimates(["el2n", LLM, "foreign"], samples_per_user=10)["foreign"].seconds > 0
    assert sizes[0] == 2 and 2 < sizes[1] < 1000


def test_a_tiny_model_that_is_there_is_not_built_again(estimates, keys, tmp_path):
    run_recbole_dealrec(dataset="movies", sampler="Random", config_dict=keys, last_step="select")
    there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert estimates([LLM, "evaluation"], samplers=["Random"])[LLM].seconds > 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == there


def test_typical_rows_are_of_about_the_mean_length():
    lengths = np.array([1] * 50 + [9] * 50)
    rows = part.typical(lengths, 10, {})
    assert lengths[rows].mean() == 5
    assert sorted(part.typical(lengths, 1000, {"max_history_titles": 3})) == list(range(100))


def test_training_is_evaluated_as_often_as_recbole_does():
    assert [part.evaluations(*pair) for pair in [(8, 2), (7, 2), (1, 2), (0, 2), (5, 0)]] == [4, 3, 1, 0, 0]
