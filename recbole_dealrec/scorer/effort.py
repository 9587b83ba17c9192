"""Effort of the language model for each sample; DEALRec, arXiv 2401.17197."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.memory import in_fitting_parts
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.scorer.base import Scorer
from recbole_dealrec.scorer.gradient_norm import gradient_norms
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint, with_progress


class EffortScorer(Scorer):
    """E(s) = ||grad_phi l_LLM(s)||_2 over what is fine-tuned, exact and batched; the paper's effort score.

    Larger means that the sample asks for more change of the model.

    Args:
        llm: recommender as fine-tuning will start from it.
        config: reads ``effort_parameters``: ``all`` (the paper), ``last`` (the last layer's), or patterns of
            parameter names (the released code: ``*.31.self_attn.v_proj.lora_B.*``).
        checkpoint: keeps the scores as they come.
    """

    def __init__(self, llm: LLMRecommender, config: Config, checkpoint: ScoreCheckpoint | None = None) -> None:
        self.llm = llm
        self.config = config
        self.checkpoint = checkpoint or ScoreCheckpoint()

    @classmethod
    def from_inputs(cls, inputs):
        return cls(inputs.llm, inputs.config, ScoreCheckpoint(inputs.folder))

    def score(self, samples: CandidateSamples) -> np.ndarray:
        """Effort of each sample, float64 [n].

        Raises:
            InputError: ``effort_parameters`` matches no parameter that trains.
        """
        parameters = chosen_parameters(self.llm.network, self.config["effort_parameters"])
        with gradient_norms(self.llm.network, parameters) as norms_of:

            def fitting(batch: dict[str, Tensor]) -> np.ndarray:
                return in_fitting_parts(norms_of, batch, len(batch["labels"]), _rows, np.concatenate)

            hidden = not self.config["show_progress"]
            batches = with_progress(self.llm.batches(samples), len(samples), "Effort", hidden)
            return self.checkpoint.score("effort", samples.rows, batches, fitting)


def _rows(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: values[rows] for name, values in batch.items()}


def chosen_parameters(network: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the trained parameters that ``effort_parameters`` means.

    Raises:
        InputError: the patterns match none.
    """
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if choice == "all":
        return trained
    if choice == "last":
        layers = [int(found.group(1)) if (found := re.search(r"\.(\d+)\.", name)) else -1 for name in trained]
        return [name for name, layer in zip(trained, layers, strict=True) if layer == max(layers)]
    chosen = [name for name in trained if any(fnmatchcase(name, pattern) for pattern in choice)]
    if not chosen:
        raise InputError(f"effort_parameters {list(choice)} match no trained parameter; the first is {trained[0]}")
    return chosen
