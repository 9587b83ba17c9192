"""What a dry run says that the stages will take."""

import os
from pathlib import Path

import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.dry_run import dry_run_text
from recbole_dealrec.estimate import Estimator, Fit, Work, stage_work
from recbole_dealrec.quick_start import checked_config, checked_data

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 1,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 1, "n_valid": 10,
    "num_beams": 2, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 2,
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": "saved"}


def _estimated(text):
    """Names of the stages that have an estimate in a text of one run, in order."""
    lines = [line for line in text.splitlines() if line.startswith("  estimate")]
    return [line[12:38].strip() for line in lines]


def test_the_estimated_stages_are_those_that_the_run_then_has(keys, tmp_path, monkeypatch, small_rehearsals):
    arguments = (["DEALRec"], None, "BIGRec", "movies", [], keys)
    estimated = _estimated(dry_run_text(*arguments))
    assert not any(tmp_path.iterdir()) and os.getcwd() == str(tmp_path)
    assert estimated[-1] == "all that is to do"
    result = run_recbole_dealrec(dataset="movies", config_dict=keys)
    assert set(estimated[:-1]) == set(result["seconds"])

    monkeypatch.setattr(Estimator, "_fit", None)  # nothing is measured any more
    there = {file for file in tmp_path.rglob("*")}
    assert "nothing is to do" in dry_run_text(*arguments)
    assert {file for file in tmp_path.rglob("*")} == there


def test_only_what_is_to_do_is_rehearsed(keys, monkeypatch, small_rehearsals):
    asked = []
    fit = Estimator._fit
    monkeypatch.setattr(Estimator, "_fit", lambda self, *arguments: asked.append(arguments[1]) or fit(self, *arguments))
    arguments = (["CCS"], None, "BIGRec", "movies", [], keys)
    run = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, stage="score")
    assert _estimated(dry_run_text(*arguments, "score")) == asked == []
    assert _estimated(dry_run_text(*arguments, "select"))[:-1] == asked == ["language model", "selection"]
    (Path(run["run_dir"]) / "el2n.npy").write_bytes(b"altered")
    assert _estimated(dry_run_text(*arguments, "score"))[:-1] == ["el2n"]


def test_scores_taken_over_from_one_run_are_measured_for_the_next(keys, small_rehearsals):
    run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, stage="score", shared=True)
    text = dry_run_text(["CCS"], [2020, 2021], "BIGRec", "movies", [], keys, "select")
    *_, first, second = text.split("\n\n")
    assert _estimated(first)[:-1] == ["language model", "selection"]
    assert _estimated(second)[:-1] == ["surrogate", "surrogate 1", "language model", "el2n", "selection"]


def test_a_language_model_that_is_not_on_the_disk_is_not_downloaded(keys, monkeypatch):
    monkeypatch.setattr(Estimator, "_fit", None)
    remote = {**keys, "llm_path": "nobody/no-such-model", "max_prompt_length": 64}
    text = dry_run_text(["Random"], None, "BIGRec", "movies", [], remote)
    assert "no estimate: llm_path 'nobody/no-such-model' is not on this disk" in text.splitlines()[-1]


def test_work_grows_with_what_is_to_do(keys):
    def work(**changed):
        configs = [checked_config("BIGRec", "movies", [], {**keys, **changed})]
        return stage_work(configs[0], *checked_data(configs))

    once, more = work(samples_per_user=1), work(samples_per_user=2, epochs=3, surrogate_epochs=3, tiny_steps=10)
    for stage in ("influence", "el2n", "effort", "llm_representation", "selection", "language model"):
        assert more[stage].units == 2 * once[stage].units
    for stage in ("fine-tuning", "surrogate"):
        assert more[stage] == Work(3 * once[stage].units, 3)
    assert more["evaluation"] == once["evaluation"] == Work(200)
    assert work(hessian_samples=32)["influence"].times == 32 * KEYS["n_surrogates"]
    lissa = work(hessian_solver="lissa", lissa_depth=7, lissa_repeats=3)
    assert lissa["influence"].times == 21 * KEYS["n_surrogates"]


def test_seconds_follow_the_line_through_the_last_two_parts():
    def seconds(points, units, times=1.0):
        return Fit.through([(Work(*work), taken) for *work, taken in points], {}).seconds(Work(units, times))

    parts = [(1, 9.0), (10, 3.0), (30, 5.0)]  # the first one was slow: it warmed up
    assert seconds(parts, 30) == pytest.approx(5.0)
    assert seconds(parts, 100) == pytest.approx(2 + 0.1 * 100)
    assert seconds(parts, 0, times=7) == pytest.approx(7 * 2)
    assert seconds([(10, 3.0)], 100) == pytest.approx(30.0)
    assert seconds([(0, 4.0), (0, 3.0)], 0) == pytest.approx(3.0)
    assert seconds([(10, 5.0), (30, 4.0)], 300) == pytest.approx(4.0)  # less time for more work is noise
    assert seconds([(10, 1.0), (30, 9.0)], 300) == pytest.approx(90.0)  # more than in proportion, too
