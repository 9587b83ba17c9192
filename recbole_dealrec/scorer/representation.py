"""How the language model represents samples, and how far they are from the validation samples."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.recommender import LLMRecommender

_MOST_VALID = 1000
_MOST_DISTANCES = 500_000_000  # 2 GB of float32


class LLMRepresentationScorer:
    """What the language model makes of each history before it is fine-tuned; the target has no part in it.

    Args:
        llm: recommender, whose ``embed_samples`` says which hidden state this is.
    """

    def __init__(self, llm: LLMRecommender) -> None:
        self.llm = llm

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Hidden states, float32 [n, d]."""
        representation = np.empty((len(samples), self.llm.network.config.hidden_size), dtype=np.float32)
        for rows, hidden in _embedded(self.llm, samples):
            representation[rows] = hidden.cpu().numpy()
        return representation


class ValidDistanceScorer:
    """Euclidean distance of each sample to each of some validation samples.

    A sample is represented by what the language model, before it is fine-tuned, makes of its history and target.

    Args:
        llm: recommender, whose ``embed_samples`` says which hidden state this is.
        valid_samples: of the validation part.
        config: reads ``seed``, which draws at most 1,000 of them, and fewer where there would be over 500 million
            distances.
    """

    def __init__(self, llm: LLMRecommender, valid_samples: CandidateSamples, config: Config) -> None:
        self.llm = llm
        self.valid_samples = valid_samples
        self.config = config

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Distances, float32 [n, m]."""
        goals = self._goals(min(_MOST_VALID, max(1, _MOST_DISTANCES // len(samples))))
        distance = np.empty((len(samples), len(goals)), dtype=np.float32)
        for rows, hidden in _embedded(self.llm, samples, with_targets=True):
            distance[rows] = torch.cdist(hidden, goals).cpu().numpy()
        return distance

    def _goals(self, most: int) -> Tensor:
        count = len(self.valid_samples)
        drawn = np.random.default_rng(self.config["seed"]).choice(count, min(count, most), replace=False)
        embedded = self.llm.embed_samples(self.valid_samples[np.sort(drawn)], with_targets=True)
        return torch.cat([hidden for _, hidden in embedded])


def _embedded(
    llm: LLMRecommender, samples: CandidateSamples, with_targets: bool = False
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows and representations of ``embed_samples``, with its progress."""
    hidden = not llm.config["show_progress"]
    with tqdm(total=len(samples), desc="LLM representations", ncols=100, disable=hidden) as progress:
        for rows, states in llm.embed_samples(samples, with_targets):
            yield rows, states
            progress.update(len(rows))
