"""How often each candidate's target is a target of the validation part."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.scorer.scorer import VALID_TARGETS, Scorer, ScorerInputs, register_scorer


@register_scorer("target_frequency")
class TargetFrequencyScorer(Scorer):
    """Frequency of a candidate's target among validation targets, divided by the number of candidates with it.

    In a draw with these weights, the candidates' targets are distributed as the validation targets, as far as possible.

    Args:
        valid_targets: targets of the validation part as internal item ids, int64 [m].
    """

    sees = (VALID_TARGETS,)

    def __init__(self, valid_targets: np.ndarray) -> None:
        self.valid_targets = valid_targets

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "TargetFrequencyScorer":
        valid = inputs.splits.valid
        return cls(valid.inter_feat[valid.iid_field].numpy())

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return validation count over candidate count of each target, float64 [n]; 0 if no query has it."""
        length = max(samples.item_id.max(), self.valid_targets.max()) + 1
        wanted = np.bincount(self.valid_targets, minlength=length)
        offered = np.bincount(samples.item_id, minlength=length)
        return wanted[samples.item_id] / offered[samples.item_id]
