"""Runs that start from one made before the dataset grew."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_dealrec import compare_samplers, run_recbole_dealrec, select_fewshot
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.digest import run_name, shared_name, surrogate_name, surrogate_score_name
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.grown_surrogate import item_tokens, start_from
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.previous_run import MEASURED_EFFORT, PreviousRun
from recbole_dealrec.scorer import EffortScorer
from recbole_dealrec.scorer.known_effort import sample_keys

KEYS = {
    "show_progress": False, "use_gpu": False, "n_fewshot": 8, "topk": [1, 2], "MAX_ITEM_LIST_LENGTH": 10,
    "n_surrogates": 1, "surrogate_epochs": 2, "surrogate_n_layers": 1, "surrogate_valid_metric": "NDCG@2",
    "num_beams": 2, "hessian_samples": 16, "hessian_damping": 1.0,
    "prompt_layout": "{input}\n", "max_history_titles": 3,
}  # fmt: skip
# i40 to i44 are new, and so is a user; the first rows of the grown dataset are of other items than before.
BEFORE = {f"u{user}": [f"i{(user * 7 + place * 3) % 40}" for place in range(6)] for user in range(24)}
GROWN = {"u99": ["i41", "i42", "i40", "i43", "i1", "i44"], **BEFORE, "u3": [*BEFORE["u3"], "i40"]}
UNCHANGED = len(BEFORE) - 1  # candidates, one of each user


@pytest.fixture
def run(write_dataset, tmp_path, checkpoint):
    """``run(sequences, **keys)``: a run up to its selection, on a dataset of these sequences."""

    def go(sequences, stage="select", shared=False, **keys):
        write_dataset("growing", sequences, {f"i{item}": f"Title {item}" for item in range(45)})
        paths = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "llm_path": checkpoint("llama")}
        keys = {**KEYS, **paths, **keys}
        return run_recbole_dealrec(dataset="growing", config_dict=keys, stage=stage, shared=shared)

    return go


@pytest.fixture
def scored(monkeypatch):
    """Numbers of samples that the language model scores, in the order of the calls."""
    counts, score = [], EffortScorer.score

    def counted(self, samples):
        counts.append(len(samples))
        return score(self, samples)

    monkeypatch.setattr(EffortScorer, "score", counted)
    return counts


@pytest.fixture
def told(caplog):
    """``told(*parts)``: whether a line of the log has all of these parts."""
    caplog.set_level("INFO")
    return lambda *parts: any(all(part in line for part in parts) for line in caplog.messages)


def scores_of(result):
    return pd.read_csv(Path(result["run_dir"]) / "scores.csv")


def test_only_what_is_new_is_scored(run, scored, told):
    before = run(BEFORE, n_surrogates=2)
    grown = run(GROWN, previous_run=before["run_dir"], n_surrogates=2)
    assert scored == [len(BEFORE), 2]
    assert told(f"effort: {UNCHANGED} scores taken over", ", 2 to be computed")
    assert told("surrogate 1 starts from that of", "40 of 45 items")

    from_nothing = run(GROWN, n_surrogates=2)
    assert grown["run_dir"] != from_nothing["run_dir"]
    found, expected = scores_of(grown), scores_of(from_nothing)
    np.testing.assert_allclose(found["effort"], expected["effort"], rtol=1e-5)
    taken_over = found[~found["user"].isin(["u3", "u99"])].set_index("user")["effort"]
    assert taken_over.equals(scores_of(before).set_index("user")["effort"][taken_over.index])
    assert not np.allclose(found["influence"], expected["influence"]), "the surrogates started alike"

    same = run(GROWN, previous_run=grown["run_dir"])
    assert scored[2:] == [len(GROWN)]
    assert scores_of(same)["effort"].equals(found["effort"])
    assert told(f"effort: {len(GROWN)} scores taken over")


def test_stages_in_shared_folders_start_from_it_too(run, scored):
    before = run(BEFORE)
    alone = run(GROWN, previous_run=before["run_dir"])
    shared = run(GROWN, previous_run=before["run_dir"], shared=True, n_groups=49)
    assert scored == [len(BEFORE), 2, 2]
    columns = ["influence", "effort"]
    pd.testing.assert_frame_equal(scores_of(shared)[columns], scores_of(alone)[columns])


def test_measured_effort_alone_is_taken_over(run, scored):
    """A predicted effort is not known to a later run."""
    sequences = {f"u{user}": [f"i{(user * 7 + place * 3) % 40}" for place in range(6)] for user in range(130)}
    keys = {"effort_sample_ratio": 0.5, "sampler": "EffortOnly"}
    before = run(sequences, **keys)
    with np.load(Path(before["run_dir"]) / MEASURED_EFFORT) as kept:
        assert len(kept["keys"]) == len(kept["scores"]) == sum(scored)
    distinct = len(PreviousRun(Path(before["run_dir"])).efforts())
    scored.clear()
    run(sequences, **{**keys, "effort_sample_ratio": 1.0}, previous_run=before["run_dir"])
    # Forty items make forty distinct samples at most; the hundred that were measured have nearly all of them.
    assert distinct <= 40 and sum(scored) <= 130 - distinct


def test_another_language_model_leaves_nothing_to_take_over(run, scored, told, checkpoint):
    before = run(BEFORE)
    run(GROWN, previous_run=before["run_dir"], llm_path=checkpoint("qwen2"))
    assert scored == [len(BEFORE), len(GROWN)]
    assert told("effort: 0 scores taken over", "the language model is another")


def test_a_missing_surrogate_starts_from_nothing(run, told):
    before = run(BEFORE)
    run(GROWN, previous_run=before["run_dir"], n_surrogates=2)
    assert told("surrogate 1 starts from nothing")


def test_what_cannot_be_taken_over_is_refused(run, tmp_path):
    before = run(BEFORE)["run_dir"]
    (tmp_path / "empty").mkdir()
    cases = [
        ({"previous_run": str(tmp_path / "empty")}, "no run folder"),
        ({"previous_run": run(BEFORE, stage="score", seed=1)["run_dir"]}, "not finished"),
        ({"previous_run": run(BEFORE, shared=True, n_groups=49)["run_dir"]}, "one of a comparison"),
        ({"previous_run": run(BEFORE, sampler="Random")["run_dir"]}, "no surrogate or effort score"),
        ({"previous_run": before, "seed": 7}, "seed is 2020 there and 7 here"),
        ({"previous_run": before, "lora_r": 4}, "lora_r is 8 there and 4 here"),
        ({"previous_run": before, "surrogate_model": "BERT4Rec"}, "surrogate_model is 'SASRec' there"),
        ({"previous_run": before, "surrogate_hidden_size": 32}, "(64,), where (32,) is needed"),
        ({"previous_run": before, "surrogate_n_layers": 2}, "is needed; keep surrogate_model"),
        ({"previous_run": 3}, "has to be ~ or the path of a run folder"),
    ]
    for keys, message in cases:
        with pytest.raises(InputError) as raised:
            run(GROWN, **keys)
        assert message in str(raised.value) and "\n" not in str(raised.value)
    others = {user: [f"i{40 + place}" for place in range(5)] for user in BEFORE}
    with pytest.raises(InputError, match="knows none of the items of growing"):
        run(others, previous_run=before)
    with open(Path(before) / MEASURED_EFFORT, "ab") as file:
        file.write(b"+")
    with pytest.raises(InputError, match=f"{MEASURED_EFFORT}: missing, or altered"):
        run(GROWN, previous_run=before)
    with pytest.raises(InputError, match="previous_run"):
        select_fewshot(pd.DataFrame(), pd.DataFrame(), previous_run=before)


def test_seeds_other_than_its_own_are_refused_in_a_comparison(run, tmp_path, checkpoint):
    before = run(BEFORE)["run_dir"]
    keys = {**KEYS, "data_path": str(tmp_path), "llm_path": checkpoint("llama"), "previous_run": before}
    with pytest.raises(InputError, match="seed is 2020 there and 2021 here"):
        compare_samplers(["DEALRec"], [2020, 2021], dataset="growing", config_dict=keys)


def test_folders_are_named_after_what_it_left_and_not_after_its_path(run, ten, tmp_path):
    before = run(BEFORE)["run_dir"]
    moved = shutil.copytree(before, tmp_path / "moved")
    other = run(BEFORE, surrogate_epochs=1)["run_dir"]
    splits = load_splits(ten())
    for name in (surrogate_name, surrogate_score_name, shared_name, run_name):
        names = [name(ten(previous_run=str(path)), splits) for path in (before, moved, other)]
        assert names[0] == names[1] != names[2]
        assert names[0] != name(ten(), splits)


@pytest.mark.parametrize("surrogate_model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_items_are_matched_by_their_tokens(write_dataset, make_config, surrogate_model):
    parts = {}
    for name, sequences in (("before", BEFORE), ("grown", GROWN)):
        path = write_dataset(name, sequences)
        config = make_config(name, path, surrogate_model=surrogate_model, MAX_ITEM_LIST_LENGTH=10).surrogate()
        dataset = load_splits(make_config(name, path, MAX_ITEM_LIST_LENGTH=10)).train
        parts[name] = build_surrogate(config, dataset), config, dataset
    (old, _, dataset), grown = parts["before"], parts["grown"]
    fresh = {name: value.clone() for name, value in grown[0].state_dict().items()}
    assert start_from(*grown, old.state_dict(), item_tokens(dataset)) == 40

    rows, state = dict(zip(item_tokens(dataset), range(len(item_tokens(dataset))), strict=True)), old.state_dict()
    tokens = item_tokens(grown[2])
    assert tokens[1] != item_tokens(dataset)[1], "RecBole gives the items the same numbers"
    table = "item_embedding.weight"
    for name, value in grown[0].state_dict().items():
        if len(value) in (len(tokens), len(tokens) + 1) and name.split(".")[0] in ("item_embedding", "output_bias"):
            for row, token in enumerate(tokens):
                torch.testing.assert_close(value[row], state[name][rows[token]] if token in rows else fresh[name][row])
            torch.testing.assert_close(value[len(tokens) :], state[name][len(rows) :])
        else:
            torch.testing.assert_close(value, state[name])
    assert not torch.equal(grown[0].state_dict()[table], fresh[table])


def test_parameters_of_users_are_refused(ten):
    keys = {"surrogate_model": "Caser", "MAX_ITEM_LIST_LENGTH": 5}
    config, dataset = ten(**keys).surrogate(), load_splits(ten(**keys)).train
    model = build_surrogate(config, dataset)
    with pytest.raises(InputError, match="a parameter of users, user_embedding.weight"):
        start_from(model, config, dataset, model.state_dict(), item_tokens(dataset))


def keys_of(model, samples, effort_parameters):
    return sample_keys(model, model.fingerprint(), samples, effort_parameters)


def test_a_key_knows_the_sample_and_the_model(bigrec):
    model, splits = bigrec()
    samples = CandidateSamples.from_dataset(splits.train)
    keys = keys_of(model, samples, "all")
    contents = {(tuple(samples.history(row)), samples.titles[item]) for row, item in enumerate(samples.item_id)}
    assert len(np.unique(keys, axis=0)) == len(contents)
    back = np.arange(len(samples))[::-1]
    np.testing.assert_array_equal(keys_of(model, samples[back], "all"), keys[back])
    again, _ = bigrec(tokens_per_batch=64)
    np.testing.assert_array_equal(keys_of(again, samples, "all"), keys)

    def differ(keys_now):
        return (keys_now != keys).any(axis=1).all()

    assert differ(keys_of(model, samples, "last"))
    assert differ(keys_of(bigrec(lora_alpha=8)[0], samples, "all"))
    assert differ(keys_of(bigrec("qwen2")[0], samples, "all"))
    assert differ(keys_of(bigrec(train_on_inputs=True)[0], samples, "all"))
    next(value for value in model.network.parameters() if value.requires_grad).data[0, 0] += 1
    assert differ(keys_of(model, samples, "all"))


def test_a_key_knows_the_semantic_ids(tiger):
    model, splits = tiger()
    samples = CandidateSamples.from_dataset(splits.train)
    keys = keys_of(model, samples, "all")
    again, _ = tiger()
    np.testing.assert_array_equal(keys_of(again, samples, "all"), keys)
    again._tokens = np.roll(again._tokens, 1, axis=0)
    assert (keys_of(again, samples, "all") != keys).any(axis=1).all()
