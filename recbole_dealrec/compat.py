"""What lets RecBole 1.2.1 run on current NumPy, pandas and PyTorch, and this package on all transformers 5."""

import importlib
import inspect
import warnings
from collections.abc import Callable

import numpy as np

# RecBole 1.2.1 still uses these aliases, which NumPy 1.24 to 2.0 removed.
_REMOVED_ALIASES = {"bool": np.bool_, "float": np.float64, "int": np.int_, "long": np.int_, "str": np.str_}


def prepare_recbole() -> None:
    """Restore the NumPy aliases that RecBole uses, and silence RecBole's deprecation warnings."""
    for name, value in _REMOVED_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"recbole\.")


def import_recbole_models() -> None:
    """Import RecBole's sequential models without changing autograd's anomaly detection.

    RecBole's SINE enables it for the process, which makes every backward pass two to three times as slow.
    """
    import torch

    enabled = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(enabled)


def cache_name(forward: Callable) -> str:
    """Return the name of the cache among the arguments and outputs of a model of transformers.

    It is ``cache`` since transformers 5.24, ``past_key_values`` before and in code that a checkpoint brings along.
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
