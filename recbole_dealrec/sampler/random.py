"""Random: the baseline that every selection has to beat."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.base import FewShotSampler, register_sampler


@register_sampler("Random")
class RandomSampler(FewShotSampler):
    """Uniform without replacement."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        random = np.random.default_rng(self.config["seed"])
        return np.sort(random.choice(len(samples), self.config["n_fewshot"], replace=False))
