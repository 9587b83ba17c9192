"""The one place that makes RecBole 1.2.1 run as it should on current NumPy, pandas and PyTorch."""

import importlib
import warnings

import numpy as np

# RecBole 1.2.1 still uses these aliases, which NumPy 1.24 to 2.0 removed.
_REMOVED_ALIASES = {"bool": np.bool_, "float": np.float64, "int": np.int_, "long": np.int_, "str": np.str_}


def prepare_recbole() -> None:
    """Give NumPy back the aliases that RecBole uses, and silence deprecations in RecBole that no user can mend."""
    for name, value in _REMOVED_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"recbole\.")


def import_recbole_models() -> None:
    """Import RecBole's sequential models and leave autograd as it was.

    RecBole's SINE switches autograd's anomaly detection on for the whole process: every backward pass then checks every
    gradient for NaN, and takes two to three times as long.
    """
    import torch

    wanted = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(wanted)
