"""What the values of configuration keys have to be: this package's own, and those of RecBole's that it checks late."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from recbole_dealrec.errors import InputError

SURROGATE_PREFIX = "surrogate_"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # neither a path nor a file can hold these
_OPTIMISERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")  # RecBole takes any other name for adam
_EVALUATION = {"split", "order", "group_by", "mode"}


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _is_list(value: Any, is_entry: Callable[[Any], bool] = _is_text) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_columns(value: Any) -> bool:
    return isinstance(value, dict) and all(columns == "*" or _is_list(columns) for columns in value.values())


def _is_evaluation(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= _EVALUATION and isinstance(value.get("mode", ""), str | dict)


def _or_none(wanted: str, is_valid: Callable[[Any], bool]) -> tuple:
    return f"~ or {wanted}", lambda value: value is None or is_valid(value)


_RATIO = ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
_SHARE = ("a number in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1)
_POSITIVE = ("a number above 0", lambda value: _is_number(value) and value > 0)
_NOT_NEGATIVE = ("a number of at least 0", lambda value: _is_number(value) and value >= 0)
_COUNT = ("a whole number of at least 1", _is_count)
_COUNT_OR_ZERO = ("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
_TEXT = ("a text", lambda value: _is_text(value) and value != "")
_ANY_TEXT = ("a text, quoted where it begins with a brace", _is_text)
_PATTERNS = _or_none("a list of patterns", _is_list)
_NAMES = _or_none("a list of names", _is_list)
_COLUMNS = _or_none("a mapping from suffixes of files to lists of columns", _is_columns)
_INTERVAL = _or_none("an interval such as [5,inf)", _is_text)
_FLAG = ("True or False", lambda value: isinstance(value, bool))


def _one_of(*choices: str) -> tuple:
    return f"one of {', '.join(choices)}", lambda value: value in choices


# key -> (what it has to be, test)
_CHECKS = {
    "seed": ("a whole number from 0 to 4294967295", lambda value: _is_whole(value) and 0 <= value < 2**32),
    "gpu_id": (
        "a number, or several separated by commas",
        lambda value: _is_text(value) or _is_whole(value) or isinstance(value, tuple) and all(map(_is_whole, value)),
    ),
    "use_gpu": _FLAG,
    "worker": _COUNT_OR_ZERO,
    "state": _TEXT,
    "reproducibility": _FLAG,
    "show_progress": _FLAG,
    "data_path": _ANY_TEXT,
    "checkpoint_dir": _TEXT,
    "shuffle": _FLAG,
    "epochs": _COUNT_OR_ZERO,
    "train_batch_size": _COUNT,
    "eval_batch_size": _COUNT,
    "learner": (
        f"one of {', '.join(_OPTIMISERS)}", lambda value: _is_text(value) and value.lower() in _OPTIMISERS
    ),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "clip_grad_norm": _or_none("a mapping of arguments", lambda value: isinstance(value, dict)),
    "eval_step": _COUNT_OR_ZERO,
    "stopping_step": _COUNT_OR_ZERO,
    "loss_decimal_place": _COUNT_OR_ZERO,
    "metrics": (
        "the name of a metric or a list of them", lambda value: _is_text(value) or _is_list(value) and bool(value)
    ),
    "topk": (
        "a whole number of at least 1 or a list of them",
        lambda value: _is_count(value) or _is_list(value, _is_count) and bool(value),
    ),
    "valid_metric": _TEXT,
    "metric_decimal_place": _COUNT_OR_ZERO,
    "eval_args": (f"a mapping with the keys {', '.join(sorted(_EVALUATION))}", _is_evaluation),
    "field_separator": _TEXT,
    "seq_separator": _TEXT,
    "USER_ID_FIELD": _TEXT,
    "ITEM_ID_FIELD": _TEXT,
    "TIME_FIELD": _TEXT,
    "LIST_SUFFIX": _TEXT,
    "ITEM_LIST_LENGTH_FIELD": _TEXT,
    "MAX_ITEM_LIST_LENGTH": _COUNT,
    "load_col": _COLUMNS,
    "unload_col": _COLUMNS,
    "benchmark_filename": _NAMES,
    "alias_of_user_id": _NAMES,
    "alias_of_item_id": _NAMES,
    "user_inter_num_interval": _INTERVAL,
    "item_inter_num_interval": _INTERVAL,
    "surrogate_model": _TEXT,
    "sampler": _TEXT,
    "title_field": _TEXT,
    "llm_path": _TEXT,
    "llm_dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "llm_quantization": ("~, 4bit or 8bit", lambda value: value in (None, "4bit", "8bit")),
    "llm_device_map": ("~ or auto", lambda value: value in (None, "auto")),
    "trust_remote_code": _FLAG,
    "tiny_steps": _COUNT,
    "prompt_noun": _ANY_TEXT,
    "prompt_verb": _ANY_TEXT,
    "prompt_instruction": _ANY_TEXT,
    "prompt_input": _ANY_TEXT,
    "prompt_layout": _ANY_TEXT,
    "chat_template": _FLAG,
    "lora_r": _COUNT,
    "lora_alpha": _POSITIVE,
    "lora_dropout": _RATIO,
    "lora_target_modules": ("a list of module names", lambda value: _is_list(value) and bool(value)),
    "n_fewshot": _COUNT,
    "samples_per_user": _COUNT_OR_ZERO,
    "effort_weight": _NOT_NEGATIVE,
    "n_groups": _COUNT,
    "hard_prune_ratio": _RATIO,
    "hessian_solver": _one_of("cg", "lissa", "exact"),
    "hessian_damping": _POSITIVE,
    "hessian_samples": _COUNT_OR_ZERO,
    "lissa_depth": _COUNT,
    "lissa_scale": _POSITIVE,
    "lissa_repeats": _COUNT,
    "lissa_damping": _or_none("a number above 0", lambda value: _is_number(value) and value > 0),
    "curvature": _one_of("hessian", "gauss_newton"),
    "n_surrogates": _COUNT,
    "influence_parameters": _PATTERNS,
    "influence_on": _one_of("train", "valid"),
    "effort_parameters": (
        "last, all or a list of patterns", lambda value: value in ("last", "all") or _is_list(value)
    ),
    "effort_sample_ratio": _SHARE,
    "train_on_inputs": _FLAG,
    "micro_batch_size": _COUNT,
    "warmup_steps": _COUNT_OR_ZERO,
    "mixed_precision": ('one of "no" (quoted in YAML), fp16, bf16', lambda value: value in ("no", "fp16", "bf16")),
    "n_valid": _COUNT_OR_ZERO,
    "n_test": _COUNT_OR_ZERO,
    "grounding": _one_of("embedding", "trie"),
    "grounding_popularity": _NOT_NEGATIVE,
    "num_beams": _COUNT,
    "max_prompt_length": _COUNT,
    "max_new_tokens": _or_none("a whole number of at least 1", _is_count),
    "max_history_titles": _COUNT,
    "tokens_per_batch": _COUNT,
    "semantic_id": _one_of("rkmeans", "rqvae"),
    "rqvae_steps": _COUNT,
    "text_encoder_path": _TEXT,
    "max_history_items": _COUNT,
    "t5_num_layers": _COUNT,
    "t5_num_heads": _COUNT,
    "t5_d_model": _COUNT,
    "t5_d_kv": _COUNT,
    "t5_d_ff": _COUNT,
    "t5_dropout_rate": _RATIO,
    "scoring": _one_of("beam", "exact"),
}  # fmt: skip
# Keys whose strings are never read as anything else: {history} is no mapping here, and no is no falsehood.
TEXT_KEYS = {key for key, (wanted, _) in _CHECKS.items() if wanted.startswith(("a text", "one of"))}


def check_values(values: Mapping[str, Any]) -> None:
    """Check the values of keys, and of the same keys of the surrogate.

    Raises:
        InputError: the first key whose value cannot be used.
    """
    for key, (wanted, is_valid) in _CHECKS.items():
        for name in (key, SURROGATE_PREFIX + key):
            if name in values and not is_valid(values[name]):
                raise InputError(f"configuration key '{name}' has to be {wanted}, not {values[name]!r}")
