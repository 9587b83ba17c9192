"""Similarity of each sample's Adam step to the gradients of validation samples, as LESS measures it."""

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.gradient_score import (
    Batch,
    gradient_batches,
    projected_gradients,
    unit_rows,
    valid_gradients,
)
from recbole_dealrec.scorer.representation import LLMScorer, drawn_rows, most_valid
from recbole_dealrec.scorer.scorer import VALID_HISTORIES, VALID_TARGETS, ScorerInputs, register_scorer
from recbole_dealrec.scorer.warm_up import warmed_up
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint

WARM_UP_SAMPLES = 128


@register_scorer("less")
class LESSScorer(LLMScorer):
    """Cosine of each sample's Adam step and the gradient of each of at most 1,000 validation samples.

    This is the influence of LESS (Xia et al., ICML 2024, arXiv 2402.04333, section 3): the language model is first
    trained on a few of the samples; then a sample is represented by the change that one step of Adam on it alone would
    make, with the moments of that training, and a validation sample by its gradient. Both are projected by
    ``GradientProjection``. The step is exact: a parameter's gradients are formed for a batch, one parameter at a time.

    The authors train on 5 % of the data and add up the cosines at the end of each of four epochs; here 128 samples
    drawn by ``seed`` serve, and the end of the fourth epoch. Their vectors have 8,192 numbers, these 1,024. The
    parameters are ``effort_parameters``; the model is as before when the scores are there.

    Args:
        llm: recommender before fine-tuning.
        valid_samples: samples of the validation part, of which at most 1,000 are drawn by ``seed``, fewer if there
            would be more than 500 million cosines.
        checkpoint: stores the cosines while they are computed; the training before them is repeated.
    """

    sees = (VALID_HISTORIES, VALID_TARGETS)

    def __init__(
        self, llm: LLMRecommender, valid_samples: CandidateSamples, checkpoint: ScoreCheckpoint | None = None
    ) -> None:
        super().__init__(llm, checkpoint)
        self.valid_samples = valid_samples

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "LESSScorer":
        valid_samples = CandidateSamples.from_dataset(inputs.splits.valid)
        return cls(inputs.llm, valid_samples, ScoreCheckpoint(inputs.folder))

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return cosines, float32 [n, m].

        Raises:
            InputError: ``effort_parameters`` matches no trained parameter, or a loss of the training is not finite.
        """
        few = samples[drawn_rows(len(samples), WARM_UP_SAMPLES, self.llm.config["seed"])]
        with warmed_up(self.llm, few) as moments, projected_gradients(self.llm) as project:
            valid = valid_gradients(self.llm, self.valid_samples, project, most_valid(len(samples)))

            def cosines(batch: Batch) -> np.ndarray:
                return unit_rows(project(batch, moments.direction)) @ valid.T

            return self.checkpoint.score("less", samples.rows, gradient_batches(self.llm, samples), cosines)
