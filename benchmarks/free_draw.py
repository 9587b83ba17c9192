"""The draw that costs nothing: candidates whose targets follow the validation part's targets."""

import numpy as np

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.sampler import FewShotSampler, register_sampler


def target_frequency_weights(targets: np.ndarray, valid_targets: np.ndarray) -> np.ndarray:
    """Probability of each candidate: how often its target is a validation target, shared among those that have it.

    Args:
        targets: target of each candidate, int64 [n].
        valid_targets: targets of the validation part, int64 [m].

    Returns:
        float64 [n], sum 1; 0 where the target is no validation target.
    """
    length = max(targets.max(), valid_targets.max()) + 1
    wanted, offered = np.bincount(valid_targets, minlength=length), np.bincount(targets, minlength=length)
    weights = wanted[targets] / offered[targets]
    return weights / weights.sum()


@register_sampler("TargetFrequency")
class TargetFrequency(FewShotSampler):
    """Draw without replacement by ``target_frequency_weights``. Sees the validation part's targets."""

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        valid = CandidateSamples.from_dataset(load_splits(self.config).valid)
        weights = target_frequency_weights(samples.item_id, valid.item_id)
        random = np.random.default_rng(self.config["seed"])
        return np.sort(random.choice(len(samples), self.config["n_fewshot"], replace=False, p=weights))
