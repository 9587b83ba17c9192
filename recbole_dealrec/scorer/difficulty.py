"""Scores on surrogates: error, gradient norm, losses during training, representation."""

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.surrogate import EveryPosition, surrogate_batches
from recbole_dealrec.scorer.scorer import SURROGATE, SURROGATES, TRAINING, Scorer, ScorerInputs, register_scorer
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress


class _MeanScorer(Scorer):
    """Base class of scorers that average over several surrogates."""

    needs = (SURROGATES,)

    def __init__(self, surrogates: Sequence[nn.Module], config: Config) -> None:
        self.surrogates = surrogates
        self.config = config

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "_MeanScorer":
        return cls(inputs.surrogates, inputs.config)

    @classmethod
    def check(cls, surrogate: nn.Module, config: Config, samples: CandidateSamples) -> None:
        cls([surrogate], config).score(samples)

    def _mean(self, samples: CandidateSamples, measure: Callable, description: str) -> np.ndarray:
        values = [measure_samples(model, samples, self.config, measure, description) for model in self.surrogates]
        return np.mean(values, axis=0)


@register_scorer("el2n")
class EL2NScorer(_MeanScorer):
    """EL2N, ||p - y||_2 with p the softmax over all items and y the one-hot target (Paul et al., arXiv 2107.07075).

    Larger is harder. The authors average over several models early in training; here the models are the trained
    surrogates, as in the DEALRec paper, ``n_surrogates`` of them.

    Args:
        surrogates: RecBole sequential models.
        config: reads ``show_progress`` and the names of the data's columns.
    """

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the mean error of each sample, float64 [n]."""
        return self._mean(samples, _error_norms, "EL2N")


@register_scorer("grand")
class GraNdScorer(_MeanScorer):
    """Norm of each sample's gradient with respect to the output layer's weights (Paul et al., arXiv 2107.07075).

    Larger is more important. A logit is the product of the last hidden state h and an item's embedding, so the norm is
    ||p - y|| * ||h|| and needs no backward pass; DeepCore (arXiv 2204.08499) uses only the last layer, too. The
    authors average over several models early in training; here the models are the trained surrogates, as in the
    DEALRec paper, ``n_surrogates`` of them.

    Args:
        surrogates: RecBole sequential models.
        config: reads ``show_progress`` and the names of the data's columns.
    """

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the mean gradient norm of each sample, float64 [n].

        Raises:
            InputError: the surrogate's logits are not such products.
        """
        return self._mean(samples, _gradient_norms, "GraNd")


@register_scorer("loss_trajectory")
class LossTrajectoryScorer(Scorer):
    """Loss of each sample at each evaluation of a surrogate's training, ``surrogate_eval_step`` epochs apart.

    Args:
        train: trains a surrogate, and calls its argument with the surrogate after each evaluation.
        config: reads ``show_progress`` and the names of the data's columns.
    """

    needs = (TRAINING,)

    def __init__(self, train: Callable[[Callable[[nn.Module], None]], None], config: Config) -> None:
        self.train = train
        self.config = config

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "LossTrajectoryScorer":
        return cls(inputs.watch_training, inputs.config)

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return losses, float32 [n, evaluations].

        Raises:
            InputError: the training was never evaluated.
        """
        losses = processes.on_main(lambda: self._losses(samples))
        if not losses:
            raise InputError(
                "the surrogate's training was never evaluated, so there is no loss trajectory; set surrogate_epochs "
                "and surrogate_eval_step to 1 or more"
            )
        return np.stack(losses, axis=1).astype(np.float32)

    def _losses(self, samples: CandidateSamples) -> list[np.ndarray]:
        losses: list[np.ndarray] = []
        self.train(lambda surrogate: losses.append(measure_samples(surrogate, samples, self.config, _losses)))
        return losses


@register_scorer("surrogate_representation")
class SurrogateRepresentationScorer(Scorer):
    """Last hidden state of the surrogate for each history, without the target.

    Args:
        surrogate: RecBole sequential model.
        config: reads ``show_progress`` and the names of the data's columns.
    """

    needs = (SURROGATE,)

    def __init__(self, surrogate: nn.Module, config: Config) -> None:
        self.surrogate = surrogate
        self.config = config

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "SurrogateRepresentationScorer":
        return cls(inputs.surrogates[0], inputs.config)

    @classmethod
    def check(cls, surrogate: nn.Module, config: Config, samples: CandidateSamples) -> None:
        cls(surrogate, config).score(samples)

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return hidden states, float32 [n, d].

        Raises:
            InputError: the surrogate does not compute one hidden state per history from histories and their lengths.
        """
        return measure_samples(self.surrogate, samples, self.config, _last_hidden, "Surrogate representations")


@torch.no_grad()
def measure_samples(
    surrogate: nn.Module,
    samples: CandidateSamples,
    config: Config,
    measure: Callable[[nn.Module, Interaction], Tensor],
    description: str | None = None,
) -> np.ndarray:
    """Return ``measure`` of all samples, [B] or [B, d] per batch, in eval mode; float64 [n] or float32 [n, d]."""
    hidden = description is None or not config["show_progress"]
    batches = with_progress(surrogate_batches(surrogate, samples, config), len(samples), description, hidden)
    was_training = surrogate.training
    surrogate.eval()
    try:
        compute = lambda batch: measure(surrogate, batch).float().cpu().numpy()  # noqa: E731
        values = ScoreCheckpoint().score("", samples.rows, batches, compute)
    finally:
        surrogate.train(was_training)
    return values.astype(np.float64) if values.ndim == 1 else values


def losses_and_error_norms(surrogate: nn.Module, batch: Interaction) -> Tensor:
    """Return the full-softmax loss and the EL2N of each sample, [B, 2]."""
    logits, targets = surrogate.full_sort_predict(batch), batch[surrogate.POS_ITEM_ID]
    return torch.stack([_cross_entropies(logits, targets), _el2n(logits, targets)], dim=-1)


def _losses(surrogate: nn.Module, batch: Interaction) -> Tensor:
    return _cross_entropies(surrogate.full_sort_predict(batch), batch[surrogate.POS_ITEM_ID])


def _error_norms(surrogate: nn.Module, batch: Interaction) -> Tensor:
    return _el2n(surrogate.full_sort_predict(batch), batch[surrogate.POS_ITEM_ID])


def _cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets, reduction="none")


def _el2n(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ||softmax(logits) - one-hot target||_2 of each sample, [B]."""
    error = logits.softmax(dim=-1)
    error[torch.arange(len(error), device=error.device), targets] -= 1
    return error.norm(dim=-1)


def _gradient_norms(surrogate: nn.Module, batch: Interaction) -> Tensor:
    """Return GraNd of each sample, [B]; raise InputError if the logits are not products with item embeddings."""
    hidden = _last_hidden(surrogate, batch)
    logits = surrogate.full_sort_predict(batch)
    if not isinstance(surrogate, EveryPosition) and not _are_products(surrogate, hidden, logits):
        raise InputError(
            f"surrogate_model '{type(surrogate).__name__}' does not score items by products with their embeddings, "
            "which GraNd needs; use SASRec or GRU4Rec"
        )
    return _el2n(logits, batch[surrogate.POS_ITEM_ID]) * hidden.norm(dim=-1)


def _are_products(surrogate: nn.Module, hidden: Tensor, logits: Tensor) -> bool:
    """Return whether the logits are products of the hidden states and the item embeddings."""
    items = getattr(surrogate, "item_embedding", None)
    if items is None or items.weight.shape != (logits.shape[1], hidden.shape[1]):
        return False
    return torch.allclose(hidden @ items.weight.T, logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))


def _last_hidden(surrogate: nn.Module, batch: Interaction) -> Tensor:
    """Return the last hidden state of each history, [B, d]; raise InputError if the surrogate has none."""
    if list(inspect.signature(surrogate.forward).parameters) == ["item_seq", "item_seq_len"]:
        hidden = surrogate(batch[surrogate.ITEM_SEQ], batch[surrogate.ITEM_SEQ_LEN])
        if hidden.dim() == 2:
            return hidden
    raise InputError(
        f"surrogate_model '{type(surrogate).__name__}' does not compute one hidden state per history, which the "
        "sampler needs; use SASRec, GRU4Rec or NARM"
    )
