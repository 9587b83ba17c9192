"""Every key that RecBole knows works, or is refused for what it is used with."""

import pytest
from recbole.utils import argument_list

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config import Config
from recbole_dealrec.config.key import Idle
from recbole_dealrec.config.properties import recbole_properties
from recbole_dealrec.config.rows import ALWAYS, KEYS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data import load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import build_surrogate

RECBOLE = {
    *argument_list.general_arguments, *argument_list.training_arguments, *argument_list.evaluation_arguments,
    *argument_list.dataset_arguments, *read_yaml(recbole_properties() / "overall.yaml"),
    *read_yaml(recbole_properties() / "dataset" / "sample.yaml"),
}  # fmt: skip
# A value of each key that is of no effect in every run.
NEVER = {
    "save_dataset": True, "dataset_save_path": "x", "save_dataloaders": True, "dataloaders_save_path": "x",
    "config_file": "x.yaml", "config_files": "x.yaml", "nproc": 2, "world_size": 2, "ip": "x", "port": 5, "offset": 1,
    "group_offset": 1, "local_rank": 0, "MODEL_TYPE": "x", "RATING_FIELD": "x", "LABEL_FIELD": "x", "NEG_PREFIX": "x",
    "POSITION_FIELD": "x", "threshold": {"timestamp": 3}, "transform": "mask_itemseq", "HEAD_ENTITY_ID_FIELD": "x",
    "TAIL_ENTITY_ID_FIELD": "x", "RELATION_ID_FIELD": "x", "ENTITY_ID_FIELD": "x", "alias_of_entity_id": ["x"],
    "alias_of_relation_id": ["x"], "kg_reverse_r": True, "entity_kg_num_interval": "[1,5]",
    "relation_kg_num_interval": "[1,5]", "train_neg_sample_args": {"sample_num": 1}, "enable_amp": True,
    "enable_scaler": True, "require_pow": True, "reg_weight": 0.1, "embedding_size": 8, "loss_type": "BPR",
    "valid_metric_bigger": False,
}  # fmt: skip
# What is of no effect beside the pre-split files, and without what it is about.
WITH_SPLIT = {
    "item_inter_num_interval": "[5,inf)", "user_inter_num_interval": "[5,inf)", "rm_dup_inter": "first",
    "val_interval": {"timestamp": "[0,3]"}, "filter_inter_by_user_or_item": False,
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO"},
}  # fmt: skip
WITHOUT = {
    "filter_inter_by_user_or_item": False, "numerical_features": ["year"], "normalize_field": ["year"],
    "normalize_all": True, "discretization": {"year": {"method": "LD"}}, "seq_len": {"genre": 1},
    "additional_feat_suffix": ["ent"], "preload_weight": {"ent_id": "ent_emb"}, "unload_col": {"user": ["age"]},
    "wandb_project": "x", "log_wandb": True, "tail_ratio": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("key", NEVER)
def test_a_key_without_effect_is_refused(key, ten):
    with pytest.raises(InputError, match=f"configuration key '{key}' has no effect in a run"):
        ten(**{key: NEVER[key]})
    with pytest.raises(InputError, match=f"configuration key '{key}' has no effect in a run"):
        ten(model="TIGER", **{key: NEVER[key]})


@pytest.mark.parametrize("key", WITH_SPLIT)
def test_a_filter_is_refused_beside_files_that_are_split(key, split, ten):
    with pytest.raises(InputError, match=f"configuration key '{key}' has no effect with.* benchmark_filename"):
        split(**{key: WITH_SPLIT[key]})
    if key not in WITHOUT:
        ten(**{key: WITH_SPLIT[key]})


@pytest.mark.parametrize("key", WITHOUT)
def test_a_key_is_refused_without_what_it_is_about(key, ten):
    with pytest.raises(InputError, match=f"configuration key '{key}' has no effect with"):
        ten(**{key: WITHOUT[key]})


def test_every_circumstance_is_tried():
    assert {key.name for key in KEYS.values() if key.idle is ALWAYS} == set(NEVER)
    assert {key.name for key in KEYS.values() if isinstance(key.idle, Idle)} == {*NEVER, *WITH_SPLIT, *WITHOUT}


def test_a_default_may_be_given(ten, split):
    for make in (ten, split):
        values = {name: make()[name] for name in RECBOLE & KEYS.keys() if KEYS[name].place in ("RecBole", "overall")}
        del values["data_path"], values["train_neg_sample_args"]
        assert make(**values, train_neg_sample_args=None).resolved() == make().resolved()
    assert split(eval_args={"mode": "full", "order": "TO"})["eval_args"]["order"] == "TO"


def test_the_surrogates_keys_are_its_own(ten):
    assert ten(surrogate_model="HGN", surrogate_reg_weight=[0.1, 0.1])["surrogate_reg_weight"] == [0.1, 0.1]
    assert ten(surrogate_loss_type="BPR")["surrogate_loss_type"] == "BPR"


@pytest.fixture
def keys_read(monkeypatch):
    """The names of keys that are read from any configuration."""
    read = set()
    for method in ("__getitem__", "__getattr__"):
        original = getattr(Config, method)
        monkeypatch.setattr(Config, method, lambda config, name, get=original: (read.add(name), get(config, name))[1])
    return read


def test_every_other_key_is_read_by_a_run(ten, checkpoint, keys_read):
    paths = {"llm_path": checkpoint("llama"), "surrogate_epochs": 1, "n_surrogates": 1, "num_beams": 2, "n_fewshot": 3}
    config = ten(**paths, epochs=1, sampler="EL2N", topk=[2], surrogate_hidden_size=8)
    run_recbole_dealrec(dataset="ten", config_dict=config.resolved())
    unread = RECBOLE - NEVER.keys() - WITHOUT.keys() - keys_read
    assert unread == {"gpu_id", "use_gpu", "repeatable"}  # the configuration itself reads or checks them


def counts(config):
    splits = load_splits(config)
    return [len(part) for part in (splits.train, splits.valid, splits.test)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [12, 4, 5]),
        ({"rm_dup_inter": "last"}, [10, 4, 5]),
        ({"user_inter_num_interval": "[4,inf)"}, [11, 4, 4]),
        ({"item_inter_num_interval": "[3,inf)"}, [7, 3, 3]),
        ({"val_interval": {"timestamp": "[1000,1030]"}}, [5, 4, 5]),
        ({"val_interval": {"user_id": ["u1", "u4"]}}, [7, 2, 2]),
        ({"eval_args": {"split": {"RS": [0.25, 0.25, 0.5]}, "order": "TO", "mode": "full"}}, [8, 4, 9]),
    ],
)
def test_filters_and_splits_work(keys, expected, ten):
    assert counts(ten(**keys)) == expected


def rewrite(folder, *replaced):
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        for old, new in replaced:
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("user_id:", "who:", {"USER_ID_FIELD": "who", "load_col": {"inter": ["who", "item_id", "timestamp"]}}),
        ("item_id:", "what:", {"ITEM_ID_FIELD": "what", "load_col": {"inter": ["user_id", "what", "timestamp"]}}),
        ("timestamp:", "when:", {"TIME_FIELD": "when", "load_col": {"inter": ["user_id", "item_id", "when"]}}),
        ("\t", "|", {"field_separator": "|"}),
    ],
)
def test_names_of_columns_and_separators_work(old, new, keys, ten, tmp_path):
    expected = load_splits(ten()).fingerprint
    rewrite(tmp_path / "ten", (old, new))
    assert load_splits(ten(**keys)).fingerprint == expected


def test_the_sequences_of_split_files_have_a_name_and_a_separator(split, tmp_path):
    expected = load_splits(split()).fingerprint
    rewrite(tmp_path / "split", ("item_id_list", "item_id_past"), (" ", ";"))
    keys = {"LIST_SUFFIX": "_past", "alias_of_item_id": ["item_id_past"], "seq_separator": ";"}
    config = split(**keys, load_col={"inter": ["user_id", "item_id_past", "item_id"]}, ITEM_LIST_LENGTH_FIELD="long")
    splits = load_splits(config)
    assert splits.fingerprint != expected and [len(part) for part in (splits.train, splits.test)] == [5, 5]
    assert {"item_id_past", "long"} <= set(splits.train.inter_feat.columns)
    assert load_splits(split(**{**keys, "seq_len": {"item_id_past": 1}, "load_col": config["load_col"]})).train[
        "item_length"
    ].tolist() == [1] * 5


@pytest.fixture
def featured(ten, tmp_path):
    """``featured(**keys)``: the ten items with a year and a genre, and an embedding of each in a file of its own."""
    file = tmp_path / "ten" / "ten.item"

    def make(**keys):
        config = ten(load_col={"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "year"]}, **keys)
        header, *rows = file.read_text(encoding="utf-8").replace('"', "").splitlines()
        if "year" not in header:
            lines = [f"{header}\tyear:float", *(f"{row}\t{1990 + place}" for place, row in enumerate(rows))]
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return config

    return make


@pytest.mark.parametrize(
    "keys",
    [
        {"normalize_all": True},
        {"normalize_field": ["year"]},
        {"numerical_features": ["year"], "discretization": {"year": {"method": "ED", "bucket": 2}}},
    ],
)
def test_features_of_items_are_prepared(keys, featured):
    plain, prepared = (load_splits(featured(**each)).train.item_feat["year"].numpy() for each in ({}, keys))
    assert plain.max() == 1999 and abs(prepared).max() < 1990


def test_columns_are_loaded_and_left_out(featured, ten):
    assert "timestamp" not in load_splits(ten(unused_col={"inter": ["timestamp"]})).train.inter_feat
    assert "timestamp_list" in load_splits(ten()).train.inter_feat
    assert "year" in load_splits(featured()).train.item_feat
    config = ten(load_col=None, unload_col={"item": ["title"], "inter": []})
    assert list(load_splits(config).train.item_feat.columns) == ["item_id", "year"]


def test_interactions_of_users_without_a_row_may_be_kept(ten, tmp_path):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"]}
    ten()
    rows = "".join(f"u{number}\t{number}\n" for number in range(1, 5))  # u5 has none
    (tmp_path / "ten" / "ten.user").write_text(f"user_id:token\tage:float\n{rows}", encoding="utf-8")
    kept = sum(counts(ten(load_col=columns, filter_inter_by_user_or_item=False)))
    assert sum(counts(ten(load_col=columns))) < kept == sum(counts(ten()))


def test_a_surrogate_reads_embeddings_of_entities(ten, tmp_path):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "ent": ["ent_id", "ent_emb"]}
    rows = "".join(f"i{number}\t{number} 0.5\n" for number in range(1, 11))
    keys = {"additional_feat_suffix": ["ent"], "preload_weight": {"ent_id": "ent_emb"}, "alias_of_item_id": ["ent_id"]}
    config = ten(surrogate_model="GRU4RecKG", load_col=columns, surrogate_embedding_size=2, **keys)
    (tmp_path / "ten" / "ten.ent").write_text(f"ent_id:token\tent_emb:float_seq\n{rows}", encoding="utf-8")
    train = load_splits(config).train
    assert train.get_preload_weight("ent_id").shape == (11, 2)
    build_surrogate(config.surrogate(), train)
