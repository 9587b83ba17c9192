"""The steps of a run: where they stop and go on, what they leave, and what is refused before them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout

from recbole_dealrec import compare_samplers, pipeline, run_recbole_dealrec
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import LAST_STEPS, Pipeline, configure, prepare
from recbole_dealrec.scorer.difficulty import EL2NScorer
from recbole_dealrec.scorer.effort import EffortScorer
from recbole_dealrec.store.console import CONSOLE
from recbole_dealrec.store.files import read_json
from recbole_dealrec.store.opening import opened
from recbole_dealrec.training.surrogate_training import SurrogateTraining

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 1,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 1, "n_valid": 10,
    "num_beams": 2, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 1,
    "untuned": False,
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": str(tmp_path / "saved")}


def refuse(*args, **kwargs):
    raise AssertionError("a finished step was started again")


def files_under(folder):
    """Every output under a folder by its place, and when it was written."""
    files = (file for file in Path(folder).rglob("*") if file.is_file() and file.name[0] != ".")
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def test_each_step_goes_on_from_the_one_before(keys):
    written = {
        "score": {"influence.npy", "effort.npy", "surrogate.safetensors"},
        "select": {
            "selection.npz", "selection.json", "scores.csv", "fewshot.jsonl", "examples.json", "surrogates.json",
        },
        "finetune": {"fine_tuning.json", "adapter_config.json"},
        "evaluate": {"test_result.json", "result.json", "report.html"},
    }  # fmt: skip
    known = {"score": set(), "select": {"selected"}, "finetune": {"selected", "best_valid_result"}}
    assert tuple(written) == LAST_STEPS
    results, there = {}, {}
    for number, step in enumerate(LAST_STEPS):
        result = run_recbole_dealrec(dataset="movies", config_dict=keys, last_step=step)
        before, there = there, files_under(keys["checkpoint_dir"])
        names = {Path(place).name for place in there}
        assert all(written[done] <= names for done in LAST_STEPS[: number + 1])
        assert not any(written[later] & names for later in LAST_STEPS[number + 1 :])
        for place, when in before.items():
            if any(Path(place).name in written[done] for done in LAST_STEPS[:number]):
                assert there[place] == when, f"{place} was written again"
        if step in known:
            assert set(result) == {"seconds", "run_dir", *known[step]}
        results[step] = result

    direct = {**keys, "checkpoint_dir": keys["checkpoint_dir"] + "-direct"}
    whole = run_recbole_dealrec(dataset="movies", config_dict=direct)
    assert Path(whole["run_dir"]).name == Path(results["score"]["run_dir"]).name
    for name in ("select", "finetune", "evaluate"):
        np.testing.assert_array_equal(results[name]["selected"], whole["selected"])
    assert results["evaluate"]["test_result"] == whole["test_result"]
    assert set(results["evaluate"]["seconds"]) == set(whole["seconds"])


def test_a_comparison_stops_after_a_step(keys):
    keys = {**keys, "yardsticks": False}
    result = compare_samplers(["CCS", "Random"], [1, 2], dataset="movies", config_dict=keys, last_step="select")
    assert set(result) == {"runs"}
    runs = result["runs"]
    assert list(zip(runs["sampler"], runs["seed"], strict=True)) == [
        ("CCS", 1), ("Random", 1), ("CCS", 2), ("Random", 2)
    ]  # fmt: skip
    for folder in runs["run_dir"]:
        assert pd.read_csv(Path(folder) / "scores.csv")["selected"].sum() == 24
        assert not (Path(folder) / "fine_tuning.json").exists()


def test_an_unknown_step_lists_the_known_ones(keys, tmp_path):
    with pytest.raises(InputError, match="no last_step 'train'; choose one of score, select, finetune, evaluate"):
        run_recbole_dealrec(dataset="movies", config_dict=keys, last_step="train")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_fewshot": 5000}, "n_fewshot is 5000, but only"),
        ({"surrogate_model": "RepeatNet"}, "surrogate_model 'RepeatNet' ranks by probabilities"),
        ({"topk": [100_000]}, "topk asks for 100000 items"),
        ({"surrogate_valid_metric": "NDCG@100000"}, "surrogate_valid_metric asks for 100000 items"),
        ({"llm_path": "absent"}, "llm_path 'absent'"),
        ({"llm_path": "./absent"}, "llm_path './absent': no such file or folder$"),
        ({"llm_path": "/no/such/folder"}, "llm_path '/no/such/folder': no such file or folder$"),
        ({"sampler": "DealRec"}, "no sampler 'DealRec'; choose one of .*; did you mean 'DEALRec'?"),
        ({"surrogate_model": "SASrec"}, "no model 'SASrec'; .*; did you mean 'SASRec'?"),
    ],
)
def test_what_can_be_refused_is_refused_before_anything_is_computed(keys, changed, message):
    with pytest.raises(InputError, match=message):
        prepare([configure("BIGRec", "movies", None, {"sampler": "CCS", **keys, **changed})])
    assert not Path(keys["checkpoint_dir"]).exists()


@pytest.mark.parametrize("sampler", ["Random", "EffortOnly", "DEALRec", "S2L", "RecRanker"])
def test_how_many_items_surrogates_rank_is_checked_where_one_is_trained(keys, sampler):
    changed = {"sampler": sampler, "surrogate_valid_metric": "NDCG@100000"}
    config = configure("BIGRec", "movies", None, {**keys, **changed})
    if sampler in ("Random", "EffortOnly"):
        assert len(prepare([config])) == 1
    else:
        with pytest.raises(InputError, match="surrogate_valid_metric asks for 100000 items"):
            prepare([config])


@pytest.mark.parametrize("last", LAST_STEPS)
def test_how_many_items_the_recommender_ranks_is_checked_where_it_ranks_some(keys, last):
    config = configure("BIGRec", "movies", None, {**keys, "sampler": "Random", "topk": [100_000]})
    if last in ("score", "select"):
        assert len(prepare([config], last=last)) == 1
    else:
        with pytest.raises(InputError, match="topk asks for 100000 items"):
            prepare([config], last=last)


def test_a_job_needs_no_files_of_the_language_model_where_none_are_asked_for(keys):
    (job,) = prepare([configure("BIGRec", "movies", None, {**keys, "llm_path": "absent"})], check_llm=False)
    assert job.config["llm_path"] == "absent" and len(job.samples) > 0


def test_scores_of_an_earlier_run_are_loaded_with_what_they_cost(keys, monkeypatch):
    first = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="select")
    assert set(first["seconds"]) == {"surrogate", "el2n", "language model", "selection"}
    monkeypatch.setattr(EL2NScorer, "check", lambda *args: None)
    for owner, name in ((SurrogateTraining, "fit"), (EL2NScorer, "score")):
        monkeypatch.setattr(owner, name, refuse)
    second = run_recbole_dealrec(dataset="movies", sampler="EL2N", config_dict=keys, last_step="select")
    assert second["run_dir"] != first["run_dir"]
    for name in ("surrogate", "el2n"):
        assert second["seconds"][name] == first["seconds"][name]
    for run in (first, second):
        curves = read_json(Path(run["run_dir"]) / "surrogates.json")
        assert list(curves) == ["surrogate"] and len(curves["surrogate"]["train_loss"]) == 1
        memory = read_json(Path(run["run_dir"]) / "steps.json")["el2n"]["memory"]
        assert memory["resident"] > 0


def test_a_run_has_the_records_of_what_its_sampler_needs_alone(keys):
    named = ["InfluenceOnly", "EL2N"]  # Random and TargetFrequency come with them
    runs = compare_samplers(named, dataset="movies", config_dict=keys, last_step="select")
    shared = {"surrogate", "influence"}, {"surrogate", "el2n"}, set(), {"target_frequency"}
    for folder, expected in zip(runs["runs"]["run_dir"], shared, strict=True):
        assert set(read_json(Path(folder) / "steps.json")) == {*expected, "language model", "selection"}
        assert set(read_json(Path(folder) / "surrogates.json")) == {"surrogate"} & expected


def test_shared_folders_are_locked_while_scores_are_made_and_free_afterwards(keys, monkeypatch):
    seen = {}

    def is_free(folder):
        try:
            with FileLock(folder / ".lock").acquire(timeout=0):
                return True
        except Timeout:
            return False

    def watched(owner, name):
        original = getattr(owner, name)

        def look(*args, **kwargs):
            folders = [path for path in Path(keys["checkpoint_dir"]).glob("movies-*") if path.is_dir()]
            seen[name] = {"-".join(path.name.split("-")[1:3]): is_free(path) for path in folders}
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, look)

    watched(EffortScorer, "score")
    watched(pipeline.LLMTrainer, "fit")
    watched(pipeline.LLMTrainer, "test")
    run_recbole_dealrec(dataset="movies", sampler="EffortOnly", config_dict=keys)
    shared = ["SASRec-surrogates", "SASRec-scores", "BIGRec-scores"]
    assert seen["score"] == {**dict.fromkeys(shared, False), "BIGRec-EffortOnly": False}
    assert seen["fit"] == seen["test"] == {**dict.fromkeys(shared, True), "BIGRec-EffortOnly": False}


def test_a_selection_of_which_a_part_is_missing_is_made_again(keys):
    whole = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="select")
    folder = Path(whole["run_dir"])
    for name in pipeline.SELECTION_OUTPUTS:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        again = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="select")
        assert again["selected"].tolist() == whole["selected"].tolist()
        if name == "selection.json":  # with the seconds of this time
            made, remade = json.loads(content), read_json(folder / name)
            assert {**made, "steps": {}} == {**remade, "steps": {}} and made["steps"].keys() == remade["steps"].keys()
        else:
            assert (folder / name).read_bytes() == content or name.endswith(".npz"), name


def test_a_sampler_is_given_the_scores_it_needs_and_no_others(keys, monkeypatch):
    given = {}
    (job,) = prepare([configure("BIGRec", "movies", None, {**keys, "sampler": "InfluenceOnly"})])
    sample = job.sampler.sample
    monkeypatch.setattr(job.sampler, "sample", lambda samples: given.update(job.sampler.scores) or sample(samples))
    with opened(job.folders().run) as folder:
        Pipeline(job, job.scoring(), folder).run("select")
    assert set(given) == {"influence"} and given["influence"].shape == (len(job.samples),)


def test_everything_can_be_kept_elsewhere(keys, tmp_path):
    (job,) = prepare([configure("BIGRec", "movies", None, {**keys, "sampler": "EL2N"})])
    root = tmp_path / "elsewhere"
    with opened(job.folders(root).run) as folder:
        result = Pipeline(job, job.scoring(root), folder).run("score")
    assert set(result["seconds"]) == {"surrogate", "el2n"}
    assert not list(Path(keys["checkpoint_dir"]).glob("movies-*")) and list(root.glob("*/el2n.npy"))


def test_metrics_of_every_kind_are_measured_for_every_row(keys):
    metrics = ["Recall", "GAUC", "ItemCoverage", "AveragePopularity", "TailPercentage"]
    result = run_recbole_dealrec(dataset="movies", config_dict={**keys, "metrics": metrics, "untuned": True})
    names = {*(f"{metric}@{k}" for metric in map(str.lower, metrics) if metric != "gauc" for k in (1, 2)), "gauc"}
    rows = [row for row in result["yardsticks"] if row["name"] != "random ranking"]
    assert len(rows) == 5  # two lists, item kNN, the surrogate, the untuned model
    for row in [{"test_result": result["test_result"]}, result["reweighting"], *rows]:
        assert set(row["test_result"]) == names
    assert result["headline"] == "recall@2"


@pytest.fixture
def said(caplog):
    """``said()``: what the terminal has been told since the last call."""
    caplog.set_level("INFO")

    def messages():
        found = [record.getMessage() for record in caplog.records if record.name == CONSOLE.name]
        caplog.clear()
        return found

    return messages


def test_a_run_says_each_step_at_its_beginning_and_end_and_what_comes_next(keys, said):
    keys = {**keys, "n_surrogates": 2}
    result = run_recbole_dealrec(dataset="movies", sampler="InfluenceOnly", config_dict=keys)
    folder, (data, begin, *steps) = Path(result["run_dir"]), said()
    assert data.startswith("movies: 200 users, ")
    assert begin == f"InfluenceOnly: 24 of 200 candidate samples; run folder {folder}"
    details = {"influence": "200 samples, 2 surrogates", "fine-tuning": "24 samples"}
    names = {"surrogate": "surrogate 1 of 2", "surrogate 1": "surrogate 2 of 2"}
    made = ["surrogate", "surrogate 1", *(name for name in result["seconds"] if not name.startswith("surrogate"))]
    for name in made:
        start, end, *steps = steps
        shown = names.get(name, name)
        assert start == (f"{shown}: {details[name]} ..." if name in details else f"{shown} ...")
        assert end.startswith(f"{shown}: {result['seconds'][name]:.1f} s, RAM ")
    title, metrics, table, verdict, seconds, end = steps
    assert title.endswith("24 of 200 candidate samples; 200 test queries, ± standard error over them")
    assert f"{result['test_result']['recall@2']:.4f} ±" in metrics and "popularity list" in table
    assert verdict == result["verdict"] and "surrogate 2 of 2" in seconds and "GiB" in seconds
    assert end.splitlines()[1:] == [
        f"report: {folder / 'report.html'}", f"recommend: recbole-dealrec recommend {folder} --user ID",
    ]  # fmt: skip
    assert all(len(line) <= 100 for block in (metrics, table, seconds) for line in block.splitlines())

    run_recbole_dealrec(dataset="movies", sampler="InfluenceOnly", config_dict=keys)
    again = said()
    own = ["selection", "fine-tuning", "evaluation", "yardsticks"]
    kept = [f"{name}: from an earlier run" for name in own]
    assert again == [data, begin, *kept, title, metrics, table, verdict, seconds, end]


def test_a_step_that_another_run_has_done_is_said_to_be_from_it(keys, said):
    run_recbole_dealrec(dataset="movies", sampler="InfluenceOnly", config_dict=keys, last_step="score")
    *_, end = said()
    assert end == "next steps\ncontinue: the same command without --last_step"
    result = run_recbole_dealrec(dataset="movies", sampler="InfluenceOnly", config_dict=keys, last_step="select")
    _, _, first, *_, end = said()
    assert first == "influence: from an earlier run"
    assert end.splitlines()[1] == f"few-shot samples: {Path(result['run_dir']) / 'fewshot.jsonl'}"


def test_auto_is_a_number_from_the_checks_on(keys):
    auto = {**keys, "n_fewshot": "auto", "surrogate_epochs": "auto", "samples_per_user": 10}
    (job,) = prepare([configure(None, "movies", None, auto, "Random")])
    numbers = {"n_fewshot": 64, "surrogate_epochs": 14}  # of 66 batches
    assert {key: job.config[key] for key in numbers} == {key: job.config.resolved()[key] for key in numbers} == numbers
    (given,) = prepare([configure(None, "movies", None, {**auto, **numbers}, "Random")])
    assert given.folders() == job.folders()
    assert len(job.sampler.sample(job.samples)) == 64
