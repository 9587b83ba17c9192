import shutil

import pytest

from recbole_dealrec.data import load_splits
from recbole_dealrec.store.names import (
    Folders,
    checkpoint_content,
    run_name,
    shared_name,
    surrogate_name,
    surrogate_score_name,
)


def test_a_checkpoint_is_known_by_its_content(ten, checkpoint, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(checkpoint("llama"), folder)
    config = ten(llm_path=str(folder))
    splits = load_splits(config)
    before = run_name(config, splits), shared_name(config, splits)

    moved = shutil.copytree(folder, tmp_path / "there")
    config = ten(llm_path=str(moved))
    assert (run_name(config, splits), shared_name(config, splits)) == before

    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = run_name(config, splits), shared_name(config, splits)
    assert after[0] != before[0] and after[1] != before[1]


def test_a_downloaded_checkpoint_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    assert checkpoint_content("owner/model") == "owner/model@c0ffee"
    assert checkpoint_content("owner/other") == "owner/other"


def test_names_of_what_is_built_stay_names():
    assert (checkpoint_content("tiny"), checkpoint_content("tfidf")) == ("tiny", "tfidf")


NAMES = (surrogate_name, surrogate_score_name, shared_name, run_name)


@pytest.mark.parametrize(
    "keys, changed",
    [
        ({}, []),
        ({"tokens_per_batch": 100, "llm_device_map": "auto"}, []),
        ({"effort_weight": 2.0, "learning_rate": 0.1}, [run_name]),
        ({"lora_r": 4}, [shared_name, run_name]),
        ({"chat_template": True}, [shared_name, run_name]),
        ({"effort_sample_ratio": 0.5}, [shared_name, run_name]),
        ({"influence_on": "valid", "n_surrogates": 2}, [surrogate_score_name, run_name]),
        ({"surrogate_epochs": 3}, NAMES),
        ({"samples_per_user": 2}, NAMES),
        ({"seed": 3}, NAMES),
    ],
)
def test_folders_are_named_after_the_keys_that_matter_to_them(ten, keys, changed):
    before, config = ten(), ten(**keys)
    splits = load_splits(before)
    assert [name for name in NAMES if name(config, splits) != name(before, splits)] == list(changed)


def test_influence_matters_to_effort_on_a_part_of_the_samples(ten):
    before = ten(effort_sample_ratio=0.5)
    splits = load_splits(before)
    config = ten(effort_sample_ratio=0.5, influence_on="valid")
    assert shared_name(config, splits) != shared_name(before, splits)


def test_recommenders_share_their_surrogates(ten):
    config = ten()
    splits = load_splits(config)
    tiger = ten(model="TIGER", semantic_id="rqvae")
    assert surrogate_name(tiger, splits) == surrogate_name(config, splits)
    assert surrogate_score_name(tiger, splits) == surrogate_score_name(config, splits)
    assert shared_name(tiger, splits) != shared_name(config, splits)


def test_everything_lies_under_one_root(ten, tmp_path):
    config = ten()
    splits = load_splits(config)
    folders = Folders.of(config, splits, tmp_path)
    named = [name(config, splits) for name in (run_name, surrogate_name, surrogate_score_name, shared_name)]
    found = [folders.run, folders.surrogates, folders.surrogate_scores, folders.llm_scores, folders.effort]
    assert found == [tmp_path / name for name in [*named, "effort"]] and len(set(found)) == 5
    assert [name.rsplit("-", 1)[0] for name in named] == [
        "ten-BIGRec-DEALRec", "ten-SASRec-surrogates", "ten-SASRec-scores", "ten-BIGRec-shared",
    ]  # fmt: skip
