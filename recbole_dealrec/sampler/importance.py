"""Samplers by importance to the surrogate: GraNd, EL2N, CCS."""

from recbole_dealrec.sampler.few_shot import register_sampler
from recbole_dealrec.sampler.score import CoverageSampler, HighestSampler


@register_sampler("GraNd")
class GraNdSampler(HighestSampler):
    """The samples with the largest gradient norm on the surrogate (Paul et al., NeurIPS 2021, arXiv 2107.07075).

    ``recbole_dealrec.scorer.GraNdScorer`` describes the parameters and the point of training.
    """

    needs = ("grand",)
    ranked_by = "grand"


@register_sampler("EL2N")
class EL2NSampler(HighestSampler):
    """The samples with the largest prediction error on the surrogate (Paul et al., NeurIPS 2021, arXiv 2107.07075).

    ``recbole_dealrec.scorer.EL2NScorer`` describes the items and the point of training.
    """

    needs = ("el2n",)
    ranked_by = "el2n"


@register_sampler("CCS")
class CCSSampler(CoverageSampler):
    """Coverage-centric coreset selection (Zheng et al., ICLR 2023): prune the hardest samples, stratify the rest.

    Hardness is EL2N, as in the DEALRec paper. ``hard_prune_ratio`` is 30 % by default, the authors' choice for their
    smallest coresets, 10 % of the data.
    """

    needs = ("el2n",)
    ranked_by = "el2n"
