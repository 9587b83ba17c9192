"""Random, a uniform draw, and Full, all candidates."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.few_shot import FewShotSampler, register_sampler


@register_sampler("Random")
class RandomSampler(FewShotSampler):
    """Uniform draw without replacement."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        random = np.random.default_rng(self.config["seed"])
        return np.sort(random.choice(len(samples), self.config["n_fewshot"], replace=False))


@register_sampler("Full")
class FullSampler(FewShotSampler):
    """All candidates; ``n_fewshot`` has no effect."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        return np.arange(len(samples))

    def check(self, samples: CandidateSamples) -> None:
        """Accept any number of candidates."""
