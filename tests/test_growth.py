"""Runs on a dataset that has grown, with another sampler or unfinished, find the effort that is scored already."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.scorer import effort

KEYS = {
    "show_progress": False, "use_gpu": False, "n_fewshot": 8, "topk": [1, 2], "MAX_ITEM_LIST_LENGTH": 10,
    "n_surrogates": 1, "surrogate_epochs": 2, "surrogate_n_layers": 1, "surrogate_valid_metric": "NDCG@2",
    "num_beams": 2, "hessian_samples": 16, "hessian_damping": 1.0,
    "prompt_layout": "{input}\n", "max_history_titles": 3, "sampler": "EffortOnly",
}  # fmt: skip
# i40 to i44 are new, and so is a user; the first rows of the grown dataset are of other items than before.
BEFORE = {f"u{user}": [f"i{(user * 7 + place * 3) % 40}" for place in range(6)] for user in range(24)}
GROWN = {"u99": ["i41", "i42", "i40", "i43", "i1", "i44"], **BEFORE, "u3": [*BEFORE["u3"], "i40"]}
UNCHANGED = len(BEFORE) - 1  # candidates, one of each user


@pytest.fixture
def run(write_dataset, tmp_path, checkpoint):
    """``run(sequences, **keys)``: a run up to its selection, on a dataset of these sequences."""

    def go(sequences, saved=True, **keys):
        write_dataset("growing", sequences, {f"i{item}": f"Title {item}" for item in range(45)})
        paths = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "llm_path": checkpoint("llama")}
        keys = {**KEYS, **paths, **keys}
        return run_recbole_dealrec(dataset="growing", config_dict=keys, last_step="select", saved=saved)

    return go


@pytest.fixture
def computed(monkeypatch):
    """``computed()``: how many samples the language model has scored since the last call."""
    counts, parts = [], effort.in_fitting_parts

    def counted(compute, batch, size, *arguments):
        counts.append(size)
        return parts(compute, batch, size, *arguments)

    def taken():
        count = sum(counts)
        counts.clear()
        return count

    monkeypatch.setattr(effort, "in_fitting_parts", counted)
    return taken


def scores_of(result):
    return pd.read_csv(Path(result["run_dir"]) / "scores.csv")


def test_only_what_is_new_is_scored(run, computed, tmp_path):
    before = run(BEFORE)
    assert computed() == len(BEFORE)
    grown = run(GROWN)
    assert computed() == 2
    from_nothing = run(GROWN, checkpoint_dir=str(tmp_path / "elsewhere"))
    assert computed() == len(GROWN)
    found = scores_of(grown)
    np.testing.assert_allclose(found["effort"], scores_of(from_nothing)["effort"], rtol=1e-5)
    unchanged = found[~found["user"].isin(["u3", "u99"])].set_index("user")["effort"]
    assert len(unchanged) == UNCHANGED
    assert unchanged.equals(scores_of(before).set_index("user")["effort"][unchanged.index])


def test_another_run_with_the_same_network_scores_nothing(run, computed):
    first = run(BEFORE)
    assert computed() == len(BEFORE)
    for keys in ({"sampler": "DEALRec"}, {"n_groups": 4}, {"learning_rate": 0.5}):
        again = run(BEFORE, **keys)
        assert again["run_dir"] != first["run_dir"] and scores_of(again)["effort"].equals(scores_of(first)["effort"])
    assert computed() == 0


def test_another_network_scores_everything(run, computed, checkpoint):
    run(BEFORE)
    assert computed() == len(BEFORE)
    for keys in ({"seed": 7}, {"lora_r": 4}, {"llm_path": checkpoint("qwen2")}, {"effort_parameters": "last"}):
        run(BEFORE, **keys)
        assert computed() == len(BEFORE)


def test_a_predicted_effort_is_not_known_to_a_later_run(run, computed):
    sequences = {f"u{user}": [f"i{(user * 7 + place * 3) % 40}" for place in range(6)] for user in range(130)}
    run(sequences, effort_sample_ratio=0.5)
    scored = computed()
    assert 100 <= scored <= 130
    run(sequences)
    # Forty items make forty distinct samples at most, of which those that were scored have nearly all.
    assert computed() <= 130 - scored


def test_a_run_that_is_not_kept_leaves_no_scores(run, computed, tmp_path):
    run(BEFORE, saved=False)
    assert computed() == len(BEFORE)
    assert not list((tmp_path / "saved").rglob("scores.npz"))


def test_the_seconds_of_a_run_count_what_its_scores_cost(run, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("recbole_dealrec.scorer.effort_cache.perf_counter", lambda: clock[0])
    parts = effort.in_fitting_parts

    def slow(*arguments):
        clock[0] += 1000
        return parts(*arguments)

    monkeypatch.setattr(effort, "in_fitting_parts", slow)
    run(BEFORE)
    assert clock[0] >= 1000
    (scores,) = (tmp_path / "saved").glob("growing-BIGRec-scores-*")
    shutil.rmtree(scores)
    again = run(BEFORE, n_groups=4)
    assert clock[0] < again["seconds"]["effort"] < clock[0] + 500
