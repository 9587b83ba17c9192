"""RecBole's Config with this package's models and properties, and with checks of keys and values."""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils import argument_list

from recbole_dealrec.compat import import_recbole_models
from recbole_dealrec.config.command_line import plain_value, value_of
from recbole_dealrec.config.key import Key
from recbole_dealrec.config.properties import RECBOLE_PROPERTIES, properties_folder
from recbole_dealrec.config.registry import (
    MODELS,
    SAMPLERS,
    SCORERS,
    SURROGATE_PREFIX,
    key_of,
    load_all,
    registered_keys,
)
from recbole_dealrec.config.rows import KEYS, RECBOLE_STATE
from recbole_dealrec.config.yaml_file import YamlLoader, read_yaml, read_yaml_files
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError, closest


class Config(RecBoleConfig):
    """RecBole's configuration with this package's models, properties and checks.

    Precedence: defaults of registered keys < overall < model < tiny LLM < dataset < the dataset's own file
    ``<data_path>/<dataset>/<dataset>.yaml`` < sampler properties < ``config_file_list`` < ``config_dict``.
    ``sys.argv`` is not read; the command line arrives as ``config_dict``.

    Args:
        model: model name or class.
        dataset: dataset name.
        config_file_list: YAML files, later ones win.
        config_dict: keys that win over all files.

    Raises:
        InputError: an unknown key (the closest known one is named), or an invalid value. ``config[key]`` raises it for
            an unknown key; for a key of RecBole's that is not set it is None.
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

    def __getitem__(self, name: str) -> Any:
        values = self.final_config_dict
        if name not in values and name not in _recbole_keys():
            hint = closest(name, values)
            raise InputError(f"configuration key '{name}' does not exist for {self.model}{hint}")
        return values.get(name)

    @property
    def is_llm_recommender(self) -> bool:
        """Return whether the model is a recommender of this package or derived from one, not one of RecBole's."""
        return issubclass(self.model_class, MODELS.base)

    def surrogate(self) -> "Config":
        """Return the surrogate's configuration.

        It has RecBole's defaults of ``surrogate_model``, this run's data and evaluation keys, and every
        ``surrogate_<key>`` as ``<key>``; ``topk`` includes the cut-off of its ``valid_metric``.
        """
        shared = {*argument_list.general_arguments, *argument_list.dataset_arguments, "repeatable", "eval_args", "topk"}
        inherited = {key: value for key, value in self.final_config_dict.items() if key in shared}
        inherited["data_path"] = os.path.dirname(self["data_path"])
        specific = {
            key: self[SURROGATE_PREFIX + key]
            for key in _surrogate_keys(self["surrogate_model"])
            if SURROGATE_PREFIX + key in self
        }
        cutoff = specific["valid_metric"].rpartition("@")[2]
        if cutoff.isdecimal() and int(cutoff) not in self["topk"]:
            inherited["topk"] = [*self["topk"], int(cutoff)]
        return Config(self["surrogate_model"], self.dataset, config_dict={**inherited, **specific})

    def resolved(self) -> dict[str, Any]:
        """Return all configuration keys as plain values, which as a configuration file reproduce the run."""
        known = _known_keys(self._configured("surrogate_model"))
        given = {name for name in known if key_of(name).place != "derived"}
        values = {name: value for name, value in self.final_config_dict.items() if name in given}
        values["data_path"] = os.path.dirname(self["data_path"])
        values["train_neg_sample_args"] = None  # RecBole resolves it to a form that it cannot read
        return values

    def check_valid_metric(self) -> None:
        """Raise InputError if no evaluation gives ``valid_metric``.

        Raises:
            InputError: it is none of ``metrics`` at one of ``topk``, nor the ``loss`` of this package's models.
        """
        pairs = [(metric, cutoff) for metric in self["metrics"] for cutoff in self["topk"]]
        given = [metric if metric.lower() == "gauc" else f"{metric}@{cutoff}" for metric, cutoff in pairs]
        if self.is_llm_recommender:
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
        return read_yaml_files(file_list)

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        values = {key: plain_value(value) for key, value in config_dict.items()}
        return {key: value_of(key, value) if isinstance(value, str) else value for key, value in values.items()}

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        if isinstance(model, str) and (entry := MODELS.find(model)):
            model = entry.registered_class
        try:
            name, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        except (ImportError, ValueError, AttributeError) as error:
            hint = closest(model, [*MODELS, *(file.stem for file in RECBOLE_PROPERTIES.glob("model/*.yaml"))])
            raise InputError(f"no model '{model}'; a model is named as its class, such as SASRec{hint}") from error
        return name, model_class, str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        if self.is_llm_recommender:
            for file in self._property_files(model, dataset):
                if file.is_file():
                    keys = read_yaml(file)
                    self._check_known(keys, f"{file}: ")
                    self.internal_config_dict.update(keys)
            for key in self._declared_keys(model):
                self.internal_config_dict.setdefault(key.name, copy.deepcopy(key.default))
        self._check_keys(model)

    def _property_files(self, model: str, dataset: str) -> Iterable[Path]:
        """Return the property files, weakest first; each choice may itself come from a weaker file."""
        folder = properties_folder()
        yield folder / "overall.yaml"
        yield folder / "model" / f"{model}.yaml"
        if self._configured("llm_path") == "tiny":
            yield folder / "llm" / "tiny.yaml"
        yield folder / "dataset" / f"{dataset}.yaml"
        yield Path(str(self._configured("data_path"))).expanduser() / dataset / f"{dataset}.yaml"
        yield folder / "sampler" / f"{self._configured('sampler')}.yaml"

    def _configured(self, key: str) -> Any:
        return self.external_config_dict.get(key, self.internal_config_dict.get(key))

    def _declared_keys(self, model: str) -> Iterable[Key]:
        """Yield the keys declared with the model, with the sampler, and with the scorers that the sampler needs."""
        sampler = SAMPLERS.find(str(self._configured("sampler")))
        scorers = map(SCORERS.find, sampler.registered_class.needs if sampler else ())
        for entry in filter(None, (MODELS.find(model), sampler, *scorers)):
            yield from entry.keys

    def _check_keys(self, model: str) -> None:
        for name in self.external_config_dict:
            if self.is_llm_recommender and (owner := _owner(name)) not in (None, model):
                raise InputError(f"configuration key '{name}' belongs to {owner}; {model} does not read it")
        self._check_known(self.external_config_dict)

    def _check_known(self, keys: Iterable[str], place: str = "") -> None:
        """Raise InputError if a key, which stands in ``place``, is unknown."""
        known = _known_keys(self._configured("surrogate_model")) | set(self.internal_config_dict)
        if not known.issuperset(keys):
            load_all()
            known |= _known_keys(self._configured("surrogate_model"))
        for name in keys:
            if name not in known:
                raise InputError(f"{place}unknown configuration key '{name}'{closest(name, known)}")

    def _get_final_config_dict(self) -> dict[str, Any]:
        values = super()._get_final_config_dict()
        for name, value in values.items():
            if (key := key_of(name)) and not key.kind.accepts(value):
                raise InputError(f"configuration key '{name}' has to be {key.kind.description}, not {value!r}")
            if key and key.kind.path:
                values[name] = os.path.expanduser(value)
        if self.is_llm_recommender:
            self._check_effects(values)
        return values

    def _check_effects(self, values: Mapping[str, Any]) -> None:
        """Raise InputError if a value that is given, and is not the default, changes nothing."""
        for name, value in self.external_config_dict.items():
            idle = key_of(name).idle
            if idle and _differs(value, self.internal_config_dict.get(name)) and idle.holds(values):
                raise InputError(f"configuration key '{name}' changes nothing {idle.reason}; leave it out")

    def _set_default_parameters(self) -> None:
        super()._set_default_parameters()
        if str(self.final_config_dict["valid_metric"]).lower() == "loss":
            self.final_config_dict["valid_metric_bigger"] = False

    def _init_device(self) -> None:
        final, visible = self.final_config_dict, os.environ.get("CUDA_VISIBLE_DEVICES")
        several = processes.launched_world_size() > 1
        gpu_id = str(final["gpu_id"])
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


@cache
def _recbole_keys() -> frozenset[str]:
    """Return the keys that RecBole may ask for although they are not set."""
    return RECBOLE_STATE.union(key.name for key in KEYS.values() if key.place in ("RecBole", "given", "derived"))


def _known_keys(surrogate_model: str | None) -> set[str]:
    """Return the keys of RecBole, of this package, of the surrogate, and of registered classes."""
    prefixed = (SURROGATE_PREFIX + key for key in _surrogate_keys(surrogate_model))
    return {*KEYS, *prefixed, *(key.name for _, key in registered_keys())}


@cache
def _surrogate_keys(surrogate_model: str | None) -> frozenset[str]:
    """Return the keys that ``surrogate_<key>`` can set: those of training and of the RecBole model file."""
    model_file = RECBOLE_PROPERTIES / "model" / f"{surrogate_model}.yaml"
    model_keys = read_yaml(model_file) if model_file.is_file() else ()
    return frozenset({*argument_list.training_arguments, "eval_batch_size", "valid_metric", "metrics", *model_keys})


@cache
def _owner(name: str) -> str | None:
    """Return the model of this package that alone reads a key; None where others do."""
    if name not in KEYS or any(name in read_yaml(file) for file in properties_folder().glob("dataset/*.yaml")):
        return None
    place = KEYS["llm_path"].place if KEYS[name].place == "llm/tiny" else KEYS[name].place
    return place.removeprefix("model/") if place.startswith("model/") else None


def _differs(given: Any, default: Any) -> bool:
    """Return whether a value, or an entry of a mapping that is given in part, is not the default."""
    if isinstance(given, dict) and isinstance(default, dict):
        # The evaluation's mode is full or refused, and RecBole rewrites it.
        return any(value != default.get(name) for name, value in given.items() if name != "mode")
    return given != default
