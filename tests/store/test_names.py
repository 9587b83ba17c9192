"""Folders are named after what determines what comes out."""

import shutil
from dataclasses import fields

import pytest

from recbole_dealrec.store.names import DATA, Folders

ALL = ["run", "surrogates", "surrogate_scores", "llm_scores"]


def different(one, other):
    return [field.name for field in fields(Folders) if getattr(one, field.name) != getattr(other, field.name)]


def test_a_checkpoint_is_known_by_its_content(ten, folders, checkpoint, tmp_path):
    before = folders(ten(llm_path=checkpoint("llama")))
    moved = shutil.copytree(checkpoint("llama"), tmp_path / "there")
    config = ten(llm_path=str(moved))
    assert folders(config) == before
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert different(folders(config), before) == ["run", "llm_scores"]


@pytest.mark.parametrize(
    "keys, changed",
    [
        ({}, []),
        ({"tokens_per_batch": 100, "llm_device_map": "auto"}, []),
        ({"effort_weight": 2.0, "learning_rate": 0.1}, ["run"]),
        ({"lora_r": 4}, ["run", "llm_scores"]),
        ({"chat_template": True}, ["run", "llm_scores"]),
        ({"effort_sample_ratio": 0.5}, ["run", "llm_scores"]),
        ({"influence_on": "valid", "n_surrogates": 2}, ["run", "surrogate_scores"]),
        ({"surrogate_epochs": 3}, ["run", "surrogates", "surrogate_scores"]),
        ({"samples_per_user": 2}, ALL),
        ({"seed": 3}, ALL),
    ],
)
def test_folders_are_named_after_the_keys_that_matter_to_them(ten, folders, keys, changed):
    assert different(folders(ten(**keys)), folders(ten())) == changed


def test_other_data_have_other_folders(ten, tmp_path):
    config = ten()
    one, other = (Folders.of(config, {DATA: content}, tmp_path) for content in ("a", "b"))
    assert different(one, other) == ALL


def test_influence_matters_to_effort_on_a_part_of_the_samples(ten, folders):
    one, other = (folders(ten(effort_sample_ratio=0.5, influence_on=part)) for part in ("train", "valid"))
    assert different(one, other) == ["run", "surrogate_scores", "llm_scores"]


def test_recommenders_share_their_surrogates(ten, folders):
    assert different(folders(ten()), folders(ten(model="TIGER", semantic_id="rqvae"))) == ["run", "llm_scores"]


def test_everything_lies_under_one_root(ten, folders, tmp_path):
    found = folders(ten())
    paths = [getattr(found, field.name) for field in fields(Folders)]
    assert {path.parent for path in paths} == {tmp_path} and len(set(paths)) == 5
    assert [path.name.rpartition("-")[0] for path in paths[:4]] == [
        "ten-BIGRec-DEALRec", "ten-SASRec-surrogates", "ten-SASRec-scores", "ten-BIGRec-scores",
    ]  # fmt: skip
