"""Data: candidate samples, titles, prompts, splits."""

from recbole_dealrec.data.candidates import CandidateSamples, Fields
from recbole_dealrec.data.dataset import (
    QueryDataLoader,
    SequentialDataset,
    SpareBatch,
    Splits,
    check_cutoffs,
    load_splits,
    train_loader,
)
from recbole_dealrec.data.prompt import Prompt, PromptTemplate

__all__ = [
    "CandidateSamples",
    "Fields",
    "Prompt",
    "PromptTemplate",
    "QueryDataLoader",
    "SequentialDataset",
    "SpareBatch",
    "Splits",
    "check_cutoffs",
    "load_splits",
    "train_loader",
]
