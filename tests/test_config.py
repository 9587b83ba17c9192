"""The configuration: precedence, values, refusals, and what it leaves alone."""

import copy
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.utils import argument_list

from recbole_dealrec import config as config_module
from recbole_dealrec import keys as own_keys
from recbole_dealrec.config import Config, properties_folder, property_files
from recbole_dealrec.errors import InputError
from recbole_dealrec.values import parse_command_line, parse_value, read_yaml


@pytest.fixture
def write_yaml(tmp_path):
    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def own_properties(tmp_path, monkeypatch):
    """A properties folder of the test's own, all of whose layers set the key ``seed``."""
    folder = tmp_path / "properties"
    caches = (config_module._known_keys, config_module._surrogate_keys, config_module._keys_elsewhere)
    real = properties_folder()
    monkeypatch.setattr(config_module, "properties_folder", lambda: folder)
    layers = ("overall.yaml", "model/BIGRec.yaml", "llm/tiny.yaml", "dataset/toys.yaml", "sampler/Mine.yaml")
    for number, layer in enumerate(layers, start=1):
        file = folder / layer
        file.parent.mkdir(parents=True, exist_ok=True)
        base = (real / layer).read_text(encoding="utf-8") if (real / layer).is_file() else ""
        base = re.sub(r"^seed:.*$", "", base, flags=re.M)
        file.write_text(f"{base}\nseed: {number}\n", encoding="utf-8")
    for cache in caches:
        cache.cache_clear()
    yield folder, layers
    for cache in caches:
        cache.cache_clear()


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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--n_fewshot=64"], {"n_fewshot": 64}),
        (["--n_fewshot", "64"], {"n_fewshot": 64}),
        (["--train_on_inputs"], {"train_on_inputs": True}),
        (["--train_on_inputs", "--seed=3"], {"train_on_inputs": True, "seed": 3}),
        (["--title_field=a=b"], {"title_field": "a=b"}),
        (["--seed", "-3"], {"seed": -3}),
        (["--weight_decay=-0.5"], {"weight_decay": -0.5}),
        (["--topk=[5, 10]"], {"topk": [5, 10]}),
        (["--eval_args={'order': 'TO', 'mode': 'full'}"], {"eval_args": {"order": "TO", "mode": "full"}}),
        (["--eval_args={order: TO}"], {"eval_args": {"order": "TO"}}),
        (["--learning_rate=1e-3"], {"learning_rate": 0.001}),
        (["--learning_rate=1.5E+2"], {"learning_rate": 150.0}),
        (["--x=2024-10-11"], {"x": "2024-10-11"}),
        (["--x=None"], {"x": None}),
        (["--x=~"], {"x": None}),
        (["--x=null"], {"x": None}),
        (["--x="], {"x": None}),
        (["--x=true", "--y=False"], {"x": True, "y": False}),
        (["--x='64'"], {"x": "64"}),
        (["--gpu_id=0,1"], {"gpu_id": (0, 1)}),
        (["--llm_path=Qwen/Qwen2.5-0.5B"], {"llm_path": "Qwen/Qwen2.5-0.5B"}),
        (["--llm_path=../models/a b"], {"llm_path": "../models/a b"}),
        (["--x=os.getcwd()"], {"x": "os.getcwd()"}),
        (["--x=1/0"], {"x": "1/0"}),
        (["--x=[unclosed"], {"x": "[unclosed"}),
        (["--seed=3", "--seed=3"], {"seed": 3}),
        ([], {}),
    ],
)
def test_command_line_values(words, expected):
    found = parse_command_line(words)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("word", ["seed=3", "-s", "--", "3"])
def test_a_word_that_is_no_option_is_named(word):
    with pytest.raises(InputError, match=re.escape(f"'{word}'")):
        parse_command_line([word])


def test_a_key_given_twice_with_different_values_is_refused():
    with pytest.raises(InputError, match="--seed"):
        parse_command_line(["--seed=3", "--seed=4"])
    with pytest.raises(InputError, match="--x"):
        parse_command_line(["--x=None", "--x=4"])


@pytest.mark.parametrize(
    "template", ["__import__('os').mkdir('{}')", "open('{}', 'w')", "!!python/object/apply:os.mkdir ['{}']"]
)
def test_no_value_is_ever_evaluated(template, tmp_path, ten):
    text = template.format(tmp_path / "made")
    assert parse_value(text) == text
    assert parse_command_line([f"--x={text}"]) == {"x": text}
    assert ten(title_field=text)["title_field"] == text
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("mixed_precision", "no"),
        ("prompt_input", "{history}"),
        ("prompt_layout", "{input}"),
        ("prompt_instruction", ""),
        ("prompt_noun", "on"),
        ("prompt_verb", "# liked"),
        ("title_field", "2"),
        ("llm_path", "models/run #1"),
        ("checkpoint_dir", "saved #1"),
        ("seq_separator", " "),
        ("field_separator", "\t"),
    ],
)
def test_keys_that_hold_text_keep_it_as_written(key, text, ten):
    assert ten(**{key: text})[key] == text
    assert parse_command_line([f"--{key}={text}"]) == {key: text}


def test_values_from_python_are_taken_as_they_are(ten):
    config = ten(topk=[3], effort_parameters=["*.lora_B.*"], learning_rate="1e-3", n_fewshot="7")
    assert config["topk"] == [3] and config["effort_parameters"] == ["*.lora_B.*"]
    assert config["learning_rate"] == 0.001 and config["n_fewshot"] == 7


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
        ("encoding", "x"), ("tail_ratio", "x"), ("clip_grad_norm", {"max_norm": 1.0}), ("wandb_project", "x"),
        ("user_inter_num_interval", "[5,inf)"),
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


WRONG_VALUES = {
    "seed": [-1, "x", 1.5, True, 2**32],
    "gpu_id": [{}, None, 1.5, [0, 1]],
    "use_gpu": ["maybe", None],
    "worker": [-1],
    "state": [5, None],
    "reproducibility": ["perhaps"],
    "show_progress": [None],
    "data_path": [5, None, "a\0b", "\udcff"],
    "checkpoint_dir": ["", 5, None, "a\0b"],
    "shuffle": ["often"],
    "epochs": [-1, 2.5, "many", float("inf")],
    "train_batch_size": [0, "many"],
    "eval_batch_size": [0],
    "learner": ["adamm", 5, None],
    "learning_rate": [0, -1.0, "fast", None, float("nan"), float("inf")],
    "weight_decay": [-0.1, None],
    "clip_grad_norm": [5, "x"],
    "eval_step": [-1, "often"],
    "stopping_step": [-1, None],
    "loss_decimal_place": [-1],
    "metrics": [3, [], [3], None],
    "topk": ["ten", [0], [], 0, [5, "x"], None],
    "valid_metric": [5, None, ""],
    "metric_decimal_place": ["x"],
    "eval_args": [5, "full", {"mod": "full"}, {"mode": 5}, None],
    "field_separator": ["", None],
    "seq_separator": ["", 5],
    "USER_ID_FIELD": [None, 5],
    "ITEM_ID_FIELD": [""],
    "TIME_FIELD": [None],
    "LIST_SUFFIX": [None],
    "ITEM_LIST_LENGTH_FIELD": [[]],
    "MAX_ITEM_LIST_LENGTH": [0, "long", None],
    "load_col": [7, ["user_id"], {"inter": 7}],
    "unload_col": [7, {"inter": "user_id"}],
    "benchmark_filename": ["train", [1, 2, 3]],
    "alias_of_user_id": ["user"],
    "alias_of_item_id": [5],
    "user_inter_num_interval": [5],
    "item_inter_num_interval": [[5, 10]],
    "surrogate_model": [None, 5],
    "sampler": ["", 3, None],
    "title_field": ["", None],
    "llm_path": ["", None],
    "llm_dtype": ["float8"],
    "llm_quantization": ["nf4", 4],
    "llm_device_map": ["balanced", 0],
    "trust_remote_code": ["maybe", 1],
    "tiny_steps": [0],
    "lora_r": [0, 2.5],
    "lora_alpha": [0],
    "lora_dropout": [1, -0.1, 1.5],
    "lora_target_modules": ["q_proj", [], [1]],
    "n_fewshot": [0, -5, 2.5, "all", True],
    "samples_per_user": [-1, 1.5],
    "effort_weight": [-0.1, "high"],
    "n_groups": [0],
    "hard_prune_ratio": [1, 1.0, -0.01, "0.1%"],
    "hessian_solver": ["newton"],
    "hessian_damping": [0, -0.1],
    "hessian_samples": [-1],
    "lissa_depth": [0],
    "lissa_scale": [0],
    "lissa_repeats": [0],
    "lissa_damping": [0, "none of it"],
    "curvature": ["fisher"],
    "n_surrogates": [0],
    "influence_parameters": ["*.weight", [1]],
    "influence_on": ["test"],
    "effort_parameters": ["first", [1], None],
    "effort_sample_ratio": [0, -0.1, 1.01, "half", True],
    "train_on_inputs": ["perhaps"],
    "micro_batch_size": [0],
    "warmup_steps": [-1],
    "mixed_precision": ["fp8", True],
    "n_valid": [-1],
    "n_test": [-1, 0.5],
    "grounding": ["exact"],
    "grounding_popularity": [-1],
    "num_beams": [0],
    "max_prompt_length": [0],
    "max_new_tokens": [0],
    "max_history_titles": [0],
    "tokens_per_batch": [0],
    "prompt_noun": [5, None],
    "prompt_verb": [["seen"]],
    "prompt_instruction": [{"noun": None}],
    "prompt_input": [{"history": None}],
    "prompt_layout": [None],
    "chat_template": ["perhaps", 1, None],
    "semantic_id": ["kmeans", None],
    "rqvae_steps": [0],
    "text_encoder_path": ["", None],
    "max_history_items": [0],
    "t5_num_layers": [0],
    "t5_num_heads": [0],
    "t5_d_model": [0],
    "t5_d_kv": [0],
    "t5_d_ff": [0],
    "t5_dropout_rate": [1, -0.1],
    "scoring": ["greedy"],
}
TIGER_KEYS = read_yaml(properties_folder() / "model" / "TIGER.yaml")


def test_every_checked_key_is_tried():
    assert set(WRONG_VALUES) == set(own_keys._CHECKS)


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_wrong_values_are_refused_by_name(key, ten):
    model = "TIGER" if key in TIGER_KEYS else "BIGRec"
    for value in WRONG_VALUES[key]:
        with pytest.raises(InputError, match=f"configuration key '{key}' has to be "):
            ten(model=model, **{key: value})


@pytest.mark.parametrize(("key", "value"), [("epochs", "many"), ("learning_rate", 0), ("metrics", 3), ("learner", "x")])
def test_wrong_values_of_the_surrogate_are_refused_by_name(key, value, ten):
    with pytest.raises(InputError, match=f"configuration key 'surrogate_{key}' has to be "):
        ten(**{f"surrogate_{key}": value})


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


@pytest.mark.parametrize("key", ["lora_dropout", "hard_prune_ratio"])
def test_a_ratio_may_be_zero_and_must_stay_below_one(key, ten):
    assert ten(**{key: 0})[key] == 0
    assert ten(**{key: 0.999})[key] == 0.999


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


def test_python_tags_in_yaml_are_refused(write_yaml, tmp_path):
    file = write_yaml("bad.yaml", f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(InputError, match="bad.yaml: not YAML"):
        Config("BIGRec", "ten", [file])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "part"), [("a: [1,", "not YAML"), ("- 1\n- 2\n", "found list"), ("just words", "found str")]
)
def test_a_broken_yaml_file_is_named(text, part, write_yaml):
    with pytest.raises(InputError, match=f"broken.yaml: .*{part}") as raised:
        Config("BIGRec", "ten", [write_yaml("broken.yaml", text)])
    assert "\n" not in str(raised.value)


def test_aliases_that_expand_without_end_are_refused_at_once(write_yaml):
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)]
    file = write_yaml("laughs.yaml", "\n".join(["a0: &a0 [ha, ha, ha]", *levels]))
    with pytest.raises(InputError, match="laughs.yaml: not YAML: its aliases expand to more than 100000 values"):
        read_yaml(file)


def test_anchors_and_merges_are_read(write_yaml):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    one = {"x": 1, "y": 2}
    assert read_yaml(write_yaml("anchors.yaml", text)) == {"a": one, "b": {"x": 1, "y": 3}, "c": [one, one]}


@pytest.mark.parametrize("text", ["&a [*a]", "{a: 1, a: 2}", "9" * 5000, "!!int many", "!!bool x", "[" * 2000])
def test_yaml_that_is_refused_in_a_file_is_text_as_a_value(text):
    assert parse_value(text) == text


def test_a_folder_is_no_yaml_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_yaml(tmp_path)


def test_a_yaml_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(InputError, match="binary.yaml"):
        read_yaml(tmp_path / "binary.yaml")


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.yaml: cannot be read"):
        Config("BIGRec", "ten", [str(tmp_path / "absent.yaml")])


def test_yaml_files_read_numbers_and_dates_as_recbole_does(write_yaml):
    text = "a: 1e-3\nb: 2024-10-11\nc: 5\nd: 1.5\ne: 1E5\nf:\n"
    expected = {"a": 0.001, "b": "2024-10-11", "c": 5, "d": 1.5, "e": 1e5, "f": None}
    assert read_yaml(write_yaml("x.yaml", text)) == expected
    assert read_yaml(write_yaml("empty.yaml", "# nothing\n")) == {}


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
    assert config["seed"] == 2020 and config["n_fewshot"] == 1024


def test_numpy_has_the_names_recbole_uses(ten):
    ten()
    assert np.float is np.float64 and np.str is np.str_ and np.bool(1) == np.True_
    assert isinstance(np.zeros(1, dtype=np.long)[0], np.integer)


@pytest.mark.parametrize("file", property_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_default_is_commented_with_its_type(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    starts = {found.group(1): line for line in lines if (found := re.match(r"([A-Za-z_0-9]+):", line))}
    assert set(starts) == set(read_yaml(file))
    comment = r"# \((str|int|float|bool|list|dict)( or \w+)*\) \S"
    assert [key for key, line in starts.items() if not re.search(comment, line)] == []


def test_every_default_is_accepted_by_its_check():
    assert {config_module.check_values(read_yaml(file)) for file in property_files()} == {None}


def test_the_properties_are_found_beside_the_package():
    assert (Path(properties_folder()) / "overall.yaml").is_file()
