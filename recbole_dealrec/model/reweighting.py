"""Re-weighting of a ranking by popularity and by a collaborative model's scores, as BIGRec does (arXiv 2308.08434)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from safetensors.torch import save_file
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.model.surrogate import restored_surrogate
from recbole_dealrec.store.files import read_json, write_json

_EXPONENTS = "exponents.json"


@dataclass
class Reweighting:
    """Divide 1 + the distance of an item by (1 + popularity)^a (1 + collaborative score)^b, all min-max normalised.

    BIGRec uses the distance without 1 +, so its nearest item stays first for all a and b.

    The distance is the recommender's score, negated and normalised per query over the items that it ranks.

    Attributes:
        counts: occurrences of each item in the training part, int64 [n_items].
        surrogates: collaborative models, whose scores are averaged; none if there is no collaborative score.
        popularity: exponent a.
        collaborative: exponent b.
    """

    counts: np.ndarray
    surrogates: list[SequentialRecommender] = field(default_factory=list)
    popularity: float = 0.0
    collaborative: float = 0.0

    @classmethod
    def restored(cls, config: Config, catalogue: Catalogue, folder: Path) -> "Reweighting":
        """Return the re-weighting that ``save`` wrote, given the configuration and the catalogue of its run."""
        files = sorted(folder.glob("*.safetensors"))
        surrogates = [restored_surrogate(config.surrogate(), catalogue, file) for file in files]
        return cls(catalogue.item_counts, surrogates, **read_json(folder / _EXPONENTS))

    def save(self, folder: Path) -> None:
        """Write the exponents, and the surrogates if their scores are used, to a new folder."""
        folder.mkdir()
        write_json(folder / _EXPONENTS, {"popularity": self.popularity, "collaborative": self.collaborative})
        for number, surrogate in enumerate(self.surrogates if self.collaborative else []):
            save_file(surrogate.state_dict(), folder / f"surrogate-{number}.safetensors")

    def __call__(self, scores: Tensor, interaction: Interaction) -> Tensor:
        """Return the re-weighted scores of all items, [B, n_items]; an item with -inf keeps it."""
        return reweighted(scores, *self.factors(scores, interaction), self.popularity, self.collaborative)

    @torch.no_grad()
    def factors(self, scores: Tensor, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Return popularity, [n_items], and collaborative scores, [B, n_items], in [0, 1]; 0 without surrogates."""
        counts = torch.from_numpy(self.counts).to(scores)
        popularity = _normalised(counts[None, 1:])[0]
        collaborative = torch.zeros_like(scores[:, 1:])
        for surrogate in self.surrogates:
            surrogate.eval()
            ranked = surrogate.full_sort_predict(_history(surrogate, interaction)).view_as(scores)[:, 1:]
            collaborative += _normalised(ranked.to(scores)) / len(self.surrogates)
        pad = torch.nn.functional.pad
        return pad(popularity, (1, 0)), pad(collaborative, (1, 0))


@torch.no_grad()
def ranks_histories(surrogate: SequentialRecommender) -> bool:
    """Return whether a surrogate can rank the items from the history alone; some also need the user."""
    one = torch.ones(1, 1, dtype=torch.int64, device=surrogate.device)
    interaction = Interaction({surrogate.ITEM_SEQ: one, surrogate.ITEM_SEQ_LEN: one[0]})
    try:
        surrogate.eval().full_sort_predict(interaction)
    except KeyError:
        return False
    return True


def _history(surrogate: SequentialRecommender, interaction: Interaction) -> Interaction:
    """Return the history alone, so that rankings are the same with and without a user."""
    return Interaction({name: interaction[name] for name in (surrogate.ITEM_SEQ, surrogate.ITEM_SEQ_LEN)})


def reweighted(scores: Tensor, popularity: Tensor, collaborative: Tensor, a: float, b: float) -> Tensor:
    """Return minus the logarithms of the re-weighted distances, float64 [B, n_items]; -inf stays.

    Logarithms distinguish distances that high exponents bring close to 0.

    Args:
        scores: scores of the recommender, -inf for items that it does not rank, [B, n_items].
        popularity: normalised popularity, [n_items].
        collaborative: normalised collaborative scores, [B, n_items].
        a: exponent of the popularity.
        b: exponent of the collaborative scores.
    """
    nearness = -torch.log1p(_normalised(-scores).double())
    weight = a * torch.log1p(popularity.double()) + b * torch.log1p(collaborative.double())
    return torch.where(torch.isfinite(scores), nearness + weight, -torch.inf)


def _normalised(values: Tensor) -> Tensor:
    """Return values scaled to [0, 1] per row over those that are finite, float32 [B, n]."""
    values = values.float()
    finite = torch.isfinite(values)
    low = torch.where(finite, values, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(finite, values, -torch.inf).amax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
