"""What a sampler chose, and by what."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recbole_dealrec.store.run_folder import RunFolder

_FILE = "selection.npz"
_COLUMN = "column-"


@dataclass(frozen=True)
class Selection:
    """The chosen samples of a run.

    Attributes:
        indices: int64 [n_fewshot], among the candidates, sorted.
        columns: what the sampler keeps of each candidate, arrays [n] by name.
        ranked_by: name of the column that it ranks the candidates by, if any.
    """

    indices: np.ndarray
    columns: Mapping[str, np.ndarray]
    ranked_by: str | None

    def save(self, folder: RunFolder) -> None:
        """Keep the selection in a run folder."""
        columns = {_COLUMN + name: values for name, values in self.columns.items()}
        with folder.output(_FILE) as path, open(path, "wb") as stream:
            np.savez(stream, indices=self.indices, ranked_by=self.ranked_by or "", **columns)

    @classmethod
    def load(cls, folder: RunFolder) -> "Selection":
        """Return the selection that was kept in a run folder."""
        with np.load(folder / _FILE) as kept:
            columns = {name.removeprefix(_COLUMN): kept[name] for name in kept if name.startswith(_COLUMN)}
            return cls(kept["indices"], columns, str(kept["ranked_by"]) or None)
