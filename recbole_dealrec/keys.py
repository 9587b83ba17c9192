"""What the values of this package's configuration keys have to be; RecBole's own keys are RecBole's to check."""

from collections.abc import Mapping
from typing import Any

from recbole_dealrec.errors import InputError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


_RATIO = ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
_SHARE = ("a number in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1)
_POSITIVE = ("a number above 0", lambda value: _is_number(value) and value > 0)
_NOT_NEGATIVE = ("a number of at least 0", lambda value: _is_number(value) and value >= 0)
_COUNT = ("a whole number of at least 1", lambda value: _is_count(value) and value >= 1)
_COUNT_OR_ZERO = ("a whole number of at least 0", lambda value: _is_count(value) and value >= 0)
_TEXT = ("a text", lambda value: isinstance(value, str) and value != "")
_ANY_TEXT = ("a text, quoted where it begins with a brace", lambda value: isinstance(value, str))
_PATTERNS = ("~ or a list of patterns", lambda value: value is None or _is_text_list(value))
_FLAG = ("True or False", lambda value: isinstance(value, bool))


def _one_of(*choices: str) -> tuple:
    return f"one of {', '.join(choices)}", lambda value: value in choices


# key -> (what it has to be, test)
_CHECKS = {
    "seed": _COUNT_OR_ZERO,
    "epochs": _COUNT_OR_ZERO,
    "train_batch_size": _COUNT,
    "eval_batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "sampler": _TEXT,
    "title_field": _TEXT,
    "llm_path": _TEXT,
    "llm_dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "trust_remote_code": _FLAG,
    "tiny_steps": _COUNT,
    "prompt_noun": _ANY_TEXT,
    "prompt_verb": _ANY_TEXT,
    "prompt_instruction": _ANY_TEXT,
    "prompt_input": _ANY_TEXT,
    "prompt_layout": _ANY_TEXT,
    "lora_r": _COUNT,
    "lora_alpha": _POSITIVE,
    "lora_dropout": _RATIO,
    "lora_target_modules": ("a list of module names", lambda value: _is_text_list(value) and bool(value)),
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
    "lissa_damping": ("~ or a number above 0", lambda value: value is None or _is_number(value) and value > 0),
    "curvature": _one_of("hessian", "gauss_newton"),
    "n_surrogates": _COUNT,
    "influence_parameters": _PATTERNS,
    "influence_on": _one_of("train", "valid"),
    "effort_parameters": (
        "last, all or a list of patterns", lambda value: value in ("last", "all") or _is_text_list(value)
    ),
    "effort_sample_ratio": _SHARE,
    "train_on_inputs": _FLAG,
    "micro_batch_size": _COUNT,
    "warmup_steps": _COUNT_OR_ZERO,
    "mixed_precision": ('one of "no" (quoted in YAML), fp16, bf16', lambda value: value in ("no", "fp16", "bf16")),
    "n_valid": _COUNT_OR_ZERO,
    "grounding": _one_of("embedding", "trie"),
    "grounding_popularity": _NOT_NEGATIVE,
    "num_beams": _COUNT,
    "max_prompt_length": _COUNT,
    "max_new_tokens": _COUNT,
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
TEXT_KEYS = {"data_path", "checkpoint_dir"} | {
    key for key, (wanted, _) in _CHECKS.items() if wanted.startswith(("a text", "one of"))
}


def check_values(values: Mapping[str, Any]) -> None:
    """Check the values of this package's keys.

    Raises:
        InputError: the first key whose value cannot be used.
    """
    for key, (wanted, is_valid) in _CHECKS.items():
        if key in values and not is_valid(values[key]):
            raise InputError(f"configuration key '{key}' has to be {wanted}, not {values[key]!r}")
