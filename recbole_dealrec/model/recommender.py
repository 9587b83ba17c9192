"""What the pipeline asks of a recommender whose few-shot data it selects."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.distributed.fsdp import full_tensor
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.model.memory import in_fitting_parts


class LLMRecommender(SequentialRecommender, ABC):
    """A sequential recommender of RecBole around a language model that writes the next item.

    Args:
        config: configuration of the model.
        dataset: training part.

    Attributes:
        network: the language model; what is fine-tuned of it requires gradients.
        weights_folder: name of the folder that what was fine-tuned is saved in.
    """

    input_type = InputType.POINTWISE
    weights_folder: str
    network: nn.Module

    def __init__(self, config: Config, dataset: SequentialDataset) -> None:
        super().__init__(config, dataset)
        self.config = config

    @classmethod
    def restored(cls, config: Config, dataset: SequentialDataset, folder: Path) -> "LLMRecommender":
        """The recommender whose fine-tuned part ``save`` wrote to ``folder``; nothing is built anew.

        Raises:
            InputError: what it was fine-tuned from is not there any more, or is another.
        """
        recommender = cls(config, dataset)
        recommender.load(folder)
        return recommender

    @classmethod
    def most_ranked(cls, config: Config, n_items: int) -> int:
        """How many of ``n_items`` a ranking orders."""
        return n_items

    @classmethod
    @abstractmethod
    def check(cls, config: Config) -> None:
        """Refuse a configuration that cannot be run, before hours of work.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def batch(self, histories: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, Tensor]:
        """What ``sample_losses`` of ``loss.py`` takes, for histories of item ids, oldest first, and their targets."""

    @abstractmethod
    def batches(self, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Indices and batch, of similar length under ``tokens_per_batch``, for scoring."""

    @abstractmethod
    def representation_batches(
        self, samples: CandidateSamples, with_targets: bool = False
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Indices and what ``represent`` takes of histories or, with targets, of whole samples.

        Batches are of similar length under ``tokens_per_batch``.
        """

    @abstractmethod
    def represent(self, batch: Any) -> Tensor:
        """What the language model before fine-tuning makes of each row, float32 [B, d]."""

    @abstractmethod
    def token_lengths(self, samples: CandidateSamples) -> np.ndarray:
        """Tokens of each history, as far as it is read, and of the target that is to be written, int64 [n, 2]."""

    @abstractmethod
    def instructions(self, samples: CandidateSamples) -> Iterator[dict[str, Any]]:
        """``instruction``, ``input`` and ``output`` of each sample, as other fine-tuning tools read them.

        With a chat template, ``messages`` too.
        """

    @abstractmethod
    def item_scores(self, interaction: Interaction) -> Tensor:
        """Score of every item for every history, float32 [B, n_items]; the target is not read."""

    def rehearse_ranking(self) -> float:
        """Do a part of what the first ranking does once, and skip the rest; return how many times the whole is as much.

        Rankings are of no use then, but take as long as they do.
        """
        return 1.0

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save what was fine-tuned."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Load what ``save`` wrote."""

    @abstractmethod
    def _origin(self) -> str:
        """What the network was made from, beside the values of what trains."""

    def fingerprint(self) -> str:
        """SHA-256 of all that a sample's gradient depends on but its tokens; equal for equal networks of two runs."""
        hashed = hashlib.sha256(self._origin().encode())
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                hashed.update(f"\n{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
                hashed.update(full_tensor(parameter.detach()).cpu().reshape(-1).view(torch.uint8).numpy())
        return hashed.hexdigest()

    def sample_losses(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of each sample's labelled tokens, float32 [B]."""
        return sample_losses(self.network, self.batch(self._histories(interaction), self._targets(interaction)))

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """What ``item_scores`` gives, in parts where the memory does not suffice; RecBole's name for it."""
        rows_of = Interaction.__getitem__
        return in_fitting_parts(self.item_scores, interaction, len(interaction), rows_of, torch.cat)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return self.sample_losses(interaction).mean()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """The language model in evaluation mode, without gradients."""
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.network.train(was_training)

    def _histories(self, interaction: Interaction) -> list[np.ndarray]:
        lists, lengths = interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].tolist()
        return [items[:length] for items, length in zip(lists, lengths, strict=True)]

    def _targets(self, interaction: Interaction) -> list[int]:
        return interaction[self.POS_ITEM_ID].tolist()
