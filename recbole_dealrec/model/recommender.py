"""The interface between the pipeline and a recommender that is fine-tuned."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.distributed.fsdp import full_tensor
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.model.memory import in_fitting_parts
from recbole_dealrec.store.console import shows_bars


class LLMRecommender(SequentialRecommender, ABC):
    """A RecBole sequential recommender whose language model generates the next item.

    Args:
        config: configuration of the model.
        dataset: training part, or the catalogue of a finished run.

    Attributes:
        network: the language model; only the parameters to fine-tune require gradients.
        weights_folder: name of the folder of the fine-tuned weights.
    """

    input_type = InputType.POINTWISE
    weights_folder: str
    network: nn.Module

    def __init__(self, config: Config, dataset: SequentialDataset | Catalogue) -> None:
        super().__init__(config, dataset)
        self.config = config
        if not shows_bars(config):
            disable_progress_bar()  # of transformers, before a model is built, loaded or saved

    @classmethod
    def restored(cls, config: Config, dataset: SequentialDataset | Catalogue, folder: Path) -> "LLMRecommender":
        """Return the recommender with the fine-tuned weights that ``save`` wrote to ``folder``, which may have moved.

        Raises:
            InputError: the model that was fine-tuned is absent or has changed.
        """
        recommender = cls(config, dataset)
        recommender.load(folder)
        return recommender

    @classmethod
    def most_ranked(cls, config: Config, n_items: int) -> int:
        """Return how many of ``n_items`` a ranking contains."""
        return n_items

    @classmethod
    @abstractmethod
    def check(cls, config: Config) -> None:
        """Raise InputError if the configuration cannot be run."""

    @abstractmethod
    def batch(self, histories: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, Tensor]:
        """Return the batch for ``loss.sample_losses`` of histories of item ids, oldest first, and their targets."""

    @abstractmethod
    def batches(self, samples: CandidateSamples) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Yield indices and batches of samples of similar length, at most ``tokens_per_batch`` each, for scoring."""

    @abstractmethod
    def representation_batches(
        self, samples: CandidateSamples, with_targets: bool = False
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield indices and batches for ``represent``, of histories or, with targets, of histories and targets.

        A batch contains rows of similar length, at most ``tokens_per_batch``.
        """

    @abstractmethod
    def represent(self, batch: Any) -> Tensor:
        """Return the embedding of each row by the language model before fine-tuning, float32 [B, d]."""

    @abstractmethod
    def token_lengths(self, samples: CandidateSamples) -> np.ndarray:
        """Return the number of tokens of each truncated history and of its target, int64 [n, 2]."""

    @abstractmethod
    def instructions(self, samples: CandidateSamples) -> Iterator[dict[str, Any]]:
        """Yield the texts of each sample by name, for other fine-tuning tools.

        ``instruction``, ``input`` and ``output``; with a chat template ``messages``; ``prompt`` and ``completion``, the
        whole texts that the model reads and learns to generate.
        """

    @abstractmethod
    def item_scores(self, interaction: Interaction) -> Tensor:
        """Return the score of every item for each history, float32 [B, n_items]; targets are not read."""

    def rehearse_ranking(self) -> float:
        """Do a part of the one-time work of the first ranking, skip the rest; return whole work divided by this part.

        Rankings after this call are wrong, but take as long as real ones.
        """
        return 1.0

    def trial(self) -> tuple[nn.Module, dict[str, Tensor]] | None:
        """Return a small network of the same kind and a batch for ``loss.sample_losses``, to test what it supports.

        None if the network is known to support everything.
        """
        return None

    @classmethod
    def card(cls, config: Config, folder: Path) -> dict[str, Any]:
        """Return the content of the model card for the fine-tuned weights in ``folder``.

        Returns:
            ``metadata`` (keys of Hugging Face's ``ModelCardData``), ``origin`` (what was tuned), ``prompt`` (what the
            model reads) and ``code`` (Python that loads the weights from their folder); empty ones are left out.
        """
        return {"metadata": {}, "origin": "", "prompt": "", "code": ""}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save the fine-tuned weights."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Load the weights that ``save`` wrote."""

    @abstractmethod
    def _origin(self) -> str:
        """Return what determines the network besides the values of its trainable parameters."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the network's origin and trainable parameters; it is the same for equal networks."""
        hashed = hashlib.sha256(self._origin().encode())
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                hashed.update(f"\n{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
                hashed.update(full_tensor(parameter.detach()).cpu().reshape(-1).view(torch.uint8).numpy())
        return hashed.hexdigest()

    def sample_losses(self, interaction: Interaction) -> Tensor:
        """Return the mean negative log-likelihood of each sample's labelled tokens, float32 [B]."""
        return sample_losses(self.network, self.batch(self._histories(interaction), self._targets(interaction)))

    def batch_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the losses of a batch of ``batches``, in evaluation mode, float32 [B]."""
        with self._evaluation_mode():
            return sample_losses(self.network, batch)

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return ``item_scores``, from smaller batches if memory runs out; RecBole calls this method."""
        return in_fitting_parts(self.item_scores, interaction, len(interaction), Interaction.__getitem__, torch.cat)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return self.sample_losses(interaction).mean()

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """Put the language model in evaluation mode, without gradients."""
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
