"""Few-shot samplers and their registry."""

from recbole_dealrec.sampler.cluster import RecRankerSampler, S2LSampler, TFDConSampler
from recbole_dealrec.sampler.coverage import coverage_enhanced_selection
from recbole_dealrec.sampler.dealrec import (
    DEALRecSampler,
    EffortOnlySampler,
    GreedySampler,
    InfluenceOnlySampler,
    overall_score,
)
from recbole_dealrec.sampler.facility import FacilityLocationSampler
from recbole_dealrec.sampler.few_shot import FewShotSampler, get_sampler, register_sampler, sampler_names
from recbole_dealrec.sampler.free_draw import (
    LongestSampler,
    PopularSampler,
    RecentSampler,
    RecentWindowSampler,
    TargetFrequencySampler,
)
from recbole_dealrec.sampler.goracs import GORACSSampler
from recbole_dealrec.sampler.gradient import GradientDiverseSampler, LESSSampler
from recbole_dealrec.sampler.importance import (
    CCSSampler,
    EL2NSampler,
    GraNdSampler,
    LossBottomSampler,
    LossMiddleSampler,
    LossTopSampler,
)
from recbole_dealrec.sampler.random import FullSampler, RandomSampler
from recbole_dealrec.sampler.rds import RDSPlusSampler
from recbole_dealrec.sampler.round_robin import round_robin

__all__ = [
    "CCSSampler",
    "DEALRecSampler",
    "EL2NSampler",
    "EffortOnlySampler",
    "FacilityLocationSampler",
    "FewShotSampler",
    "FullSampler",
    "GORACSSampler",
    "GraNdSampler",
    "GradientDiverseSampler",
    "GreedySampler",
    "InfluenceOnlySampler",
    "LESSSampler",
    "LongestSampler",
    "LossBottomSampler",
    "LossMiddleSampler",
    "LossTopSampler",
    "PopularSampler",
    "RDSPlusSampler",
    "RandomSampler",
    "RecRankerSampler",
    "RecentSampler",
    "RecentWindowSampler",
    "S2LSampler",
    "TFDConSampler",
    "TargetFrequencySampler",
    "coverage_enhanced_selection",
    "get_sampler",
    "overall_score",
    "register_sampler",
    "round_robin",
    "sampler_names",
]
