"""Scores of samples: influence, effort, and the scores of the baseline samplers."""

from recbole_dealrec.scorer.difficulty import (
    EL2NScorer,
    GraNdScorer,
    LossTrajectoryScorer,
    SurrogateRepresentationScorer,
)
from recbole_dealrec.scorer.effort import EffortScorer
from recbole_dealrec.scorer.effort_cache import EffortCache
from recbole_dealrec.scorer.gradient_norm import per_sample_gradient_norms
from recbole_dealrec.scorer.gradient_projection import GradientProjection
from recbole_dealrec.scorer.gradient_score import GradientSimilarityScorer, LLMGradientScorer
from recbole_dealrec.scorer.influence import InfluenceScorer
from recbole_dealrec.scorer.less import LESSScorer
from recbole_dealrec.scorer.partial_effort import PartialEffortScorer
from recbole_dealrec.scorer.representation import (
    LLMLossScorer,
    LLMRepresentationScorer,
    ValidDistanceScorer,
    ValidSimilarityScorer,
)
from recbole_dealrec.scorer.scorer import Scorer, ScorerInputs, get_scorer, register_scorer, scorer_names
from recbole_dealrec.scorer.solver import inverse_hvp
from recbole_dealrec.scorer.target_frequency import TargetFrequencyScorer

__all__ = [
    "EL2NScorer",
    "EffortCache",
    "EffortScorer",
    "GraNdScorer",
    "GradientProjection",
    "GradientSimilarityScorer",
    "InfluenceScorer",
    "LESSScorer",
    "LLMGradientScorer",
    "LLMLossScorer",
    "LLMRepresentationScorer",
    "LossTrajectoryScorer",
    "PartialEffortScorer",
    "Scorer",
    "ScorerInputs",
    "SurrogateRepresentationScorer",
    "TargetFrequencyScorer",
    "ValidDistanceScorer",
    "ValidSimilarityScorer",
    "get_scorer",
    "inverse_hvp",
    "per_sample_gradient_norms",
    "register_scorer",
    "scorer_names",
]
