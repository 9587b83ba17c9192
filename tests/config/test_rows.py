"""One row for each key: complete, true of the defaults, and what refuses wrong values."""

from dataclasses import replace

import pytest
from recbole.utils import argument_list

from recbole_dealrec.config import ANY, COUNT, NOTHING, STEPS, Key
from recbole_dealrec.config.properties import properties_folder, property_files, read_section, recbole_properties
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError

WRONG_VALUES = {
    "seed": [-1, "x", 1.5, True, 2**32],
    "gpu_id": [{}, None, 1.5, [0, 1]],
    "use_gpu": ["maybe", None],
    "worker": [-1],
    "state": [5, None, "chatty"],
    "log_with": [5, [], "neptune"],
    "log_wandb": [1, None],
    "wandb_project": [None],
    "reproducibility": ["perhaps"],
    "show_progress": [None],
    "verbose": [None, 1],
    "surrogate_epochs": [-1, 1.5, "many", None, True],
    "data_path": [5, None, "a\0b", "\udcff"],
    "checkpoint_dir": ["", 5, None, "a\0b"],
    "shuffle": ["often"],
    "epochs": [-1, 2.5, "many", float("inf")],
    "train_batch_size": [0, "many"],
    "eval_batch_size": [0],
    "learner": ["adamm", 5, None, "sparse_adam"],
    "learning_rate": [0, -1.0, "fast", None, float("nan"), float("inf")],
    "weight_decay": [-0.1, None],
    "clip_grad_norm": [5, "x", {}, {"norm": 1}],
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
    "user_inter_num_interval": [5, "5", "[5]", "[a,b]", "[5,1]", "{5,10}", "[1,2]; [3"],
    "item_inter_num_interval": [[5, 10]],
    "rm_dup_inter": ["both", True],
    "val_interval": ["[4,inf)", {"rating": 4}, {"rating": "4"}],
    "filter_inter_by_user_or_item": ["no such", None],
    "surrogate_model": [None, 5],
    "surrogate_hidden_dropout_prob": [1],
    "surrogate_attn_dropout_prob": [-0.1],
    "surrogate_dropout_prob": ["half"],
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
    "selection": [5, ["saved"], False],
    "n_fewshot": [0, -5, 2.5, "all", True],
    "samples_per_user": [-1, 1.5],
    "selection_part": ["item", None, True],
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
    "grounding_popularity": [-1, "yes", None],
    "grounding_collaborative": [-0.5, True],
    "yardsticks": ["auto", 1],
    "untuned": ["perhaps", 1],
    "num_beams": [0],
    "max_prompt_length": [0],
    "max_new_tokens": [0],
    "max_history_titles": [0],
    "tokens_per_batch": [0],
    "prompt_noun": [5, None],
    "prompt_verb": [["seen"]],
    "prompt_instruction": [{"noun": None}],
    "prompt_item": [None],
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
    assert set(WRONG_VALUES) == {key.name for key in KEYS.values() if key.kind is not ANY}


@pytest.mark.parametrize("file", property_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_key_of_a_property_file_has_a_row(file):
    for option in (option for group in read_section(file, file.stem).groups for option in group.options):
        key = KEYS.get(option.key) or KEYS[option.key.removeprefix("surrogate_")]
        assert key.kind is ANY or option.type == key.kind.type, option.key


def test_every_key_of_recbole_has_a_row():
    arguments = (argument_list.general_arguments, argument_list.training_arguments, argument_list.evaluation_arguments)
    files = (read_yaml(recbole_properties() / name) for name in ("overall.yaml", "dataset/sample.yaml"))
    assert set().union(*arguments, argument_list.dataset_arguments, *files) <= KEYS.keys()


FOLDER = properties_folder()
PLACES = {
    "overall": [FOLDER / "overall.yaml"],
    "models": [*FOLDER.glob("model/*.yaml")],
    "model/BIGRec": [FOLDER / "model" / "BIGRec.yaml"],
    "model/TIGER": [FOLDER / "model" / "TIGER.yaml"],
    "llm/tiny": [FOLDER / "llm" / "tiny.yaml"],
    "RecBole": [recbole_properties() / "overall.yaml", recbole_properties() / "dataset" / "sample.yaml"],
}


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_a_default_stands_where_the_row_says(key):
    found = {place: [key.name in read_yaml(file) for file in files] for place, files in PLACES.items()}
    assert key.step in (*STEPS, NOTHING)
    assert key.place in (*PLACES, "given", "derived")
    if key.place in ("overall", "models"):
        assert all(found[key.place])
    elif key.place != "derived":  # no default of this package holds for all runs
        assert not any(found["overall"]) and not all(found["models"])
        assert any(found[key.place]) if key.place in PLACES else not any(map(any, found.values()))


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


@pytest.mark.parametrize("key", ["lora_dropout", "hard_prune_ratio"])
def test_a_ratio_may_be_zero_and_must_stay_below_one(key, ten):
    assert ten(**{key: 0})[key] == 0
    assert ten(**{key: 0.999})[key] == 0.999


def test_every_default_is_accepted_by_its_check():
    for file in property_files():
        assert [name for name, value in read_yaml(file).items() if not key_of(name).kind.accepts(value)] == []


def test_a_surrogates_key_follows_the_key_itself():
    expected = replace(KEYS["learning_rate"], name="surrogate_learning_rate", step="surrogate")
    assert key_of("surrogate_learning_rate") == expected
    assert key_of("surrogate_eval_batch_size").step == NOTHING
    assert (key_of("surrogate_hidden_size").kind, key_of("surrogate_hidden_size").step) == (ANY, "surrogate")
    assert key_of("hidden_size") is None


def test_a_key_changes_one_of_the_steps():
    with pytest.raises(ValueError, match="key 'x': no step 'selekt'; choose one of data, surrogate, "):
        Key("x", COUNT, "selekt")
