import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from colorama.ansitowin32 import StreamWrapper
from peft import PeftModel
from transformers import AutoModelForCausalLM, T5ForConditionalGeneration

from recbole_dealrec import pipeline, quick_start, run_recbole_dealrec
from recbole_dealrec.pipeline import SELECTION_OUTPUTS, SurrogateTraining
from recbole_dealrec.sampler.selection import Selection
from recbole_dealrec.store.console import start_logging
from recbole_dealrec.store.run_folder import RunFolder

SMALL = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 3, "n_fewshot": 24,
    "surrogate_epochs": 2, "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 20, "epochs": 2,
    "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 1, "untuned": False,
}  # fmt: skip


OWN_STEPS = {"language model", "selection", "fine-tuning", "reweighting", "evaluation", "yardsticks"}
STEPS = OWN_STEPS | {"surrogate", "influence", "effort"}


@pytest.fixture(scope="module")
def run(movies_path, tmp_path_factory):
    """``run(folder, **keys)``: the whole pipeline on 200 users of ml-100k with real components."""

    def start(folder, saved=True, **keys):
        fixed = {**SMALL, "data_path": str(movies_path), "checkpoint_dir": str(folder)}
        return run_recbole_dealrec(dataset="movies", config_dict={**fixed, **keys}, saved=saved)

    return start


@pytest.fixture(scope="module")
def first(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return run(folder), folder


def folder_of(result):
    return Path(result["run_dir"])


def refuse(*args, **kwargs):
    raise AssertionError("a finished step was started again")


def test_the_result_has_what_is_promised(first):
    result, _ = first
    assert set(result) >= {"best_valid_result", "test_result", "selected", "seconds", "run_dir"}
    assert result["selected"].dtype == np.int64 and len(np.unique(result["selected"])) == 24
    expected = {f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20, 50)}
    assert set(result["test_result"]) == expected
    assert all(0 <= value <= 1 for value in result["test_result"].values())
    assert set(result["test_standard_error"]) == expected and result["n_test_queries"] == 200
    for name, value in result["test_result"].items():  # of one target a query, recall is 0 or 1
        if name.startswith("recall"):
            spread = math.sqrt(value * (1 - value) / 199)
            assert result["test_standard_error"][name] == pytest.approx(spread, abs=1e-3)
    assert set(result["seconds"]) == STEPS == set(result["memory_mib"])
    assert math.isfinite(result["best_valid_result"]["loss"])


def test_identifiers_are_written_as_the_data_have_them(write_dataset, checkpoint, tmp_path):
    users = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "u"]
    path = write_dataset("odd", {user: [f"={place + item}" for item in range(6)] for place, user in enumerate(users)})
    keys = {"llm_path": checkpoint("llama"), "data_path": str(path), "checkpoint_dir": str(tmp_path), "use_gpu": False}
    run_recbole_dealrec(dataset="odd", sampler="Full", last_step="select", config_dict={**keys, "topk": [5]})
    (scores,) = tmp_path.glob("odd-BIGRec-Full-*/scores.csv")
    rows = pd.read_csv(scores)
    assert set(rows["user"]) == set(users) and all(item.startswith("=") for item in rows["target"])


def test_some_test_queries_are_drawn_by_the_seed_for_all_samplers(run, tmp_path, monkeypatch):
    tested = []
    evaluate = pipeline.LLMTrainer.test

    def watched(self, test_data, *args):
        tested.append(np.sort(test_data.dataset.inter_feat["user_id"].numpy()).tolist())
        return evaluate(self, test_data, *args)

    monkeypatch.setattr(pipeline.LLMTrainer, "test", watched)
    runs = ("Random", 1), ("Full", 1), ("Full", 2)
    results = [run(tmp_path, sampler=name, seed=seed, n_test=30, epochs=0) for name, seed in runs]
    assert [result["n_test_queries"] for result in results] == [30, 30, 30]
    assert tested[0] == tested[1] != tested[2] and len(set(tested[0])) == 30
    assert results[0]["test_result"] == results[1]["test_result"]  # nothing was trained


def test_the_run_folder_is_readable_by_other_tools(first):
    result, _ = first
    folder = folder_of(result)
    assert folder.name.startswith("movies-BIGRec-DEALRec-")
    scores = pd.read_csv(folder / "scores.csv")
    assert list(scores) == ["user", "target", "influence", "effort", "score", "group", "selected"]
    assert np.flatnonzero(scores["selected"]).tolist() == result["selected"].tolist()
    assert (scores.loc[scores["selected"] == 1, "group"] >= 0).all()
    rows = [json.loads(line) for line in (folder / "fewshot.jsonl").read_text(encoding="utf-8").splitlines()]
    fields = ["instruction", "input", "output", "prompt", "completion"]
    assert len(rows) == 24 and all(list(row) == fields for row in rows)
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["n_fewshot"] == 24
    saved = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert saved["test_result"] == result["test_result"] and saved["selected"] == result["selected"].tolist()
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_overall_score_follows_from_the_two_scores(first):
    result, _ = first
    scores = pd.read_csv(folder_of(result) / "scores.csv")
    minmax = (scores[["influence", "effort"]] - scores[["influence", "effort"]].min()) / (
        scores[["influence", "effort"]].max() - scores[["influence", "effort"]].min()
    )
    np.testing.assert_allclose(scores["score"], minmax["influence"] + 0.5 * minmax["effort"], rtol=1e-9)


def test_the_adapter_loads_in_peft(first):
    result, _ = first
    adapter = folder_of(result) / "adapter"
    base = AutoModelForCausalLM.from_pretrained(adapter / "base")
    assert PeftModel.from_pretrained(base, adapter).peft_config["default"].r == 8


def test_scores_and_surrogates_lie_beside_the_run_folder(first):
    result, folder = first
    kept = {
        "movies-SASRec-surrogates": {"surrogate.safetensors", "surrogate.json", "steps.json"},
        "movies-SASRec-scores": {"influence.npy", "steps.json"},
        "movies-BIGRec-scores": {"effort.npy", "steps.json"},
    }
    for name, expected in kept.items():
        (shared,) = folder.glob(f"{name}-*")
        assert {file.name for file in shared.iterdir()} == {*expected, "checksums.json", ".lock"}
    own = {file.name for file in folder_of(result).iterdir()}
    assert own == {
        *SELECTION_OUTPUTS, "config.yaml", "steps.json", "adapter", "fine_tuning.json", "test_result.json",
        "reweighting", "users.json", "yardsticks.json", "catalogue",
        "result.json", "report.html", "checksums.json", ".lock",
    }  # fmt: skip


def test_a_second_run_starts_no_finished_step(first, run, monkeypatch):
    result, folder = first
    report = (folder_of(result) / "report.html").read_bytes()
    for owner, name in ((SurrogateTraining, "fit"), (pipeline, "LLMTrainer"), (pipeline.Pipeline, "score")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(pipeline.Pipeline, "llm", refuse)  # nor is the language model loaded
    again = run(folder)
    assert again["selected"].tolist() == result["selected"].tolist()
    assert again["test_result"] == result["test_result"]
    assert again["seconds"] == result["seconds"]
    assert (folder_of(again) / "report.html").read_bytes() == report


def test_scores_are_written_for_people_and_not_read_back(first, run):
    result, folder = first
    kept = Selection.load(RunFolder(folder_of(result)))
    scores = pd.read_csv(folder_of(result) / "scores.csv")
    for name, values in kept.columns.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-12)
    assert kept.ranked_by == "score" and kept.indices.tolist() == result["selected"].tolist()


def test_the_same_seed_gives_the_same_run(first, run, tmp_path):
    result, _ = first
    again = run(tmp_path / "elsewhere")
    assert again["selected"].tolist() == result["selected"].tolist()
    assert again["test_result"] == result["test_result"]
    assert again["best_valid_result"] == result["best_valid_result"]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(first, run):
    result, folder = first
    for name in ("result.json", "test_result.json", "report.html"):
        (folder_of(result) / name).unlink()
    assert run(folder)["test_result"] == result["test_result"]


@pytest.mark.parametrize(
    "name",
    [
        "movies-SASRec-surrogates-*/surrogate.safetensors", "movies-SASRec-scores-*/influence.npy",
        "movies-BIGRec-scores-*/effort.npy", "selection.npz", "scores.csv", "fewshot.jsonl", "surrogates.json",
        "fine_tuning.json", "adapter/adapter_model.safetensors", "test_result.json", "steps.json", "checksums.json",
    ],
)  # fmt: skip
def test_an_altered_file_is_computed_again(name, first, run, tmp_path):
    result, whole = first
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True, symlinks=True)
    folder = tmp_path / folder_of(result).name
    shared = "*" in name
    (altered,) = tmp_path.glob(name) if shared else [folder / name]
    altered.write_bytes(altered.read_bytes()[:-2])
    if shared:
        (folder / "selection.npz").unlink()  # a finished selection asks for no scores
    again = run(tmp_path)
    assert folder_of(again) == folder
    assert again["selected"].tolist() == result["selected"].tolist()
    assert again["test_result"] == result["test_result"]
    assert again["best_valid_result"] == result["best_valid_result"]
    for path in ("scores.csv", "fewshot.jsonl", "adapter/adapter_model.safetensors"):
        assert (folder / path).read_bytes() == (folder_of(result) / path).read_bytes()


def test_random_needs_neither_surrogate_nor_effort(run, tmp_path):
    result = run(tmp_path, sampler="Random", epochs=1)
    assert set(result["seconds"]) == OWN_STEPS


def test_effort_on_a_part(first, run):
    whole, folder = first
    result = run(folder, effort_sample_ratio=0.25, epochs=0)
    assert set(result["seconds"]) == set(whole["seconds"])
    full, part = (pd.read_csv(folder_of(outcome) / "scores.csv") for outcome in (whole, result))
    np.testing.assert_array_equal(part["influence"], full["influence"])
    scored = np.isclose(part["effort"], full["effort"], rtol=1e-4)
    assert len(full) == 600 and 150 <= scored.sum() < 200
    assert np.corrcoef(part["effort"][~scored], full["effort"][~scored])[0, 1] > 0.5


def test_full_trains_on_all_candidates_whatever_n_fewshot_is(run, tmp_path):
    result = run(tmp_path, sampler="Full", samples_per_user=1, n_fewshot=5000, epochs=1)
    assert result["selected"].tolist() == list(range(200))
    rows = (folder_of(result) / "fewshot.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 200 and result["n_candidates"] == 200
    assert set(result["seconds"]) == OWN_STEPS


def test_an_unsaved_run_leaves_nothing_but_the_embedded_model(run, first, tmp_path, monkeypatch):
    made, folder = [], tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, **kwargs: made.append(folder(*args, **kwargs)) or made[-1])
    result = run(tmp_path / "saved", saved=False)
    assert result["run_dir"] == "" and result["selected"].tolist() == first[0]["selected"].tolist()
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "saved").iterdir()] == ["tiny-llm-movies"]
    assert made and not any(Path(path).exists() for path in made)


def test_several_surrogates_and_the_validation_risk(run, tmp_path):
    result = run(tmp_path, n_surrogates=2, influence_on="valid", surrogate_epochs=1, epochs=0, curvature="gauss_newton")
    assert {"surrogate", "surrogate 1"} <= set(result["seconds"]) and len(result["training"]) == 3
    (folder,) = tmp_path.glob("movies-SASRec-surrogates-*")
    assert {"surrogate.safetensors", "surrogate-1.safetensors"} <= {file.name for file in folder.iterdir()}


def test_tiger_runs_through_the_same_steps(movies_path, tmp_path):
    tiny = {"t5_num_layers": 1, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 8, "t5_d_ff": 16, "num_beams": 50}
    keys = {key: value for key, value in SMALL.items() if key != "tiny_steps"} | tiny
    keys |= {"data_path": str(movies_path), "checkpoint_dir": str(tmp_path), "max_history_items": 5}

    result = run_recbole_dealrec(model="TIGER", dataset="movies", config_dict=keys)
    assert set(result["seconds"]) == STEPS
    assert {f"recall@{k}" for k in (5, 10, 20, 50)} <= set(result["test_result"])
    folder = folder_of(result)
    assert folder.name.startswith("movies-TIGER-DEALRec-")
    assert pd.read_csv(folder / "scores.csv")["effort"].gt(0).all()
    rows = [json.loads(line) for line in (folder / "fewshot.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 24 and all(row["output"].startswith("<a_") for row in rows)
    ids = json.loads((folder / "model" / "semantic_ids.json").read_text(encoding="utf-8"))
    assert len({tuple(codes) for codes in ids.values()}) == len(ids) > 1000
    loaded = T5ForConditionalGeneration.from_pretrained(folder / "model")
    assert loaded.config.d_model == 16

    (folder / "test_result.json").unlink()
    again = run_recbole_dealrec(model="TIGER", dataset="movies", config_dict=keys)
    assert again["test_result"] == result["test_result"]
    assert again["selected"].tolist() == result["selected"].tolist()


def test_the_terminal_is_wrapped_once(ten, capsys):
    for _ in range(3):
        start_logging(ten())
    assert isinstance(sys.stdout, StreamWrapper)
    assert not isinstance(sys.stdout._StreamWrapper__wrapped, StreamWrapper)


def test_nothing_is_left_open(run, tmp_path):
    def open_now():
        return [len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task")]

    quick = {"surrogate_epochs": 1, "epochs": 1, "tiny_steps": 2, "sampler": "InfluenceOnly"}
    run(tmp_path, seed=1, **quick)
    after_one = open_now()
    run(tmp_path, seed=2, **quick)
    assert open_now() == after_one


@pytest.fixture
def cheap(ten, checkpoint):
    """A configuration file of a run on the ten items that is cheap and differs from all defaults in what runs."""
    keys = {"llm_path": checkpoint("llama"), "num_beams": 2, "n_fewshot": 3, "epochs": 1, "topk": [2]}
    return ten(**keys, sampler="Random", seed=7)


def test_a_runs_own_configuration_runs_it_again(cheap, run_script, monkeypatch):
    run = run_recbole_dealrec(dataset="ten", sampler="Random", config_dict=cheap.resolved())
    file = Path(run["run_dir"]) / "config.yaml"
    there = set(Path(run["run_dir"]).parent.iterdir())
    monkeypatch.setattr(pipeline, "step", refuse)
    assert run_recbole_dealrec(config_file_list=[file])["run_dir"] == run["run_dir"]
    assert run_recbole_dealrec(config_file_list=str(file))["test_result"] == run["test_result"]
    assert run_script("--config_files", str(file))[0] == 0
    assert set(file.parent.parent.iterdir()) == there


def test_tiger_of_a_file_is_run(cheap, write_yaml):
    config = pipeline.configure(None, None, [write_yaml("tiger.yaml", "model: TIGER\ndataset: ten\nsampler: CCS")], {})
    assert [config[key] for key in ("model", "dataset", "sampler")] == ["TIGER", "ten", "CCS"]


def test_what_is_given_wins_and_what_is_not_has_no_say(write_yaml):
    file = write_yaml("run.yaml", "model: TIGER\ndataset: here\nsampler: CCS\nseed: 5")

    def chosen(*arguments, sampler=None, **keys):
        config = pipeline.configure(*(*arguments, None, None)[:2], [file], keys, sampler)
        return [config[key] for key in ("model", "dataset", "sampler", "seed")]

    assert chosen() == ["TIGER", "here", "CCS", 5]
    assert chosen("BIGRec", "there", sampler="EL2N") == ["BIGRec", "there", "EL2N", 5]
    assert chosen("BIGRec", "there", sampler="EL2N", **{"dataset": "mine", "seed": 1}) == ["BIGRec", "mine", "EL2N", 1]
    by_default = pipeline.configure(None, None, None, {})
    assert [by_default[key] for key in ("model", "dataset", "sampler")] == ["BIGRec", "ml-100k", "DEALRec"]


@pytest.mark.parametrize(
    ("samplers", "seeds", "expected"),
    [
        (["EL2N", "CCS"], np.array([3]), [("EL2N", 3), ("CCS", 3), ("Random", 3), ("TargetFrequency", 3)]),
        (iter(["Random"]), iter([3, 4]), [("Random", 3), ("Random", 4)]),
        ("Random", 3, [("Random", 3)]),
        ("Random", np.int64(3), [("Random", 3)]),
        (None, range(3, 5), [("EL2N", 3), ("EL2N", 4)]),
        (pd.Series(["Random"]), None, [("Random", 9)]),
    ],
)
def test_samplers_and_seeds_to_compare(samplers, seeds, expected, write_yaml):
    file = write_yaml("run.yaml", "sampler: EL2N\nseed: 9")
    by_seed = quick_start.configure_comparison(samplers, seeds, None, "movies", [file], {})
    found = [(config["sampler"], config["seed"]) for configs in by_seed for config in configs]
    assert found == expected and all(type(seed) is int for _, seed in found)
