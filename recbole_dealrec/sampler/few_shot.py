"""Base class and registry of few-shot samplers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger

import numpy as np

from recbole_dealrec.config import Config, Key
from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.scorer.scoring import seen_parts

_SHARE, _LEAST = 0.02, 64  # of n_fewshot: auto; the paper selects 2 % of Games
_MANY = 0.2  # share of the candidates


class FewShotSampler(ABC):
    """Base class of samplers that choose the samples to fine-tune a language model on.

    RecBole's own samplers are different: they draw negative items.

    Args:
        config: reads ``n_fewshot``, ``seed`` and the sampler's own keys.

    Attributes:
        needs: names of the scores that ``sample`` reads. Numbers, float64 [n]: ``influence``, ``effort``, ``grand``,
            ``el2n``, ``llm_loss``, ``target_frequency``, ``gradient_similarity``. Vectors, float32 [n, d]:
            ``loss_trajectory``, ``surrogate_representation``, ``llm_representation``, ``valid_distance``,
            ``valid_similarity``, ``llm_gradient``, ``less``.
        scores: those scores by name, set before ``sample`` is called.
        columns: values of each candidate to store, arrays [n] by name; set by ``sample``.
        ranked_by: name of the column that the sampler ranks the candidates by; None if it ranks by none.
    """

    needs: tuple[str, ...] = ()
    ranked_by: str | None = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.scores: Mapping[str, np.ndarray] = {}
        self.columns: dict[str, np.ndarray] = {}

    @property
    def sees(self) -> tuple[str, ...]:
        """Return the parts of the data that the choice depends on: training, validation histories, validation targets.

        They follow from ``needs`` and the configuration. Early stopping, which sees the validation part in every run,
        is not counted.
        """
        return seen_parts(self.config, self.needs)

    @abstractmethod
    def sample(self, samples: CandidateSamples) -> np.ndarray:
        """Return the indices of the chosen samples, int64 [n_fewshot] (``Full``: all), sorted and unique."""

    def usable(self, n_candidates: int) -> int:
        """Return how many of ``n_candidates`` the sampler can choose from."""
        return n_candidates

    def check(self, samples: CandidateSamples) -> None:
        """Raise InputError if the sampler cannot choose from these candidates; called before anything is computed.

        Raises:
            InputError: fewer usable candidates than ``n_fewshot``.
        """
        usable = self.usable(len(samples))
        if usable < self.config["n_fewshot"]:
            raise InputError(
                f"n_fewshot is {self.config['n_fewshot']}, but only {usable} of {len(samples)} candidate samples can "
                "be chosen; lower n_fewshot or raise samples_per_user"
            )


def settle_n_fewshot(configs: Sequence[Config], n_candidates: int) -> None:
    """Set ``n_fewshot: auto`` to 2 % of the candidates, at least 64; warn above 20 % of them.

    Args:
        configs: configurations that differ only in keys of the selection.
        n_candidates: number of candidates; the sampler Full selects all of them.
    """
    for config in configs:
        config.settle(n_fewshot=max(_LEAST, round(_SHARE * n_candidates)))
    n_fewshot = configs[0]["n_fewshot"]
    if n_fewshot > _MANY * n_candidates and any(config["sampler"] != "Full" for config in configs):
        getLogger().warning(
            f"n_fewshot is {n_fewshot}, {n_fewshot / n_candidates:.0%} of {n_candidates} candidate samples; with so "
            "many, the choice matters little; lower n_fewshot, or raise samples_per_user for more candidates"
        )


def report_excluded(finite: np.ndarray) -> None:
    """Log how many samples are excluded because a score is not finite.

    Args:
        finite: bool [n], whether all scores of a sample are finite.
    """
    excluded = int(np.count_nonzero(~finite))
    if excluded:
        getLogger().warning(f"{excluded} samples have a score that is not finite and are excluded")


def finite_rows(finite: np.ndarray, n_fewshot: int) -> np.ndarray:
    """Return the indices of the samples whose scores are all finite, int64; log how many are excluded.

    Args:
        finite: bool [n], whether all scores of a sample are finite.
        n_fewshot: number of samples to choose of them.

    Raises:
        ValueError: there are fewer.
    """
    report_excluded(finite)
    kept = np.flatnonzero(finite)
    if len(kept) < n_fewshot:
        raise ValueError(f"n_fewshot is {n_fewshot}, but only {len(kept)} samples have finite scores")
    return kept


def register_sampler(name: str, keys: Iterable[Key] = ()) -> Callable[[type[FewShotSampler]], type[FewShotSampler]]:
    """Return a class decorator that registers a sampler for ``--sampler=name``.

    Other packages name the class in the entry-point group ``recbole_dealrec.samplers``.

    Args:
        name: name of the sampler.
        keys: configuration keys of the sampler, with their defaults. They are in ``config`` and ``--help``, their
            values are checked, and they are part of the names of run folders.

    Raises:
        TypeError: the class is not a ``FewShotSampler``.
        ValueError: the name is taken by another class, or a key is declared elsewhere.
    """
    return SAMPLERS.register(name, keys)


def get_sampler(name: str) -> type[FewShotSampler]:
    """Return a sampler class by its registered or entry-point name.

    Raises:
        InputError: there is no such sampler (the message lists all), or its package cannot be loaded.
    """
    return SAMPLERS.get(name)


def sampler_names() -> list[str]:
    """Return the names of all samplers, including those of other packages."""
    return SAMPLERS.names()
