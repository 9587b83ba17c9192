"""Gradients of the language model for each sample, projected, and their similarity to validation gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.memory import in_fitting_parts
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.effort import chosen_parameters, select_rows
from recbole_dealrec.scorer.gradient_projection import GradientProjection
from recbole_dealrec.scorer.gradient_way import fastest_gradients
from recbole_dealrec.scorer.representation import LLMScorer, drawn_rows, most_valid
from recbole_dealrec.scorer.scorer import (
    LLM,
    VALID_HISTORIES,
    VALID_TARGETS,
    Scorer,
    ScorerInputs,
    register_scorer,
)
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress

Batch = Mapping[str, Tensor]
Direction = Callable[[str, Tensor], Tensor]


@register_scorer("llm_gradient")
class LLMGradientScorer(LLMScorer):
    """Projected gradient of each sample's loss by the language model before fine-tuning.

    The gradient whose norm is the effort, over the parameters ``effort_parameters``, projected by
    ``GradientProjection``, whose signs are drawn by ``seed``.
    """

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return projected gradients, float32 [n, 1024].

        Raises:
            InputError: ``effort_parameters`` matches no trained parameter.
        """
        with projected_gradients(self.llm) as project:
            return self.checkpoint.score("llm_gradient", samples.rows, gradient_batches(self.llm, samples), project)


@register_scorer("gradient_similarity")
class GradientSimilarityScorer(Scorer):
    """Mean cosine of each sample's projected gradient and those of at most 1,000 validation samples.

    Args:
        llm: recommender before fine-tuning.
        valid_samples: samples of the validation part, of which at most 1,000 are drawn by ``seed``.
        gradients: projected gradients of the samples, ``llm_gradient``, float32 [n, d].
    """

    needs = (LLM, "llm_gradient")
    sees = (VALID_HISTORIES, VALID_TARGETS)

    def __init__(self, llm: LLMRecommender, valid_samples: CandidateSamples, gradients: np.ndarray) -> None:
        self.llm = llm
        self.valid_samples = valid_samples
        self.gradients = gradients

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "GradientSimilarityScorer":
        valid_samples = CandidateSamples.from_dataset(inputs.splits.valid)
        return cls(inputs.llm, valid_samples, inputs.scores["llm_gradient"])

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return mean cosines, float64 [n]."""
        with projected_gradients(self.llm) as project:
            valid = valid_gradients(self.llm, self.valid_samples, project, most_valid(1))
        lengths = np.linalg.norm(self.gradients, axis=1)
        # The mean of the cosines is the product with the mean of the unit vectors.
        products = self.gradients @ valid.mean(axis=0)
        return np.divide(products, lengths, out=np.zeros_like(products), where=lengths != 0).astype(np.float64)


@contextmanager
def projected_gradients(llm: LLMRecommender) -> Iterator[Callable[..., np.ndarray]]:
    """Yield a function that returns the projected gradients of a batch, float32 [B, d], for use inside the context.

    Its arguments are those of ``GradientProjection``, with a batch in place of the gradients. If memory is too small,
    it computes a batch in parts.

    Raises:
        InputError: ``effort_parameters`` matches no trained parameter.
    """
    names = chosen_parameters(llm.network, llm.config["effort_parameters"])
    projection = GradientProjection(llm.network, llm.config["seed"])
    with fastest_gradients(llm.trial())(llm.network, names) as gradients_of:

        def project(batch: Batch, direction: Direction | None = None) -> np.ndarray:
            compute = lambda part: projection(gradients_of(part), direction).float().cpu().numpy()  # noqa: E731
            return in_fitting_parts(compute, batch, len(batch["labels"]), select_rows, np.concatenate)

        yield project


def valid_gradients(
    llm: LLMRecommender, valid_samples: CandidateSamples, project: Callable[[Batch], np.ndarray], most: int
) -> np.ndarray:
    """Return unit vectors along the gradients of at most ``most`` validation samples, in random order, [m, d].

    Args:
        llm: recommender.
        valid_samples: samples of the validation part.
        project: returns the projected gradients of a batch.
        most: number of samples.
    """
    drawn = valid_samples[drawn_rows(len(valid_samples), most, llm.config["seed"])]
    return unit_rows(ScoreCheckpoint().score("", drawn.rows, llm.batches(drawn), project))


def gradient_batches(llm: LLMRecommender, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield indices and batches of samples, with a progress bar."""
    return with_progress(llm.batches(samples), len(samples), "LLM gradients", not llm.config["show_progress"])


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Divide each row by its length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths != 0)
