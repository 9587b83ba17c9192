"""Surrogates: RecBole's sequential models, and the softmax over all items that they are trained with."""

from recbole_dealrec.model.surrogate.surrogate import (
    EveryPosition,
    SurrogateFiles,
    build_surrogate,
    surrogate_batches,
    surrogate_loader,
)

__all__ = ["EveryPosition", "SurrogateFiles", "build_surrogate", "surrogate_batches", "surrogate_loader"]
