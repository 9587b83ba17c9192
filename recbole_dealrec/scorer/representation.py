"""How the language model represents samples, and how far they are from the validation samples."""

import numpy as np
import torch
from torch import nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples

_MOST_VALID = 1000
_MOST_DISTANCES = 500_000_000  # 2 GB of float32


class LLMRepresentationScorer:
    """Last hidden state of the language model, adapter off, for each sample's prompt; the target has no part in it.

    Args:
        llm: :class:`recbole_dealrec.model.BIGRec`.
    """

    def __init__(self, llm: nn.Module) -> None:
        self.llm = llm

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Hidden states, float32 [n, d]."""
        representation = np.empty((len(samples), self.llm.network.config.hidden_size), dtype=np.float32)
        for rows, hidden in self.llm.embed_samples(samples):
            representation[rows] = hidden.cpu().numpy()
        return representation


class ValidDistanceScorer:
    """Euclidean distance of each sample to each of some validation samples.

    A sample is represented by the language model's last hidden state, adapter off, for its prompt and target.

    Args:
        llm: :class:`recbole_dealrec.model.BIGRec`.
        valid_samples: of the validation part.
        config: reads ``seed``, which draws at most 1,000 of them, and fewer where there would be over 500 million
            distances.
    """

    def __init__(self, llm: nn.Module, valid_samples: CandidateSamples, config: Config) -> None:
        self.llm = llm
        self.valid_samples = valid_samples
        self.config = config

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Distances, float32 [n, m]."""
        goals = self._goals(min(_MOST_VALID, max(1, _MOST_DISTANCES // len(samples))))
        distance = np.empty((len(samples), len(goals)), dtype=np.float32)
        for rows, hidden in self.llm.embed_samples(samples, with_targets=True):
            distance[rows] = torch.cdist(hidden, goals).cpu().numpy()
        return distance

    def _goals(self, most: int) -> torch.Tensor:
        count = len(self.valid_samples)
        drawn = np.random.default_rng(self.config["seed"]).choice(count, min(count, most), replace=False)
        embedded = self.llm.embed_samples(self.valid_samples[np.sort(drawn)], with_targets=True)
        return torch.cat([hidden for _, hidden in embedded])
