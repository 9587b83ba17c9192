"""Checks of the given keys without importing RecBole, PyTorch or the classes that read the keys."""

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from recbole_dealrec.compat import recbole_names
from recbole_dealrec.config.command_line import converted
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.config.kind import CHECKPOINT
from recbole_dealrec.config.properties import (
    own_keys,
    own_keys_file,
    package_defaults,
    properties_folder,
    recbole_properties,
)
from recbole_dealrec.config.registry import MODELS, SAMPLERS, SURROGATE_PREFIX, key_of, load_all, registered_keys
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.config.yaml_file import read_yaml, read_yaml_files
from recbole_dealrec.errors import InputError, closest


def check_given(config_file_list: Sequence[str | Path] | None, config_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given keys of a run and this package's defaults, after all checks that need no data and no model.

    Args:
        config_file_list: YAML files; later ones override earlier ones.
        config_dict: keys that override all files.

    Raises:
        InputError: a file cannot be read; a model, sampler or key is unknown, or the model does not read it; a
            value is of the wrong kind; the dataset's name is a path; a checkpoint is neither a path nor an id.
    """
    files = read_yaml_files(config_file_list)
    named = {**read_yaml(properties_folder() / "overall.yaml"), **files, **config_dict}
    model, dataset = str(named["model"]), str(named["dataset"])
    if model not in MODELS:
        names = MODELS.names()
        known = f"{', '.join(names)} (others can be the surrogate_model)"
        raise InputError(f"no model '{model}'; choose one of {known}{closest(model, names)}")
    if Path(dataset).name != dataset or dataset in ("", ".", ".."):
        raise InputError(f"dataset '{dataset}': give only the name of its folder, and the parent folder as data_path")
    given = {**files, **converted(config_dict)}
    chosen = {**package_defaults(model, dataset, given), **given, "model": model, "dataset": dataset}
    surrogate = chosen["surrogate_model"]
    if not model_file(surrogate).is_file():
        raise unknown_model(surrogate)
    check_names(given, model, surrogate)
    check_own_keys(dataset, given, surrogate)
    for name, value in given.items():
        check_value(name, value)
    if not chosen["selection"]:  # the sampler that made a selection need not be installed
        SAMPLERS.check(chosen["sampler"])
    for name, value in given.items():
        if key_of(name).kind is CHECKPOINT and not names_checkpoint(value):
            raise InputError(f"{name} '{value}': no such file or folder")
    return chosen


def check_own_keys(dataset: str, given: Mapping[str, Any], surrogate_model: str | None) -> None:
    """Raise InputError if the dataset's own file has a key that nothing reads."""
    try:
        check_names(own_keys(dataset, given), None, surrogate_model)
    except InputError as error:
        raise InputError(f"{own_keys_file(dataset, given)}: {error}") from error


def check_names(
    given: Iterable[str], model: str | None, surrogate_model: str | None, others: Set[str] = frozenset()
) -> None:
    """Raise InputError for a key that nothing reads, or that only another model than the chosen one reads.

    Args:
        given: names of keys.
        model: the chosen model of this package; None for one of RecBole's.
        surrogate_model: the chosen surrogate model.
        others: further known keys.
    """
    known = known_keys(surrogate_model) | others
    if not known.issuperset(given):
        load_all()
        known |= known_keys(surrogate_model)
    for name in given:
        if model and (owner := _owner(name)) not in (None, model):
            raise InputError(f"configuration key '{name}' belongs to {owner}; {model} does not read it")
        if name not in known:
            raise InputError(f"unknown configuration key '{name}'{closest(name, known)}")


def check_value(name: str, value: Any) -> None:
    """Raise InputError if a value is not of the kind of its key."""
    if (key := key_of(name)) and not key.kind.accepts(value):
        raise InputError(f"configuration key '{name}' has to be {key.kind.description}, not {value!r}")


def check_last_step(last_step: str) -> None:
    """Raise InputError if ``last_step`` is none of ``LAST_STEPS``."""
    if last_step not in LAST_STEPS:
        raise InputError(f"no last_step '{last_step}'; choose one of {', '.join(LAST_STEPS)}")


def names_checkpoint(path: str) -> bool:
    """Return whether a string is an existing path, or could be the id of a checkpoint on a hub."""
    if Path(path).expanduser().exists():
        return True
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def model_file(model: str | None) -> Path:
    """Return the property file of a RecBole model; each model has one."""
    return recbole_properties() / "model" / f"{model}.yaml"


def unknown_model(model: str) -> InputError:
    """Return the error for a model that neither this package nor RecBole has."""
    names = [*MODELS.names(), *(file.stem for file in recbole_properties().glob("model/*.yaml"))]
    return InputError(f"no model '{model}'; give the name of its class, such as SASRec{closest(model, names)}")


def known_keys(surrogate_model: str | None) -> set[str]:
    """Return the keys of RecBole, of this package, of the surrogate, and of registered classes."""
    prefixed = (SURROGATE_PREFIX + key for key in surrogate_keys(surrogate_model))
    return {*KEYS, *prefixed, *(key.name for _, key in registered_keys())}


@cache
def surrogate_keys(surrogate_model: str | None) -> frozenset[str]:
    """Return the keys that ``surrogate_<key>`` can set: those of training and of the RecBole model file."""
    file = model_file(surrogate_model)
    model_keys = read_yaml(file) if file.is_file() else ()
    training = recbole_names("utils/argument_list.py")["training_arguments"]
    return frozenset({*training, "warmup_steps", "eval_batch_size", "valid_metric", "metrics", *model_keys})


@cache
def _owner(name: str) -> str | None:
    """Return the only model of this package that reads a key; None if others read it, too."""
    if name not in KEYS or name in _dataset_keys():
        return None
    place = KEYS["llm_path"].place if KEYS[name].place == "llm/tiny" else KEYS[name].place
    return place.removeprefix("model/") if place.startswith("model/") else None


@cache
def _dataset_keys() -> frozenset[str]:
    """Return the keys that property files of datasets set."""
    return frozenset().union(*(read_yaml(file) for file in properties_folder().glob("dataset/*.yaml")))
