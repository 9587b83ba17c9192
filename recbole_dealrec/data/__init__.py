"""Data: candidate samples, titles, prompts, splits."""

from importlib import import_module

_MODULES = {
    "candidates": ("CandidateSamples", "Fields"),
    "dataset": ("SequentialDataset", "check_cutoffs"),
    "loader": ("QueryDataLoader", "SpareBatch", "train_loader"),
    "prompt": ("Prompt", "PromptTemplate"),
    "splits": ("Splits", "load_splits"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    # The conversion of files needs no PyTorch, which these modules import.
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
