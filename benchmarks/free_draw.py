"""The free draw: few-shot samples whose targets follow the validation part's, at no cost of surrogates or scores."""

import numpy as np

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.sampler import FewShotSampler, register_sampler


@register_sampler("TargetFrequency")
class TargetFrequency(FewShotSampler):
    """Without replacement, by how often the target is one of the validation part, for each candidate that has it."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        wanted = CandidateSamples.from_dataset(load_splits(self.config).valid).item_id
        wanted, there = (np.bincount(items, minlength=len(samples.titles)) for items in (wanted, samples.item_id))
        weights = (wanted / np.maximum(there, 1))[samples.item_id]
        random = np.random.default_rng(self.config["seed"])
        return np.sort(random.choice(len(samples), self.config["n_fewshot"], replace=False, p=weights / weights.sum()))
