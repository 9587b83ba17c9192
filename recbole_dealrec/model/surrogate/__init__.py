"""Surrogates: RecBole's sequential models, trained with a softmax over all items."""

from recbole_dealrec.model.surrogate.surrogate import (
    EveryPosition,
    SurrogateFiles,
    build_surrogate,
    restored_surrogate,
    settle_epochs,
    surrogate_batches,
    surrogate_loader,
)

__all__ = [
    "EveryPosition", "SurrogateFiles", "build_surrogate", "restored_surrogate", "settle_epochs", "surrogate_batches",
    "surrogate_loader",
]  # fmt: skip
