"""Random, the baseline that every selection has to beat, and Full, which selects nothing."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.few_shot import FewShotSampler, register_sampler


@register_sampler("Random")
class RandomSampler(FewShotSampler):
    """Uniform without replacement."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        random = np.random.default_rng(self.config["seed"])
        return np.sort(random.choice(len(samples), self.config["n_fewshot"], replace=False))


@register_sampler("Full")
class FullSampler(FewShotSampler):
    """All candidates, whatever ``n_fewshot`` is: the fine-tuning that few samples are to replace."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        return np.arange(len(samples))

    def check(self, n_candidates: int) -> None:
        """Accept a pool of any size."""
