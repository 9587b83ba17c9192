"""The surrogate: a RecBole sequential model, trained on every position of a sequence at once where that is exact."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Fields, SequentialDataset, train_loader
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.data.sequence import covering_rows
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.softmax_loss import softmax_cross_entropy

_LENGTH_PARTS = 4
_LOGITS_PER_BATCH = 8_000_000  # 32 MB of float32
_ITEMS_PER_BATCH = 12_800  # of histories, padding included; larger batches leave the processor's cache


@dataclass(frozen=True)
class SurrogateFiles:
    """Names of what is kept of a run's surrogate.

    Args:
        number: which of the run's surrogates, from 0.
    """

    number: int

    @property
    def step(self) -> str:
        return f"surrogate {self.number}" if self.number else "surrogate"

    @property
    def weights(self) -> str:
        return f"{self.step.replace(' ', '-')}.safetensors"

    @property
    def curve(self) -> str:
        return f"{self.step.replace(' ', '-')}.json"


class EveryPosition:
    """Mixin for causal models: the loss is the mean over all positions of a sequence, not over its last one."""

    _every_position = False

    def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
        return output if self._every_position else super().gather_indexes(output, gather_index)

    def position_outputs(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Output at each position, [B, L, H]."""
        self._every_position = True
        try:
            return self.forward(item_seq, item_seq_len)
        finally:
            self._every_position = False

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        # A few parts of similar length have far less padding than the whole batch.
        parts = interaction[self.ITEM_SEQ_LEN].argsort().chunk(_LENGTH_PARTS)
        outputs, targets = zip(*(self._outputs_and_targets(interaction, rows) for rows in parts), strict=True)
        return softmax_cross_entropy(torch.cat(outputs), self.item_embedding.weight, torch.cat(targets))

    def _outputs_and_targets(self, interaction: Interaction, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [P, H] at all positions of some rows that have a target, and the targets [P]."""
        length = interaction[self.ITEM_SEQ_LEN][rows]
        item_seq = interaction[self.ITEM_SEQ][rows, : int(length.max())]
        targets = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], dim=1)
        targets = targets.scatter(1, length[:, None] - 1, interaction[self.POS_ITEM_ID][rows, None])
        counted = targets > 0
        return self.position_outputs(item_seq, length)[counted], targets[counted]


def build_surrogate(config: Config, dataset: SequentialDataset) -> SequentialRecommender:
    """Fresh surrogate; ``config`` is ``Config.surrogate``.

    Raises:
        InputError: the model is not sequential, its loss is not a softmax over the items, it ranks by probabilities, or
            its keys do not suit it.
    """
    if config["MODEL_TYPE"] != SequentialRecommender.type or config["loss_type"] != "CE":
        raise InputError(f"surrogate_model '{config['model']}' is not a sequential model with a softmax loss (CE)")
    config.check_valid_metric()
    construct_transform(config)  # masked models read what it adds to the configuration
    try:
        model = config.model_class(config, dataset).to(config["device"])
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError) as error:
        raise InputError(f"surrogate_model '{config['model']}' cannot be built as configured: {error}") from error
    probe, batch = _probe(config, dataset)
    _check_logits(config["model"], probe, batch)
    if _predicts_every_position(probe, batch):
        causal = type(config["model"], (EveryPosition, config.model_class), {})
        model.__class__ = causal
    return model


def surrogate_loader(config: Config, dataset: SequentialDataset, model: SequentialRecommender) -> TrainDataLoader:
    """Training data of a surrogate: as few rows as cover every target, or RecBole's row per prefix."""
    if isinstance(model, EveryPosition):
        return train_loader(config, dataset, covering_rows(dataset))
    if config["transform"] == "mask_itemseq":
        rows = covering_rows(dataset)
        return train_loader(config, _with_target(dataset), rows)
    getLogger().info(f"{config['model']} is trained on a row per prefix: its outputs are not one per position")
    return train_loader(config, dataset, np.arange(len(dataset)))


def surrogate_batches(
    surrogate: SequentialRecommender, samples: CandidateSamples, config: Config
) -> Iterator[tuple[np.ndarray, Interaction]]:
    """Samples for scoring, sorted by length: indices and the batch on the surrogate's device.

    Histories of causal models are cut to the longest of the batch; of other models, some see the padding.
    """
    trim = isinstance(surrogate, EveryPosition)
    lengths = samples.item_length if trim else np.full(len(samples), samples.item_id_list.shape[1])
    device = next(surrogate.parameters()).device
    for index in token_batches(lengths, _ITEMS_PER_BATCH, max(1, _LOGITS_PER_BATCH // surrogate.n_items)):
        yield index, samples.interaction(config, index, trim).to(device)


def _with_target(dataset: SequentialDataset) -> SequentialDataset:
    """The same rows, each target appended to its history (the oldest item leaves a full one), for masked models."""
    fields = Fields.of(dataset.config)
    history, length = dataset.inter_feat[fields.history].clone(), dataset.inter_feat[fields.length].clone()
    full = length == history.shape[1]
    history[full] = history[full].roll(-1, dims=1)
    length = length + (~full).long()
    history.scatter_(1, length[:, None] - 1, dataset.inter_feat[fields.item][:, None])
    columns = {**dataset.inter_feat.interaction, fields.history: history, fields.length: length}
    return dataset.copy(Interaction(columns))


def _probe(config: Config, dataset: SequentialDataset) -> tuple[EveryPosition, Interaction]:
    """A model with random weights and a few rows, to measure what would else be assumed from the model's name."""
    with torch.random.fork_rng():
        model = type("Probe", (EveryPosition, config.model_class), {})(config, dataset).to(config["device"]).eval()
    samples = CandidateSamples.from_dataset(dataset)
    longest = np.argsort(-samples.item_length, kind="stable")[:4]
    return model, samples.interaction(config, longest, trim=False).to(config["device"])


@torch.no_grad()
def _check_logits(name: str, model: SequentialRecommender, batch: Interaction) -> None:
    """Refuse a model that ranks by probabilities: its loss is not the softmax of what it ranks by.

    Raises:
        InputError: it does, or cannot rank these items at all.
    """
    try:
        scores = model.full_sort_predict(batch)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"surrogate_model '{name}' cannot rank this dataset's items: {error}") from error
    if (scores >= 0).all() and torch.allclose(scores.sum(dim=-1), torch.ones_like(scores[:, 0]), atol=1e-4):
        raise InputError(f"surrogate_model '{name}' ranks by probabilities; influence needs logits, take another")


@torch.no_grad()
def _predicts_every_position(model: EveryPosition, batch: Interaction) -> bool:
    """Whether the model's output at each position is its output for that prefix alone, scored by its item embedding."""
    sequence, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    half = torch.clamp(length // 2, min=1)
    prefix = batch[model.ITEM_SEQ] * (torch.arange(sequence.shape[1], device=sequence.device) < half[:, None])
    batch.update(Interaction({model.ITEM_SEQ: prefix, model.ITEM_SEQ_LEN: half}))
    return _agree(lambda: model.full_sort_predict(batch), lambda: _prefix_scores(model, sequence, length, half))


def _prefix_scores(model: EveryPosition, sequence: Tensor, length: Tensor, position: Tensor) -> Tensor:
    outputs = model.position_outputs(sequence, length)
    return outputs[torch.arange(len(outputs)), position - 1] @ model.item_embedding.weight.T


def _agree(expected: Callable[[], Tensor], found: Callable[[], Tensor]) -> bool:
    reference = expected()
    try:
        return torch.allclose(reference, found(), rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
    except (AttributeError, TypeError, RuntimeError, IndexError):  # another signature or shape: not such a model
        return False
