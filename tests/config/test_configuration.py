"""The configuration: precedence, values, refusals, and what it leaves alone."""

import copy
import os
import re
import sys

import numpy as np
import pytest
import torch
import yaml
from recbole.utils import argument_list

from recbole_dealrec.config import Config, properties
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.errors import InputError


@pytest.fixture
def own_properties(tmp_path, monkeypatch):
    """A properties folder of the test's own, all of whose layers set the key ``seed``."""
    folder = tmp_path / "properties"
    real = properties_folder()
    monkeypatch.setattr(properties, "properties_folder", lambda: folder)
    layers = ("overall.yaml", "model/BIGRec.yaml", "llm/tiny.yaml", "dataset/toys.yaml", "sampler/Mine.yaml")
    for number, layer in enumerate(layers, start=1):
        file = folder / layer
        file.parent.mkdir(parents=True, exist_ok=True)
        base = (real / layer).read_text(encoding="utf-8") if (real / layer).is_file() else ""
        base = re.sub(r"^seed:.*$", "", base, flags=re.M)
        file.write_text(f"{base}\nseed: {number}\n", encoding="utf-8")
    return folder, layers


def test_later_layers_win(own_properties, write_yaml):
    folder, layers = own_properties
    first, second = write_yaml("first.yaml", "seed: 6"), write_yaml("second.yaml", "seed: 7")
    chosen = {"sampler": "Mine"}

    def seed(files=(), **keys):
        return Config("BIGRec", "toys", list(files), {**chosen, **keys})["seed"]

    assert seed([first, second], seed=8) == 8
    assert seed([first, second]) == 7
    assert seed([second, first]) == 6
    for number, layer in reversed(list(enumerate(layers, start=1))):
        assert seed() == number
        text = (folder / layer).read_text(encoding="utf-8").replace(f"\nseed: {number}\n", "\n")
        (folder / layer).write_text(text, encoding="utf-8")
    assert seed() == 2020  # RecBole's own


def test_the_datasets_own_file_is_a_layer(own_properties, tmp_path):
    file = tmp_path / "data" / "toys" / "toys.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed: 44\ntitle_field: name")
    keys = {"data_path": str(tmp_path / "data"), "sampler": "Random"}
    config = Config("BIGRec", "toys", config_dict=keys)
    assert (config["seed"], config["title_field"]) == (44, "name")
    assert Config("BIGRec", "toys", config_dict={**keys, "sampler": "Mine"})["seed"] == 5
    assert Config("BIGRec", "toys", config_dict={**keys, "seed": 9})["seed"] == 9
    assert Config("BIGRec", "other", config_dict=keys)["seed"] == 3
    file.write_text("n_fewshots: 3")
    with pytest.raises(InputError, match="toys.yaml: unknown configuration key 'n_fewshots'; did you mean 'n_fewshot'"):
        Config("BIGRec", "toys", config_dict=keys)


def test_a_layer_counts_only_where_it_is_chosen(own_properties):
    assert Config("BIGRec", "toys", config_dict={"sampler": "Random"})["seed"] == 4
    assert Config("BIGRec", "other", config_dict={"sampler": "Random"})["seed"] == 3
    assert Config("BIGRec", "other", config_dict={"sampler": "Random", "llm_path": "some/model"})["seed"] == 2


def test_a_weaker_file_can_choose_a_stronger_one(own_properties):
    folder, _ = own_properties
    with open(folder / "model" / "BIGRec.yaml", "a", encoding="utf-8") as stream:
        stream.write("sampler: Mine\n")
    assert Config("BIGRec", "toys")["seed"] == 5


def test_tiny_has_its_own_defaults_and_a_real_model_those_of_bigrec():
    tiny, real = Config("BIGRec", "x"), Config("BIGRec", "x", config_dict={"llm_path": "Qwen/Qwen2.5-0.5B"})
    assert (tiny["grounding"], tiny["epochs"], tiny["learning_rate"]) == ("trie", 20, 0.003)
    assert (real["grounding"], real["epochs"], real["learning_rate"]) == ("embedding", 50, 0.0001)
    assert real["llm_path"] == "Qwen/Qwen2.5-0.5B"


def test_the_packages_defaults_beat_recboles():
    config = Config("BIGRec", "ml-100k")
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert config["metrics"] == ["Recall", "NDCG"] and config["topk"] == [5, 10, 20, 50]
    assert config["title_field"] == "movie_title" and config["n_fewshot"] == 256


def test_values_from_python_are_taken_as_they_are(ten):
    config = ten(topk=[3], effort_parameters=["*.lora_B.*"], learning_rate="1e-3", n_fewshot="7")
    assert config["topk"] == [3] and config["effort_parameters"] == ["*.lora_B.*"]
    assert config["learning_rate"] == 0.001 and config["n_fewshot"] == 7


def test_values_of_pythons_own_kinds_are_those_of_a_file(ten, tmp_path):
    config = ten(
        topk=(3, np.int64(5)), n_fewshot=np.int32(7), learning_rate=np.float32(0.5), metrics=np.array(["Recall"]),
        checkpoint_dir=tmp_path / "kept", eval_args={"split": {"RS": (0.5, 0.25, 0.25)}, "order": "TO"},
        lora_target_modules={"v_proj", "q_proj"}, seed=torch.tensor(3), shuffle=np.bool_(False),
    )  # fmt: skip
    file = yaml.safe_dump(config.resolved())
    assert yaml.safe_load(file)["topk"] == [3, 5] and config["checkpoint_dir"] == str(tmp_path / "kept")
    assert (config["n_fewshot"], config["seed"], config["shuffle"]) == (7, 3, False)
    assert config["eval_args"]["split"] == {"RS": [0.5, 0.25, 0.25]} and config["metrics"] == ["Recall"]
    assert config["lora_target_modules"] == ["q_proj", "v_proj"] and config["learning_rate"] == 0.5


def test_a_tilde_is_the_home_folder(ten, monkeypatch, tmp_path, write_yaml):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = ten(checkpoint_dir="~/kept", llm_path="~/models/x")
    assert config["checkpoint_dir"] == f"{tmp_path}/kept" and config["llm_path"] == f"{tmp_path}/models/x"
    assert config["data_path"] == f"{tmp_path}/ten" and ten(data_path="~/")["data_path"] == f"{tmp_path}/ten"
    assert ten(model="TIGER", text_encoder_path="~/e")["text_encoder_path"] == f"{tmp_path}/e"
    write_yaml("keys.yaml", "model: BIGRec\ndataset: ten\nseed: 4")
    name = next(tmp_path.rglob("keys.yaml")).relative_to(tmp_path)
    assert Config(config_file_list=[f"~/{name}"])["seed"] == 4


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("n_fewshots", "n_fewshot"),
        ("learning_rat", "learning_rate"),
        ("surrogate_epoch", "surrogate_epochs"),
        ("surrogate_hidden_sizes", "surrogate_hidden_size"),
        ("MAX_ITEM_LIST_LENGHT", "MAX_ITEM_LIST_LENGTH"),
        ("hessian_dampening", "hessian_damping"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_known_one(key, closest, ten, write_yaml):
    with pytest.raises(InputError, match=f"unknown configuration key '{key}'; did you mean '{closest}'"):
        ten(**{key: 1})
    with pytest.raises(InputError, match=f"'{key}'.*'{closest}'"):
        Config("BIGRec", "ten", [write_yaml("typo.yaml", f"{key}: 1")])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoding", "x"), ("clip_grad_norm", {"max_norm": 1.0}), ("user_inter_num_interval", "[5,inf)"),
        ("item_inter_num_interval", "[1,3]; (5, 1e3)"), ("gpu_id", "0,1"), ("state", "warning"),
    ],
)  # fmt: skip
def test_recboles_own_keys_are_known(key, value, ten):
    assert ten(**{key: value})[key] == value


def test_an_unknown_key_that_resembles_none_has_no_hint(ten):
    with pytest.raises(InputError) as raised:
        ten(qqqqqqqqqq=1)
    assert "did you mean" not in str(raised.value) and "qqqqqqqqqq" in str(raised.value)


def test_keys_of_the_chosen_surrogate_are_known_and_others_not(ten):
    assert ten(surrogate_model="GRU4Rec", surrogate_num_layers=2)["surrogate_num_layers"] == 2
    with pytest.raises(InputError, match="surrogate_num_layers"):
        ten(surrogate_num_layers=2)


def test_the_surrogates_configuration(ten):
    config = ten(
        surrogate_hidden_size=8, surrogate_epochs=3, surrogate_learning_rate=0.01, epochs=9, seed=5,
        MAX_ITEM_LIST_LENGTH=4, eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    )  # fmt: skip
    surrogate = config.surrogate()
    assert (surrogate["model"], surrogate["dataset"]) == ("SASRec", "ten")
    assert (surrogate["hidden_size"], surrogate["epochs"], surrogate["learning_rate"]) == (8, 3, 0.01)
    assert (surrogate["seed"], surrogate["MAX_ITEM_LIST_LENGTH"]) == (5, 4)
    assert surrogate["loss_type"] == "CE" and surrogate["train_neg_sample_args"]["distribution"] == "none"
    assert surrogate["train_batch_size"] == 128 and surrogate["eval_batch_size"] == 1024
    assert surrogate["valid_metric"] == "NDCG@10" and surrogate["valid_metric_bigger"] is True
    for key in ("data_path", "eval_args", "load_col", "topk", "checkpoint_dir", "show_progress", "repeatable"):
        assert surrogate[key] == config[key], key
    assert surrogate["device"] == torch.device("cpu")


def test_the_surrogates_configuration_on_benchmark_files(split):
    config = split(surrogate_model="BERT4Rec", surrogate_mask_ratio=0.4)
    surrogate = config.surrogate()
    assert surrogate["benchmark_filename"] == ["train", "valid", "test"]
    assert surrogate["alias_of_item_id"] == ["item_id_list"] and surrogate["load_col"] == config["load_col"]
    assert surrogate["mask_ratio"] == 0.4 and surrogate["transform"] == "mask_itemseq"


@pytest.mark.parametrize("key", ["eval_step", "stopping_step"])
def test_a_key_of_recbole_is_every_models_although_one_model_sets_it(ten, key):
    assert ten(**{key: 3})[key] == 3


@pytest.mark.parametrize(
    ("model", "key", "other"),
    [("TIGER", "llm_path", "BIGRec"), ("TIGER", "tiny_steps", "BIGRec"), ("BIGRec", "scoring", "TIGER")],
)
def test_a_key_of_another_model_is_refused(model, key, other, ten):
    with pytest.raises(InputError, match=f"'{key}' belongs to {other}; {model} does not read it"):
        ten(model=model, **{key: 1})


def test_keys_of_both_models_and_of_the_dataset_are_taken_by_both(ten):
    for model in ("BIGRec", "TIGER"):
        config = ten(model=model, num_beams=70, prompt_noun="song")
        assert (config["num_beams"], config["prompt_noun"]) == (70, "song")


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"metrics": ["Recal"]}, "Recal"),
        ({"metrics": ["Recall", "RMSE"]}, "metrics"),
        ({"repeatable": False}, "repeatable"),
        ({"eval_args": {"mode": "half"}}, "configuration: the mode .half."),
        ({"train_neg_sample_args": 5}, "train_neg_sample_args"),
    ],
)
def test_what_recbole_refuses_is_an_input_error(keys, part, ten):
    with pytest.raises(InputError, match=part) as raised:
        ten(**keys)
    assert "\n" not in str(raised.value)


def test_an_unknown_model_is_an_input_error(make_config, tmp_path):
    with pytest.raises(InputError, match="NoSuchModel"):
        make_config("ten", tmp_path, model="NoSuchModel")


def test_model_and_dataset_may_come_from_a_file(write_yaml):
    config = Config(config_file_list=[write_yaml("run.yaml", "model: BIGRec\ndataset: 2024\n")])
    assert config["model"] == "BIGRec" and config["dataset"] == "2024"


@pytest.mark.parametrize("fixture", ["ten", "split"])
def test_resolved_keys_as_a_file_give_the_same_keys_again(fixture, request, write_yaml):
    config = request.getfixturevalue(fixture)(
        surrogate_model="GRU4Rec", surrogate_hidden_size=12, n_fewshot=3, mixed_precision="no", topk=[1, 2],
        valid_metric="loss", effort_parameters=["*.lora_B.*"], prompt_input="{history}", prompt_layout="a\n{input}\n",
    )  # fmt: skip
    resolved = config.resolved()
    file = write_yaml("resolved.yaml", yaml.safe_dump(resolved, allow_unicode=True))
    again = Config(config["model"], config["dataset"], [file])
    assert again.resolved() == resolved
    assert resolved["surrogate_hidden_size"] == 12 and resolved["prompt_layout"] == "a\n{input}\n"
    for key in ("n_fewshot", "data_path", "eval_args", "device", "valid_metric_bigger", "train_neg_sample_args"):
        assert again[key] == config[key], key
    assert again.surrogate().resolved() == config.surrogate().resolved()


def test_loss_as_validation_metric_is_better_smaller(ten):
    assert ten(valid_metric="loss")["valid_metric_bigger"] is False
    assert ten(valid_metric="Loss")["valid_metric_bigger"] is False
    assert ten(valid_metric="NDCG@10")["valid_metric_bigger"] is True


@pytest.mark.parametrize("metric", ["NDCG@10", "ndcg@5", "Recall@20", "loss"])
def test_a_validation_metric_that_is_measured_passes(metric, ten):
    assert ten(valid_metric=metric).check_valid_metric() is None
    assert ten(valid_metric="GAUC", metrics=["GAUC", "Recall"]).check_valid_metric() is None


@pytest.mark.parametrize("metric", ["NDCG@7", "MRR@10", "NDCG", "accuracy"])
def test_a_validation_metric_that_is_not_measured_is_refused(metric, ten):
    with pytest.raises(InputError, match=f"valid_metric '{metric}' is not measured; metrics and topk give Recall@5, "):
        ten(valid_metric=metric).check_valid_metric()


def test_the_surrogate_measures_what_chooses_its_best_epoch(ten):
    surrogate = ten(topk=[1, 3]).surrogate()
    surrogate.check_valid_metric()
    assert surrogate["valid_metric"] == "NDCG@10" and surrogate["topk"] == [1, 3, 10]


def test_visible_devices_are_left_alone_where_set(monkeypatch, ten):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    ten(gpu_id="0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ten(gpu_id="0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("visible, seen", [("3,1", "3,1"), (None, "0,1")])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, ten, visible, seen):
    found = []

    def is_available():
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])  # CUDA starts here
        return True

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    for name, value in {"RANK": 3, "LOCAL_RANK": 1, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = ten(use_gpu=True)
    assert config["device"] == torch.device("cuda", 1) and config["gpu_id"] == "0"
    assert set(found) == {seen} and os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert config["state"] == "error" and not config["show_progress"]


def test_use_gpu_false_gives_the_cpu(monkeypatch, ten):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ten(use_gpu=True)["device"] == torch.device("cuda")
    assert ten(use_gpu=False)["device"] == torch.device("cpu")
    assert ten(use_gpu=False).surrogate()["device"] == torch.device("cpu")


def test_recboles_argument_lists_stay_as_they_are():
    names = ("general_arguments", "training_arguments", "evaluation_arguments", "dataset_arguments")
    before = copy.deepcopy({name: getattr(argument_list, name) for name in names})
    config = Config("BIGRec", "ml-100k")  # RecBole extends its list by the keys of its dataset file
    assert {name: getattr(argument_list, name) for name in names} == before
    assert config.parameters["Dataset"] is not argument_list.dataset_arguments


def test_the_programs_command_line_is_not_read(monkeypatch, ten):
    monkeypatch.setattr(sys, "argv", ["prog", "--seed=1", "--n_fewshot=5", "--no_such_key=1"])
    config = ten()
    assert config["seed"] == 2020 and config["n_fewshot"] == "auto"


def test_numpy_has_the_names_recbole_uses(ten):
    ten()
    assert np.float is np.float64 and np.str is np.str_ and np.bool(1) == np.True_
    assert isinstance(np.zeros(1, dtype=np.long)[0], np.integer)
