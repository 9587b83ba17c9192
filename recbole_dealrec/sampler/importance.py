"""Samplers by importance to the surrogate, GraNd, EL2N, CCS, or by the loss of the language model."""

import numpy as np
from scipy.stats import rankdata

from recbole_dealrec.sampler.few_shot import register_sampler
from recbole_dealrec.sampler.score import CoverageSampler, HighestSampler, ScoreSampler, highest


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


class LossSampler(ScoreSampler):
    """Base class of samplers by the loss of the language model before fine-tuning (Marion et al., arXiv 2309.04564).

    The authors prune pre-training data by perplexity, to the highest, middle or lowest values.
    """

    needs = ("llm_loss",)
    ranked_by = "llm_loss"


@register_sampler("LossTop")
class LossTopSampler(LossSampler, HighestSampler):
    """The samples with the highest loss of the language model (Marion et al., arXiv 2309.04564)."""


@register_sampler("LossMiddle")
class LossMiddleSampler(LossSampler):
    """The samples around the median loss of the language model (Marion et al., arXiv 2309.04564)."""

    def select(self, score: np.ndarray) -> np.ndarray:
        rank = rankdata(np.where(np.isfinite(score), score, np.nan), method="ordinal", nan_policy="omit")
        return highest(-np.abs(rank - np.isfinite(score).sum() / 2 - 0.5), self.config["n_fewshot"])


@register_sampler("LossBottom")
class LossBottomSampler(LossSampler):
    """The samples with the lowest loss of the language model (Marion et al., arXiv 2309.04564)."""

    def select(self, score: np.ndarray) -> np.ndarray:
        return highest(-score, self.config["n_fewshot"])
