"""RecBole's Config, which also finds this package's models and properties and refuses what it does not know."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import recbole
import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils import argument_list

from recbole_dealrec.compat import import_recbole_models
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.keys import SURROGATE_PREFIX, check_values
from recbole_dealrec.values import YamlLoader, read_yaml, value_of

_RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
# Keys RecBole reads although none of its property files holds them.
_RECBOLE_KEYS = {
    "model", "dataset", "config_files", "config_file", "nproc", "world_size", "ip", "port", "group_offset", "offset",
    "local_rank", "reg_weight", "embedding_size", "valid_metric_bigger", "MODEL_TYPE", "loss_type", "require_pow",
    "transform", "numerical_features", "encoding", "tail_ratio",
}  # fmt: skip
# Keys that RecBole derives from others.
_DERIVED_KEYS = {"MODEL_TYPE", "local_rank", "valid_metric_bigger"}


@cache
def property_files() -> list[Path]:
    """Files of keys with their defaults, in order; those under ``accelerate`` are Accelerate's configurations."""
    folder = properties_folder()
    return sorted({*folder.glob("**/*.yaml")} - {*folder.glob("accelerate/*.yaml")})


def properties_folder() -> Path:
    """Folder of the package's default properties: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


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
            raise InputError(f"configuration: {error}") from error

    def surrogate(self) -> "Config":
        """Configuration of the surrogate: RecBole's own for ``surrogate_model``, this run's data and evaluation, and
        every ``surrogate_<key>`` as ``<key>``; ``topk`` with what its ``valid_metric`` needs."""
        shared = {*argument_list.general_arguments, *argument_list.dataset_arguments, "repeatable", "eval_args", "topk"}
        inherited = {key: value for key, value in self.final_config_dict.items() if key in shared}
        inherited["data_path"] = os.path.dirname(self["data_path"])
        own = {
            key: self[SURROGATE_PREFIX + key]
            for key in _surrogate_keys(self["surrogate_model"])
            if SURROGATE_PREFIX + key in self
        }
        cutoff = own["valid_metric"].rpartition("@")[2]
        if cutoff.isdecimal() and int(cutoff) not in self["topk"]:
            inherited["topk"] = [*self["topk"], int(cutoff)]
        return Config(self["surrogate_model"], self.dataset, config_dict={**inherited, **own})

    def resolved(self) -> dict[str, Any]:
        """All configuration keys as plain values; as a configuration file they give the same run again."""
        known = _known_keys(self["surrogate_model"])
        values = {key: value for key, value in self.final_config_dict.items() if key in known - _DERIVED_KEYS}
        values["data_path"] = os.path.dirname(self["data_path"])
        values["train_neg_sample_args"] = None  # as given: RecBole resolves it to a form it does not read
        return values

    def check_valid_metric(self) -> None:
        """Refuse a ``valid_metric`` that an evaluation does not give.

        Raises:
            InputError: it is none of ``metrics`` at one of ``topk``, nor the ``loss`` of this package's models.
        """
        pairs = [(metric, cutoff) for metric in self["metrics"] for cutoff in self["topk"]]
        given = [metric if metric.lower() == "gauc" else f"{metric}@{cutoff}" for metric, cutoff in pairs]
        if self.model in _own_models():
            given.append("loss")
        if self["valid_metric"].lower() not in map(str.lower, given):
            listed = ", ".join(given)
            raise InputError(f"valid_metric '{self['valid_metric']}' is not measured; metrics and topk give {listed}")

    def compatibility_settings(self) -> None:
        import_recbole_models()

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends to these module-level lists; copies keep one Config from changing the next.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return YamlLoader

    def _load_config_files(self, file_list: Iterable[str] | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list or ():
            merged.update(read_yaml(file))
        return merged

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return {key: value_of(key, value) if isinstance(value, str) else value for key, value in config_dict.items()}

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
        self._check_keys(model)

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

    def _check_keys(self, model: str) -> None:
        known = _known_keys(self._chosen("surrogate_model")) | set(self.internal_config_dict)
        elsewhere = _keys_elsewhere(model) if model in _own_models() else {}
        for key in self.external_config_dict:
            if key in elsewhere:
                raise InputError(f"configuration key '{key}' belongs to {elsewhere[key]}; {model} does not read it")
            if key not in known:
                closest = difflib.get_close_matches(str(key), sorted(known), n=1)
                hint = f"; did you mean '{closest[0]}'?" if closest else ""
                raise InputError(f"unknown configuration key '{key}'{hint}")

    def _get_final_config_dict(self) -> dict[str, Any]:
        values = super()._get_final_config_dict()
        check_values(values)
        return values

    def _set_default_parameters(self) -> None:
        super()._set_default_parameters()
        if str(self.final_config_dict["valid_metric"]).lower() == "loss":
            self.final_config_dict["valid_metric_bigger"] = False

    def _init_device(self) -> None:
        final, visible = self.final_config_dict, os.environ.get("CUDA_VISIBLE_DEVICES")
        several = processes.launched_world_size() > 1
        gpu_id = final["gpu_id"]
        gpu_id = ",".join(map(str, gpu_id)) if isinstance(gpu_id, tuple) else str(gpu_id)
        # RecBole writes gpu_id into the variable, and CUDA reads that once, at its first use.
        if visible is not None:
            final["gpu_id"] = visible
        elif several:
            final["gpu_id"] = ",".join(map(str, range(processes.launched_local_world_size())))
        super()._init_device()
        final["gpu_id"] = gpu_id
        if visible is None and several:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        if not final["use_gpu"]:
            final["device"] = torch.device("cpu")
        elif final["device"].type == "cuda" and several:
            final["device"] = torch.device("cuda", processes.launched_local_rank())
        if processes.launched_rank() > 0:
            final["state"], final["show_progress"] = "error", False


def _own_models() -> dict[str, type]:
    from recbole_dealrec.model import MODELS  # the models import this module's neighbours

    return MODELS


@cache
def _recbole_keys() -> frozenset[str]:
    """Every key that RecBole reads, whichever the model."""
    arguments = (argument_list.general_arguments, argument_list.training_arguments, argument_list.evaluation_arguments)
    files = (_RECBOLE_PROPERTIES / "overall.yaml", _RECBOLE_PROPERTIES / "dataset" / "sample.yaml")
    return frozenset(_RECBOLE_KEYS.union(*arguments, argument_list.dataset_arguments, *map(read_yaml, files)))


@cache
def _known_keys(surrogate_model: str | None) -> frozenset[str]:
    """Every key that RecBole or this package reads."""
    own = map(read_yaml, property_files())
    return _recbole_keys().union(*own, (SURROGATE_PREFIX + key for key in _surrogate_keys(surrogate_model)))


@cache
def _keys_elsewhere(model: str) -> dict[str, str]:
    """Keys that only other models of this package read, and which; datasets' and RecBole's keys are left to all."""
    folder = properties_folder()
    read = {file.stem: set(read_yaml(file)) for file in folder.glob("model/*.yaml")}
    for keys in read.values():
        if "llm_path" in keys:
            keys.update(read_yaml(folder / "llm" / "tiny.yaml"))
    shared = _recbole_keys().union(read.pop(model, set()), *map(read_yaml, folder.glob("dataset/*.yaml")))
    return {key: other for other, keys in read.items() for key in keys - shared}


@cache
def _surrogate_keys(surrogate_model: str | None) -> frozenset[str]:
    """Keys that the surrogate has for itself: those of its training and of its RecBole model file."""
    model_file = _RECBOLE_PROPERTIES / "model" / f"{surrogate_model}.yaml"
    model_keys = read_yaml(model_file) if model_file.is_file() else ()
    return frozenset({*argument_list.training_arguments, "eval_batch_size", "valid_metric", "metrics", *model_keys})
