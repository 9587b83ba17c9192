"""RecBole's Config with this package's models and properties, and with checks of keys and values."""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils import argument_list

from recbole_dealrec.compat import import_recbole_models
from recbole_dealrec.config.command_line import converted
from recbole_dealrec.config.given import (
    check_names,
    check_own_keys,
    check_value,
    known_keys,
    surrogate_keys,
    unknown_model,
)
from recbole_dealrec.config.key import Key
from recbole_dealrec.config.properties import package_defaults
from recbole_dealrec.config.registry import MODELS, SAMPLERS, SCORERS, SURROGATE_PREFIX, key_of
from recbole_dealrec.config.rows import KEYS, RECBOLE_STATE
from recbole_dealrec.config.yaml_file import YamlLoader, read_yaml_files
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError, closest

MOST_EPOCHS = 200  # of a surrogate, if surrogate_epochs is auto


class Config(RecBoleConfig):
    """RecBole's configuration with this package's models, properties and checks.

    Precedence: defaults of registered keys < overall < model < tiny LLM < dataset < the dataset's own file
    ``<data_path>/<dataset>/<dataset>.yaml`` < sampler properties < ``config_file_list`` < ``config_dict``.
    ``sys.argv`` is not read; the command line arrives as ``config_dict``.

    Args:
        model: model name or class.
        dataset: dataset name.
        config_file_list: YAML files; later ones override earlier ones.
        config_dict: keys that override all files.

    Raises:
        InputError: an unknown key (the closest known one is named), or an invalid value. ``config[key]`` raises it for
            an unknown key, and returns None for a RecBole key that is not set.
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
            for key in surrogate_keys(self["surrogate_model"])
            if SURROGATE_PREFIX + key in self
        }
        if specific["epochs"] == "auto":
            specific["epochs"] = MOST_EPOCHS  # until the data are known
        cutoff = specific["valid_metric"].rpartition("@")[2]
        if cutoff.isdecimal() and int(cutoff) not in self["topk"]:
            inherited["topk"] = [*self["topk"], int(cutoff)]
        return Config(self["surrogate_model"], self.dataset, config_dict={**inherited, **specific})

    def settle(self, **values: Any) -> None:
        """Set keys that are ``auto`` to these values, which depend on the data."""
        self.final_config_dict.update({key: value for key, value in values.items() if self[key] == "auto"})

    def resolved(self) -> dict[str, Any]:
        """Return all configuration keys as plain values; as a configuration file, they reproduce the run."""
        known = known_keys(self._configured("surrogate_model"))
        given = {name for name in known if key_of(name).place != "derived"}
        values = {name: value for name, value in self.final_config_dict.items() if name in given}
        values["data_path"] = os.path.dirname(self["data_path"])
        values["train_neg_sample_args"] = None  # RecBole resolves it to a form that it cannot read
        return values

    def check_valid_metric(self) -> None:
        """Raise InputError if no evaluation gives ``valid_metric``.

        Raises:
            InputError: it is neither one of ``metrics`` at one of ``topk`` nor the ``loss`` of this package's models.
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
        return converted(config_dict)

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        if isinstance(model, str) and (entry := MODELS.find(model)):
            model = entry.registered_class
        try:
            name, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        except (ImportError, ValueError, AttributeError) as error:
            raise unknown_model(model) from error
        return name, model_class, str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        if self.is_llm_recommender:
            self.internal_config_dict.update(package_defaults(model, dataset, self.external_config_dict))
            for key in self._declared_keys(model):
                self.internal_config_dict.setdefault(key.name, copy.deepcopy(key.default))
        chosen, others = model if self.is_llm_recommender else None, set(self.internal_config_dict)
        check_names(self.external_config_dict, chosen, self._configured("surrogate_model"), others)
        if chosen:
            check_own_keys(dataset, self.external_config_dict, self._configured("surrogate_model"))

    def _configured(self, key: str) -> Any:
        return self.external_config_dict.get(key, self.internal_config_dict.get(key))

    def _declared_keys(self, model: str) -> Iterable[Key]:
        """Yield the keys declared with the model, with the sampler, and with the scorers that the sampler needs."""
        sampler = SAMPLERS.find(str(self._configured("sampler")))
        scorers = map(SCORERS.find, sampler.registered_class.needs if sampler else ())
        for entry in filter(None, (MODELS.find(model), sampler, *scorers)):
            yield from entry.keys

    def _get_final_config_dict(self) -> dict[str, Any]:
        values = super()._get_final_config_dict()
        for name, value in values.items():
            check_value(name, value)
            if (key := key_of(name)) and key.kind.path:
                values[name] = os.path.expanduser(value)
        if self.is_llm_recommender:
            self._check_effects(values)
        return values

    def _check_effects(self, values: Mapping[str, Any]) -> None:
        """Raise InputError if a given value that is not the default has no effect."""
        for name, value in self.external_config_dict.items():
            idle = key_of(name).idle
            if idle and _differs(value, self.internal_config_dict.get(name)) and idle.holds(values):
                raise InputError(f"configuration key '{name}' has no effect {idle.reason}; leave it out")

    def _set_default_parameters(self) -> None:
        super()._set_default_parameters()
        if str(self.final_config_dict["valid_metric"]).lower() == "loss":
            self.final_config_dict["valid_metric_bigger"] = False

    def _init_device(self) -> None:
        final, visible = self.final_config_dict, os.environ.get("CUDA_VISIBLE_DEVICES")
        several = processes.launched_world_size() > 1
        gpu_id = str(final["gpu_id"])
        # RecBole writes gpu_id into the variable, and CUDA reads that only once, at its first use.
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
    """Return the keys that RecBole may read although they are not set."""
    return RECBOLE_STATE.union(key.name for key in KEYS.values() if key.place in ("RecBole", "given", "derived"))


def _differs(given: Any, default: Any) -> bool:
    """Return whether a value, or any given entry of a mapping, is not the default."""
    if isinstance(given, dict) and isinstance(default, dict):
        # Any evaluation mode but full is refused, and RecBole rewrites the mode.
        return any(value != default.get(name) for name, value in given.items() if name != "mode")
    return given != default
