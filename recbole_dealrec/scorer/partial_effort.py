"""Effort computed by the language model for a part of the samples, and predicted for the rest."""

from logging import getLogger

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict
from torch import nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.scorer.difficulty import losses_and_error_norms, measure_samples
from recbole_dealrec.scorer.effort import EffortScorer
from recbole_dealrec.scorer.scorer import LLM, SURROGATE, Scorer, ScorerInputs, register_scorer

LEAST_SPEARMAN = 0.5  # held-out correlation below which the language model scores all samples
FEWEST_SCORED = 100  # samples; a fold trains on four fifths of them, enough for a few leaves
_FOLDS = 5


@register_scorer("effort")
class PartialEffortScorer(Scorer):
    """Effort of a stratified part of the samples, and a regressor's prediction for the rest.

    The features of the regressor (gradient-boosted trees) are the surrogate's loss and gradient norm, the influence,
    the number of items in the history, and the numbers of history tokens that the language model reads and of target
    tokens that it writes. Cross-validation on the part measures how well the regressor ranks held-out samples, and
    Spearman's correlation is logged; below ``LEAST_SPEARMAN`` the language model scores the rest, too. The paper scores
    all samples.

    Args:
        effort: scores samples by the language model.
        surrogate: trained RecBole sequential model.
        influence: influence of each sample, float64 [n].
        config: reads ``seed`` and ``effort_sample_ratio``, the share of samples in the part, which has at least
            ``FEWEST_SCORED`` samples if there are as many.
    """

    def __init__(
        self,
        effort: EffortScorer,
        surrogate: nn.Module,
        influence: np.ndarray,
        config: Config,
    ) -> None:
        self.effort = effort
        self.surrogate = surrogate
        self.influence = influence
        self.config = config

    @classmethod
    def needed(cls, config: Config) -> tuple[str, ...]:
        return (LLM,) if config["effort_sample_ratio"] == 1 else (SURROGATE, "influence", LLM)

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> Scorer:
        effort = EffortScorer.from_inputs(inputs)
        if inputs.config["effort_sample_ratio"] == 1:
            return effort
        return cls(effort, inputs.surrogates[0], inputs.scores["influence"], inputs.config)

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the computed or predicted effort of each sample, float64 [n].

        Raises:
            InputError: as ``EffortScorer.score``.
        """
        count = part_size(len(samples), self.config["effort_sample_ratio"])
        if count == len(samples):
            return self.effort.score(samples)
        part = stratified_part(self.influence, count, self.config["seed"])
        rest = np.delete(np.arange(len(samples)), part)
        scores = np.empty(len(samples))
        scores[part] = self.effort.score(samples[part])
        features = self.features(samples)
        predicted = self._predict(features[part], scores[part], features[rest])
        scores[rest] = self.effort.score(samples[rest]) if predicted is None else predicted
        return scores

    def features(self, samples: CandidateSamples) -> np.ndarray:
        """Return loss, gradient norm, influence, items in the history, tokens read and written, float64 [n, 6]."""
        features = np.empty((len(samples), 6))
        # The gradient of the logits needs no backward pass, and those of the parameters are linear in it.
        on_surrogate = measure_samples(self.surrogate, samples, self.config, losses_and_error_norms, "Surrogate losses")
        features[:, :2] = on_surrogate
        features[:, 2] = self.influence
        features[:, 3] = samples.item_length
        features[:, 4:] = self.effort.llm.token_lengths(samples)
        return features

    def _predict(self, x: np.ndarray, y: np.ndarray, x_rest: np.ndarray) -> np.ndarray | None:
        """Predict the rest's effort from features ``x`` and effort ``y`` of the part; None if the prediction is bad."""
        seed, known = self.config["seed"], np.isfinite(y)
        regressor = HistGradientBoostingRegressor(learning_rate=0.05, random_state=seed)
        spearman = _held_out_spearman(regressor, x[known], y[known], seed)
        getLogger().info(
            f"effort: {len(x)} samples scored, {len(x_rest)} left; held-out Spearman of the prediction {spearman:.3f}"
        )
        if spearman >= LEAST_SPEARMAN:
            return regressor.fit(x[known], y[known]).predict(x_rest)
        getLogger().warning(
            f"effort cannot be predicted: held-out Spearman {spearman:.3f} is below {LEAST_SPEARMAN}; "
            "the rest is scored too; set effort_sample_ratio to 1 to save the attempt"
        )
        return None


def part_size(n: int, ratio: float) -> int:
    """Return how many of ``n`` samples the language model scores."""
    return min(n, max(FEWEST_SCORED, round(ratio * n)))


def stratified_part(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw one sample from each of ``count`` equally long ranges of ranks by ``values``; int64 [count], sorted."""
    order = np.argsort(values, kind="stable")
    edges = np.arange(count + 1) * len(values) // count
    return np.sort(order[np.random.default_rng(seed).integers(edges[:-1], edges[1:])])


def _held_out_spearman(regressor: HistGradientBoostingRegressor, x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Return Spearman's correlation of ``y`` with its cross-validated predictions; NaN for too few samples."""
    if len(y) < _FOLDS:
        return np.nan
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    return float(spearmanr(cross_val_predict(regressor, x, y, cv=folds), y).statistic)
