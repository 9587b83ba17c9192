"""RDS+: the candidates whose histories are most similar to those of validation queries."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler.few_shot import FewShotSampler, finite_rows, register_sampler
from recbole_dealrec.sampler.round_robin import round_robin


@register_sampler("RDS+")
class RDSPlusSampler(FewShotSampler):
    """The most similar hidden states to validation queries, which take turns (RDS+, Ivison et al., arXiv 2503.01807).

    The similarity is the cosine of hidden states of the language model before fine-tuning; each query in turn takes its
    most similar candidate that is not taken. The queries are validation histories, at most 1,000, drawn by the seed, in
    an order drawn by the seed: those that come first have more turns, or all of them. The selection depends on the
    validation part without its targets.

    There is a difference from the publication. The authors average the hidden states of all tokens of a sample, later
    tokens with larger weights; here a sample is the hidden state that ``LLMRecommender.represent`` returns for its
    history: BIGRec's last one behind the prompt, the mean of TIGER's encoder.
    """

    needs = ("valid_similarity",)

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        similarity, n_fewshot = self.scores["valid_similarity"], self.config["n_fewshot"]
        kept = finite_rows(np.isfinite(similarity).all(axis=1), n_fewshot)
        order = np.random.default_rng(self.config["seed"]).permutation(similarity.shape[1])[:n_fewshot]
        return np.sort(kept[round_robin(similarity[np.ix_(kept, order)], n_fewshot)])
