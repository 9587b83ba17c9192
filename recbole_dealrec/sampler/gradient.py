"""Samplers by the similarity of gradients to those of validation samples: LESS, and a diverse choice."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.few_shot import FewShotSampler, finite_rows, register_sampler
from recbole_dealrec.sampler.round_robin import round_robin


@register_sampler("LESS")
class LESSSampler(FewShotSampler):
    """The samples whose Adam steps resemble the gradients of validation samples (LESS, Xia et al., ICML 2024).

    ``recbole_dealrec.scorer.LESSScorer`` describes the similarities and how they differ from the publication. The
    validation samples take turns: each takes the most similar sample not yet taken. The authors take the highest maxima
    over the subtasks of a benchmark. A recommender's validation samples have no subtasks, and with a maximum over
    single samples a few of them could take the whole budget; at low budgets turns choose best (arXiv 2602.14696).
    The selection depends on the validation part, including its targets.
    """

    needs = ("less",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        scores, n_fewshot = self.scores["less"], self.config["n_fewshot"]
        self.columns = {"less": scores.max(axis=1)}
        kept = finite_rows(np.isfinite(scores).all(axis=1), n_fewshot)
        return np.sort(kept[round_robin(_rows(scores, kept), n_fewshot)])


@register_sampler("GradientDiverse")
class GradientDiverseSampler(FewShotSampler):
    """The samples whose gradients resemble those of validation samples and not those of each other.

    Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) with equal weights: the next sample has the largest
    difference of its mean cosine to the validation gradients and its mean cosine to the gradients of the samples chosen
    so far. Both are means, so both are on one scale, and the mean of the chosen unit vectors approaches that of the
    validation samples', as in kernel herding (Chen, Welling & Smola, UAI 2010). Similarity to target histories with a
    penalty for similarity among the chosen was tried for a recommender in arXiv 2604.07739.

    The gradients are those of the language model before fine-tuning, ``recbole_dealrec.scorer.LLMGradientScorer``. The
    selection depends on the validation part, including its targets.
    """

    needs = ("gradient_similarity", "llm_gradient")

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        similarity, gradients = self.scores["gradient_similarity"], self.scores["llm_gradient"]
        self.columns = {"gradient_similarity": similarity}
        n_fewshot = self.config["n_fewshot"]
        kept = finite_rows(np.isfinite(similarity) & np.isfinite(gradients).all(axis=1), n_fewshot)
        return np.sort(kept[diverse_choice(similarity[kept], _rows(gradients, kept), n_fewshot)])


def diverse_choice(similarity: np.ndarray, vectors: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Choose greedily by similarity minus the mean cosine to what is chosen already.

    Args:
        similarity: [n], finite.
        vectors: [n, d], finite; a vector of zeros has a cosine of 0 to all.
        n_fewshot: number of vectors to choose, at most n.

    Returns:
        int64 [n_fewshot], in the order of choice; of equal values, the first.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[lengths == 0] = 1
    margin, sums = similarity, np.zeros(len(vectors))
    free = np.ones(len(vectors), dtype=bool)
    chosen = np.empty(n_fewshot, dtype=np.int64)
    for count in range(n_fewshot):
        best = np.where(free, margin, -np.inf).argmax()
        chosen[count], free[best] = best, False
        sums += vectors @ (vectors[best] / lengths[best])
        margin = similarity - sums / lengths / (count + 1)
    return chosen


def _rows(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return some rows of an array that may be too large to copy without need."""
    return values if len(kept) == len(values) else values[kept]
