"""Compatibility of RecBole 1.2.1 with current NumPy, pandas and PyTorch, and of this package with transformers 5."""

import importlib
import importlib.util
import inspect
import runpy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recbole_dealrec.errors import InputError

# RecBole 1.2.1 still uses these aliases, which NumPy 1.24 to 2.0 removed.
_REMOVED_ALIASES = {"bool": np.bool_, "float": np.float64, "int": np.int_, "long": np.int_, "str": np.str_}


RECBOLE_COMMAND = "pip install --no-deps recbole==1.2.1"


def prepare_recbole() -> None:
    """Restore the NumPy aliases that RecBole uses, and silence RecBole's deprecation warnings."""
    for name, value in _REMOVED_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"recbole\.")


@cache
def recbole_folder() -> Path:
    """Return the folder of the RecBole package without importing it.

    Raises:
        InputError: RecBole is not installed.
    """
    found = importlib.util.find_spec("recbole")
    if found is None:  # on Python 3.12 and later it is not a dependency of this package
        raise InputError(f"RecBole is not installed: {RECBOLE_COMMAND}")
    return Path(found.origin).parent


def recbole_names(module: str) -> dict[str, Any]:
    """Return the names that a RecBole module defines, without importing its package, which imports PyTorch.

    Args:
        module: path in RecBole's folder; the module must not import other RecBole modules.
    """
    return runpy.run_path(str(recbole_folder() / module))


def import_recbole_models() -> None:
    """Import RecBole's sequential models without changing autograd's anomaly detection.

    RecBole's SINE enables it for the process, which makes every backward pass two to three times as slow.
    """
    import torch

    enabled = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(enabled)


def cache_name(forward: Callable) -> str:
    """Return the name of the cache in the arguments and outputs of a transformers model.

    It is ``cache`` since transformers 5.24, and ``past_key_values`` in older versions and in a checkpoint's own code.
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
