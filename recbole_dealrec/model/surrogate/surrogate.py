"""The surrogate: a RecBole sequential model, trained on all positions of a sequence at once if its loss allows it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.layers import FeedForward
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.config.configuration import MOST_EPOCHS
from recbole_dealrec.data import CandidateSamples, Fields, SequentialDataset, train_loader
from recbole_dealrec.data.batch import token_batches
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.data.sequence import covering_rows
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate.softmax_loss import softmax_cross_entropy

_STEPS = 1_000  # Games needs 700 steps of 128 sequences, ml-100k 450 of 32
_LEAST_EPOCHS = 4  # two evaluations to choose from
_LENGTH_PARTS = 4
_WORTH_PARTS = 0.75  # of the positions of the whole batch; each part has a cost of its own
_LOGITS_PER_BATCH = 8_000_000  # 32 MB of float32
_ITEMS_PER_BATCH = 12_800  # of histories, padding included; larger batches do not fit into the CPU's cache


@dataclass(frozen=True)
class SurrogateFiles:
    """Names of the step and the files of a surrogate.

    Args:
        number: number of the surrogate in its run, from 0.
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


def surrogate_labels(names: Iterable[str]) -> dict[str, str]:
    """Return the displayed names of steps: "surrogate 1 of 3" for one of several surrogates, else the name."""
    names = list(names)
    steps = [step for step in (SurrogateFiles(number).step for number in range(len(names))) if step in names]
    shown = {step: f"surrogate {number} of {len(steps)}" for number, step in enumerate(steps, 1)}
    return {name: shown[name] if len(steps) > 1 and name in shown else name for name in names}


class EveryPosition:
    """Mixin for causal models that computes the loss at all positions of a sequence instead of the last one."""

    _every_position = False

    def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
        return output if self._every_position else super().gather_indexes(output, gather_index)

    def position_outputs(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Return the output at each position, [B, L, H]."""
        self._every_position = True
        try:
            return self.forward(item_seq, item_seq_len)
        finally:
            self._every_position = False

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        parts = _parts_of_similar_length(interaction[self.ITEM_SEQ_LEN])
        outputs, targets = zip(*(self._outputs_and_targets(interaction, rows) for rows in parts), strict=True)
        return softmax_cross_entropy(torch.cat(outputs), self.item_embedding.weight, torch.cat(targets))

    def _outputs_and_targets(self, interaction: Interaction, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs [P, H] at all positions of some rows that have a target, and the targets [P]."""
        length = interaction[self.ITEM_SEQ_LEN][rows]
        item_seq = interaction[self.ITEM_SEQ][rows, : int(length.max())]
        targets = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], dim=1)
        targets = targets.scatter(1, length[:, None] - 1, interaction[self.POS_ITEM_ID][rows, None])
        counted = targets > 0
        return self.position_outputs(item_seq, length)[counted], targets[counted]


def _parts_of_similar_length(lengths: Tensor) -> Sequence[Tensor]:
    """Return the rows of a batch in several parts, if these have far less padding, or in one; each sorted by length."""
    rows = lengths.argsort()
    parts = rows.chunk(_LENGTH_PARTS)
    longest = lengths[torch.stack([part[-1] for part in parts])].tolist()  # one transfer from a GPU
    padded = sum(len(part) * length for part, length in zip(parts, longest, strict=True))
    return parts if padded < _WORTH_PARTS * len(rows) * longest[-1] else [rows]


def build_surrogate(config: Config, dataset: SequentialDataset) -> SequentialRecommender:
    """Return an untrained surrogate; ``config`` is ``Config.surrogate``.

    Raises:
        InputError: the model is not sequential, its loss is not a softmax over the items, it ranks by probabilities, or
            it cannot be built with its keys.
    """
    if config["MODEL_TYPE"] != SequentialRecommender.type or config["loss_type"] != "CE":
        raise InputError(f"surrogate_model '{config['model']}' is not a sequential model with a softmax loss (CE)")
    config.check_valid_metric()
    model = _built(config, dataset)
    probe, batch = _probe(config, dataset)
    _check_logits(config["model"], probe, batch)
    if _predicts_every_position(probe, batch):
        model.__class__ = type(config["model"], (EveryPosition, config.model_class), {})
    return model


def restored_surrogate(config: Config, catalogue: Catalogue, file: Path) -> SequentialRecommender:
    """Return a surrogate with the weights in a file, for ranking; ``config`` is ``Config.surrogate``."""
    surrogate = _built(config, catalogue)
    surrogate.load_state_dict(load_file(file, device=str(config["device"])))
    return surrogate


def surrogate_loader(config: Config, dataset: SequentialDataset, model: SequentialRecommender) -> TrainDataLoader:
    """Return the training data of a surrogate: the fewest rows that cover every target, or a row per prefix."""
    if isinstance(model, EveryPosition):
        return train_loader(config, dataset, covering_rows(dataset))
    if config["transform"] == "mask_itemseq":
        few = _with_target(dataset, covering_rows(dataset))
        return train_loader(config, few, np.arange(len(few)))
    getLogger().info(f"{config['model']} is trained on a row per prefix, as it has no output per position")
    return train_loader(config, dataset, np.arange(len(dataset)))


def settle_epochs(
    configs: Sequence[Config], surrogate: Config, dataset: SequentialDataset, model: SequentialRecommender
) -> None:
    """Set ``surrogate_epochs: auto`` to the number of epochs with 1,000 optimiser steps, from 4 to 200.

    They are a multiple of ``surrogate_eval_step``, so that the last epoch, with the lowest learning rate, is evaluated.

    Args:
        configs: configurations that differ only in keys of the selection.
        surrogate: configuration of their surrogate.
        dataset: training part.
        model: the untrained surrogate.
    """
    if configs[0]["surrogate_epochs"] == "auto":
        n_batches = len(surrogate_loader(surrogate, dataset, model))
        for config in configs:
            epochs = min(max(_STEPS // n_batches, _LEAST_EPOCHS), MOST_EPOCHS)
            step = max(config["surrogate_eval_step"], 1)
            config.settle(surrogate_epochs=max(epochs - epochs % step, step))


def surrogate_batches(
    surrogate: SequentialRecommender, samples: CandidateSamples, config: Config
) -> Iterator[tuple[np.ndarray, Interaction]]:
    """Yield indices of samples and their batch on the surrogate's device, sorted by length of history.

    For causal models, histories are cut to the longest of the batch; other models may read the padding.
    """
    trim = isinstance(surrogate, EveryPosition)
    lengths = samples.item_length if trim else np.full(len(samples), samples.item_id_list.shape[1])
    device = next(surrogate.parameters()).device
    for index in token_batches(lengths, _ITEMS_PER_BATCH, max(1, _LOGITS_PER_BATCH // surrogate.n_items)):
        yield index, samples.interaction(config, index, trim).to(device)


def _built(config: Config, dataset: SequentialDataset | Catalogue) -> SequentialRecommender:
    construct_transform(config)  # adds keys to the configuration that masked models read
    try:
        return _with_fused_gelu(config.model_class(config, dataset)).to(config["device"])
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError) as error:
        raise InputError(f"surrogate_model '{config['model']}' cannot be built as configured: {error}") from error


def _with_fused_gelu(model: SequentialRecommender) -> SequentialRecommender:
    """Replace RecBole's GELU by PyTorch's; the values are the same, in one operation instead of five."""
    for module in model.modules():
        if isinstance(module, FeedForward) and module.intermediate_act_fn == module.gelu:
            module.intermediate_act_fn = nn.functional.gelu
    return model


def _with_target(dataset: SequentialDataset, rows: np.ndarray) -> SequentialDataset:
    """Append the target of some rows to their history, dropping the oldest item of a full one; for masked models."""
    fields, few = Fields.of(dataset.config), dataset.inter_feat[rows].padded()
    history, length = few[fields.history], few[fields.length]
    full = length == history.shape[1]
    history[full] = history[full].roll(-1, dims=1)
    length = length + (~full).long()
    history.scatter_(1, length[:, None] - 1, few[fields.item][:, None])
    return dataset.copy(Interaction({**few.interaction, fields.history: history, fields.length: length}))


def _probe(config: Config, dataset: SequentialDataset) -> tuple[EveryPosition, Interaction]:
    """Return a model with random weights and a few rows, on which the model's properties are tested."""
    with torch.random.fork_rng():
        model = type("Probe", (EveryPosition, config.model_class), {})(config, dataset).to(config["device"]).eval()
    lengths = dataset.inter_feat[Fields.of(dataset.config).length].numpy()
    longest = CandidateSamples.of_rows(dataset, np.argsort(-lengths, kind="stable")[:4])
    return model, longest.interaction(config, np.arange(len(longest)), trim=False).to(config["device"])


@torch.no_grad()
def _check_logits(name: str, model: SequentialRecommender, batch: Interaction) -> None:
    """Raise InputError if a model ranks by probabilities instead of logits, or cannot rank the items at all."""
    try:
        scores = model.full_sort_predict(batch)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"surrogate_model '{name}' cannot rank this dataset's items: {error}") from error
    if (scores >= 0).all() and torch.allclose(scores.sum(dim=-1), torch.ones_like(scores[:, 0]), atol=1e-4):
        raise InputError(f"surrogate_model '{name}' ranks by probabilities; influence needs logits, use another")


@torch.no_grad()
def _predicts_every_position(model: EveryPosition, batch: Interaction) -> bool:
    """Return whether the output at a position, scored by item embeddings, equals the prediction for that prefix."""
    sequence, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    half = torch.clamp(length // 2, min=1)
    prefix = batch[model.ITEM_SEQ] * (torch.arange(sequence.shape[1], device=sequence.device) < half[:, None])
    batch.update(Interaction({model.ITEM_SEQ: prefix, model.ITEM_SEQ_LEN: half}))
    expected = model.full_sort_predict(batch)
    try:
        outputs = model.position_outputs(sequence, length)
        scores = outputs[torch.arange(len(outputs)), half - 1] @ model.item_embedding.weight.T
        return torch.allclose(expected, scores, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    except (AttributeError, TypeError, RuntimeError, IndexError):  # another signature or output shape
        return False
