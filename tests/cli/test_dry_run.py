"""What a dry run tells of the steps of runs."""

import re
from pathlib import Path

import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.cli.dry_run import dry_run_text
from recbole_dealrec.cli.estimate import Estimate, Estimator
from recbole_dealrec.errors import InputError

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 1,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 1, "n_valid": 10,
    "num_beams": 2, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 2,
    "yardsticks": False,
}  # fmt: skip
SURROGATES = ["surrogate", "surrogate 1"]
SHOWN = {"surrogate 1 of 2": "surrogate", "surrogate 2 of 2": "surrogate 1"}
ALL = [*SURROGATES, "el2n", "language model", "selection", "fine-tuning", "reweighting", "evaluation"]


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": str(tmp_path / "saved")}


@pytest.fixture
def estimated(monkeypatch):
    """Names of the steps that were estimated, none of which is done."""
    names = []
    monkeypatch.setattr(Estimator, "estimate", lambda self, job, name: names.append(name) or Estimate(1.0, {}))
    return names


@pytest.fixture
def states(keys):
    """``states(samplers, last_step)``: by run, the states of its steps in order."""

    def told(samplers=("CCS",), last_step="evaluate", seeds=None, **changed):
        text = dry_run_text(samplers, seeds, "BIGRec", "movies", [], {**keys, **changed}, last_step)
        line = re.compile(r"^  (?:score|select|finetune|evaluate) +(\w.*?) {2,}(.*)$", re.MULTILINE)
        runs = [line.findall(part) for part in text.split("\n\n") if "; run folder " in part]
        return [{SHOWN.get(name, name): state for name, state in run} for run in runs]

    return told


def test_nothing_is_there_at_first_and_nothing_is_written(states, keys, tmp_path, estimated):
    (run,) = states()
    assert run == dict.fromkeys(ALL, "to do") and estimated == list(run)
    assert states(last_step="score") == [dict.fromkeys(ALL[:3], "to do")]
    assert states(last_step="select") == [dict.fromkeys(ALL[:5], "to do")]
    assert not any(tmp_path.iterdir())


def test_what_a_run_has_done_is_cached(states, keys, estimated):
    run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="score")
    (run,) = states()
    assert run == {name: "cached" if name in ALL[:3] else "to do" for name in ALL}
    assert states(last_step="score") == [dict.fromkeys(ALL[:3], "cached")]

    run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys)
    there = {file: file.stat().st_mtime_ns for file in Path(keys["checkpoint_dir"]).rglob("*")}
    estimated.clear()
    (run,) = states()
    assert run == {name: "not needed" if name == "language model" else "cached" for name in ALL}
    text = dry_run_text(["CCS"], None, "BIGRec", "movies", [], keys)
    assert "nothing to do" in text and not estimated
    assert {file: file.stat().st_mtime_ns for file in Path(keys["checkpoint_dir"]).rglob("*")} == there


def test_an_altered_score_is_to_do_where_it_is_needed(states, keys, estimated):
    run = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="select")
    (score,) = Path(keys["checkpoint_dir"]).glob("*-scores-*/el2n.npy")
    score.write_bytes(b"altered")
    assert states(last_step="score")[0]["el2n"] == "to do"
    assert states()[0] == {
        **dict.fromkeys([*SURROGATES, "selection"], "cached"), "el2n": "not needed",
        **dict.fromkeys(["language model", "fine-tuning", "reweighting", "evaluation"], "to do"),
    }  # fmt: skip
    (Path(run["run_dir"]) / "scores.csv").write_text("altered")
    assert states()[0] == {name: "cached" if name in SURROGATES else "to do" for name in ALL}


def test_a_lost_surrogate_is_not_needed_where_its_scores_are(states, keys, estimated):
    run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, last_step="score")
    (weights,) = Path(keys["checkpoint_dir"]).glob("*-surrogates-*/surrogate-1.safetensors")
    weights.unlink()
    assert states()[0]["surrogate 1"] == "not needed"
    assert states(["GraNd"])[0]["surrogate 1"] == "to do"
    assert states(["GraNd"])[0]["surrogate"] == "cached"


def test_shared_steps_count_once_for_a_seed(states, estimated):
    runs = states(["CCS", "GraNd", "Random"], seeds=[1, 2])
    assert len(runs) == 6 and runs[1]["surrogate"] == "to do"
    own = ["selection", "fine-tuning", "reweighting", "evaluation"]
    assert estimated == [*ALL, "grand", *own, *own] * 2


def test_what_a_run_refuses_is_refused(states, keys, tmp_path):
    with pytest.raises(InputError, match="'train'.*score, select, finetune, evaluate"):
        states(last_step="train")
    with pytest.raises(InputError, match="n_fewshot is 100000, but only"):
        states(n_fewshot=100_000)
    with pytest.raises(InputError, match="sampler: name each value to compare exactly once"):
        states(["CCS", "CCS"])
    with pytest.raises(InputError, match="cannot be loaded"):
        (tmp_path / "empty").mkdir()
        states(llm_path=str(tmp_path / "empty"), max_prompt_length=64)


def test_a_language_model_that_is_not_on_the_disk_is_not_downloaded(keys, estimated):
    remote = {**keys, "llm_path": "nobody/no-such-model", "max_prompt_length": 64}
    text = dry_run_text(["Random"], None, "BIGRec", "movies", [], remote)
    assert "no estimate: llm_path 'nobody/no-such-model' is not on this disk" in text.splitlines()[-1]
    assert not estimated
    assert "  split        the last row of each user is the test part, the row before it the validation part" in text
