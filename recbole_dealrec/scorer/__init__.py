"""Scores of samples: influence on the empirical risk, effort of the language model."""

from recbole_dealrec.scorer.effort import EffortScorer
from recbole_dealrec.scorer.gradient_norm import per_sample_gradient_norms
from recbole_dealrec.scorer.influence import InfluenceScorer
from recbole_dealrec.scorer.partial_effort import PartialEffortScorer
from recbole_dealrec.scorer.solver import inverse_hvp

__all__ = ["EffortScorer", "InfluenceScorer", "PartialEffortScorer", "inverse_hvp", "per_sample_gradient_norms"]
