"""RecBole's Config, which also finds this package's models and properties and refuses what it does not know."""

import ast
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_dealrec.compat import prepare_recbole

prepare_recbole()

import recbole  # noqa: E402
from recbole.config import Config as RecBoleConfig  # noqa: E402
from recbole.utils import argument_list  # noqa: E402

from recbole_dealrec.errors import InputError  # noqa: E402

SURROGATE_PREFIX = "surrogate_"
_RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
# Keys RecBole reads although none of its property files holds them.
_RECBOLE_KEYS = {
    "model", "dataset", "config_files", "config_file", "nproc", "world_size", "ip", "port", "group_offset", "offset",
    "local_rank", "reg_weight", "embedding_size", "valid_metric_bigger", "MODEL_TYPE", "loss_type", "require_pow",
    "transform", "numerical_features", "encoding", "tail_ratio",
}  # fmt: skip
# Keys that RecBole derives from others.
_DERIVED_KEYS = {"MODEL_TYPE", "local_rank", "valid_metric_bigger"}


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML as RecBole reads it: 1e-3 is a float, a date stays text."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


@cache
def properties_folder() -> Path:
    """Folder of the package's default properties: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def parse_value(text: str) -> Any:
    """Value of a command line or dictionary string: a YAML scalar or collection, else a Python literal, else the text.

    Nothing is evaluated. Quotes keep a text a text.
    """
    try:
        value = yaml.load(text, Loader=_YamlLoader)
    except yaml.YAMLError:
        value = text
    if value != text:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def parse_command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Configuration keys of a command line.

    Args:
        arguments: ``--key=value``, ``--key value`` or ``--flag`` (true) each; values as :func:`parse_value` reads them,
            but those of keys that hold text as they are.

    Raises:
        InputError: a word that belongs to no key, or a key given twice with different values.
    """
    parsed: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise InputError(f"command line: '{word}' is not an option; write --key=value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        value = _value_of(key, text)
        if parsed.get(key, value) != value:
            raise InputError(f"command line: --{key} is given twice with different values")
        parsed[key] = value
    return parsed


def _value_of(key: str, text: str) -> Any:
    return text if key in _TEXT_KEYS else parse_value(text)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Mapping in a YAML file (empty file: empty mapping).

    Raises:
        InputError: the file is absent, is not YAML, or holds no mapping.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_YamlLoader)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{file}: expected 'key: value' lines, found {type(content).__name__}")
    return content or {}


class Config(RecBoleConfig):
    """RecBole's configuration with this package's models, properties and checks.

    Precedence: overall < model < embedded LLM < dataset < sampler properties < ``config_file_list`` < ``config_dict``.
    ``run_recbole_dealrec.py`` hands over its command line as ``config_dict``; ``sys.argv`` is not read here, so a
    program that imports the package keeps its own command line.

    Args:
        model: model name or class.
        dataset: dataset name.
        config_file_list: YAML files, later ones win.
        config_dict: keys that win over all files.

    Raises:
        InputError: an unknown key (the closest known one is named), or a value that cannot be used.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            super().__init__(model, dataset, config_file_list, dict(config_dict or {}))
        except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"configuration: {' '.join(str(error).split())}") from error
        check_values(self.final_config_dict)

    def surrogate(self) -> "Config":
        """Configuration of the surrogate: RecBole's own for ``surrogate_model``, this run's data and evaluation, and
        every ``surrogate_<key>`` as ``<key>``."""
        shared = {*argument_list.general_arguments, *argument_list.dataset_arguments, "repeatable", "eval_args", "topk"}
        inherited = {key: value for key, value in self.final_config_dict.items() if key in shared}
        inherited["data_path"] = os.path.dirname(self["data_path"])
        own = {
            key: self[SURROGATE_PREFIX + key]
            for key in _surrogate_keys(self["surrogate_model"])
            if SURROGATE_PREFIX + key in self
        }
        return Config(self["surrogate_model"], self.dataset, config_dict={**inherited, **own})

    def resolved(self) -> dict[str, Any]:
        """All configuration keys as plain values; as a configuration file they give the same run again."""
        known = _known_keys(self["surrogate_model"])
        values = {key: value for key, value in self.final_config_dict.items() if key in known - _DERIVED_KEYS}
        values["data_path"] = os.path.dirname(self["data_path"])
        values["train_neg_sample_args"] = None  # as given: RecBole resolves it to a form it does not read
        return values

    def compatibility_settings(self) -> None:
        prepare_recbole()

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends to these module-level lists; copies keep one Config from changing the next.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _YamlLoader

    def _load_config_files(self, file_list: Iterable[str] | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list or ():
            merged.update(read_yaml(file))
        return merged

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return {key: _value_of(key, value) if isinstance(value, str) else value for key, value in config_dict.items()}

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        if isinstance(model, str):
            model = _own_models().get(model, model)
        try:
            name, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        except (ImportError, ValueError, AttributeError) as error:
            raise InputError(f"no model '{model}'; a model is named as its class, such as BIGRec or SASRec") from error
        return name, model_class, str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        if model in _own_models():
            for file in self._property_files(model, dataset):
                if file.is_file():
                    self.internal_config_dict.update(read_yaml(file))
        self._check_keys()

    def _property_files(self, model: str, dataset: str) -> Iterable[Path]:
        """The package's property files, weakest first; each choice may itself come from a weaker file."""
        folder = properties_folder()
        yield folder / "overall.yaml"
        yield folder / "model" / f"{model}.yaml"
        if self._chosen("llm_path") == "tiny":
            yield folder / "llm" / "tiny.yaml"
        yield folder / "dataset" / f"{dataset}.yaml"
        yield folder / "sampler" / f"{self._chosen('sampler')}.yaml"

    def _chosen(self, key: str) -> Any:
        return self.external_config_dict.get(key, self.internal_config_dict.get(key))

    def _check_keys(self) -> None:
        known = _known_keys(self._chosen("surrogate_model")) | set(self.internal_config_dict)
        for key in self.external_config_dict:
            if key not in known:
                closest = difflib.get_close_matches(str(key), sorted(known), n=1)
                hint = f"; did you mean '{closest[0]}'?" if closest else ""
                raise InputError(f"unknown configuration key '{key}'{hint}")

    def _set_default_parameters(self) -> None:
        super()._set_default_parameters()
        if str(self.final_config_dict["valid_metric"]).lower() == "loss":
            self.final_config_dict["valid_metric_bigger"] = False

    def _init_device(self) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        super()._init_device()
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["device"] = torch.device("cpu")


def _own_models() -> dict[str, type]:
    from recbole_dealrec.model import MODELS  # the models import this module's neighbours

    return MODELS


@cache
def _known_keys(surrogate_model: str | None) -> frozenset[str]:
    """Every key that RecBole or this package reads."""
    arguments = (argument_list.general_arguments, argument_list.training_arguments, argument_list.evaluation_arguments)
    keys = _RECBOLE_KEYS.union(*arguments, argument_list.dataset_arguments)
    files = [_RECBOLE_PROPERTIES / "overall.yaml", _RECBOLE_PROPERTIES / "dataset" / "sample.yaml"]
    for file in (*files, *properties_folder().glob("**/*.yaml")):
        keys.update(read_yaml(file))
    return frozenset(keys | {SURROGATE_PREFIX + key for key in _surrogate_keys(surrogate_model)})


@cache
def _surrogate_keys(surrogate_model: str | None) -> frozenset[str]:
    """Keys that the surrogate has for itself: those of its training and of its RecBole model file."""
    model_file = _RECBOLE_PROPERTIES / "model" / f"{surrogate_model}.yaml"
    model_keys = read_yaml(model_file) if model_file.is_file() else ()
    return frozenset({*argument_list.training_arguments, "eval_batch_size", "valid_metric", "metrics", *model_keys})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


_RATIO = ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
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


# key -> (what it has to be, test); RecBole's own keys are RecBole's to check.
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
}  # fmt: skip
# Keys whose strings are never read as anything else: {history} is no mapping here, and no is no falsehood.
_TEXT_KEYS = {"data_path", "checkpoint_dir"} | {
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
