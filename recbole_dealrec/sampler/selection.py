"""The chosen samples of a run, and their scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import RunFolder

_FILE = "selection.npz"
_COLUMN = "column-"


@dataclass(frozen=True)
class Selection:
    """The chosen samples of a run, with the sampler's columns.

    Attributes:
        indices: int64 [n_fewshot], indices of candidates, sorted.
        columns: the sampler's values of each candidate, arrays [n] by name.
        ranked_by: name of the column that the sampler ranks the candidates by; None if it ranks by none.

    Raises:
        InputError: a sampler's indices are not ascending, or it has no column ``ranked_by``.
    """

    indices: np.ndarray
    columns: Mapping[str, np.ndarray]
    ranked_by: str | None

    def __post_init__(self) -> None:
        if not (np.diff(self.indices) > 0).all():
            raise InputError("the sampler's sample() returns indices that are not ascending, or one twice; sort them")
        if self.ranked_by and self.ranked_by not in self.columns:
            names = ", ".join(self.columns) or "none"
            raise InputError(f"the sampler's ranked_by is '{self.ranked_by}', but sample() sets the columns: {names}")

    def table(self, dataset: SequentialDataset, samples: CandidateSamples) -> pd.DataFrame:
        """Return a row for each candidate: user, target, the sampler's columns, and whether it is selected."""
        columns = {
            "user": dataset.id2token(dataset.uid_field, samples.user_id),
            "target": dataset.id2token(dataset.iid_field, samples.item_id),
            **self.columns,
            "selected": np.isin(np.arange(len(samples)), self.indices).astype(int),
        }
        return pd.DataFrame(columns)

    def save(self, folder: RunFolder) -> None:
        """Save the selection in a run folder."""
        columns = {_COLUMN + name: values for name, values in self.columns.items()}
        with folder.output(_FILE) as path, open(path, "wb") as stream:
            np.savez(stream, indices=self.indices, ranked_by=self.ranked_by or "", **columns)

    @classmethod
    def load(cls, folder: RunFolder) -> "Selection":
        """Return the selection that is saved in a run folder."""
        with np.load(folder / _FILE) as arrays:
            columns = {name.removeprefix(_COLUMN): arrays[name] for name in arrays if name.startswith(_COLUMN)}
            return cls(arrays["indices"], columns, str(arrays["ranked_by"]) or None)
