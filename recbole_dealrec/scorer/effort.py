"""Effort of the language model for each sample; DEALRec, arXiv 2401.17197."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.memory import in_fitting_parts
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.effort_cache import EffortCache
from recbole_dealrec.scorer.gradient_way import Way, fastest_way
from recbole_dealrec.scorer.scorer import LLM, Scorer, ScorerInputs
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress


class EffortScorer(Scorer):
    """The paper's effort score E(s) = ||grad_phi l_LLM(s)||_2 over the fine-tuned parameters phi, exact and batched.

    A larger score means that the model has to change more for the sample.

    Args:
        llm: recommender before fine-tuning.
        config: reads ``effort_parameters``: ``all`` (the paper), ``last`` (the last layer), or patterns of
            parameter names (the released code: ``*.31.self_attn.v_proj.lora_B.*``).
        cache: stores scores while they are computed, for later runs with the same network; None stores nothing.
    """

    needs = (LLM,)

    def __init__(self, llm: LLMRecommender, config: Config, cache: EffortCache | None = None) -> None:
        self.llm = llm
        self.config = config
        self.cache = cache

    @classmethod
    def from_inputs(cls, inputs: ScorerInputs) -> "EffortScorer":
        return cls(inputs.llm, inputs.config, EffortCache(inputs.effort_folder))

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Return the effort of each sample, float64 [n].

        The last digits of a score depend on the other samples of its batch, so a cached score may differ in them from
        a newly computed one.

        Raises:
            InputError: ``effort_parameters`` matches no trained parameter.
        """
        choice = self.config["effort_parameters"]
        names = chosen_parameters(self.llm.network, choice)
        if self.cache:
            return self.cache.score(self.llm, samples, choice, self._gradient_norms(names))
        hidden = not self.config["show_progress"]
        batches = with_progress(self.llm.batches(samples), len(samples), "effort", hidden)
        with self._gradient_norms(names) as norms:
            return ScoreCheckpoint().score("", samples.rows, batches, norms)

    @cached_property
    def _way(self) -> Way:
        return fastest_way(self.llm.trial())

    @contextmanager
    def _gradient_norms(self, names: Sequence[str]) -> Iterator[Callable[[dict[str, Tensor]], np.ndarray]]:
        """Yield a function of a batch's gradient norms for these parameters, [B]; in parts if memory is too small."""
        with self._way(self.llm.network, names) as norms_of:
            yield lambda batch: in_fitting_parts(norms_of, batch, len(batch["labels"]), select_rows, np.concatenate)


def select_rows(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Return a slice of the rows of a batch."""
    return {name: values[rows] for name, values in batch.items()}


def chosen_parameters(network: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Return the names of the trained parameters that ``effort_parameters`` selects.

    Raises:
        InputError: the patterns match no parameter.
    """
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if choice == "all":
        return trained
    if choice == "last":
        layers = [int(found.group(1)) if (found := re.search(r"\.(\d+)\.", name)) else -1 for name in trained]
        return [name for name, layer in zip(trained, layers, strict=True) if layer == max(layers)]
    chosen = [name for name in trained if any(fnmatchcase(name, pattern) for pattern in choice)]
    if not chosen:
        raise InputError(f"effort_parameters {list(choice)} match no trained parameter, such as {trained[0]}")
    return chosen
