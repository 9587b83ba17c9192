"""The scores of a run's candidates and what they are computed on, each made once for all runs of a seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from recbole.utils import init_seed
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.surrogate.surrogate import SurrogateFiles
from recbole_dealrec.scorer.scorer import (
    LLM,
    MADE,
    SURROGATE,
    SURROGATES,
    TRAINING,
    Scorer,
    ScorerInputs,
    get_scorer,
    scorer_names,
)
from recbole_dealrec.store.names import Folders
from recbole_dealrec.store.opening import discard_unfinished, opened
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import Record, records, step


class Training(Protocol):
    """Training of a surrogate; ``recbole_dealrec.training.surrogate_training.SurrogateTraining`` is one."""

    model: nn.Module

    def fit(self) -> None: ...

    def finish(self) -> None: ...

    def load(self) -> None: ...

    def watch(self, after_evaluation: Callable[[nn.Module], None]) -> None: ...


class Scoring:
    """Surrogates, language model and scores, for the runs of one seed.

    What lies in a folder is loaded, what does not is made and kept there.

    Args:
        config: configuration of one of the runs; they differ in keys of selection and fine-tuning alone.
        splits: training, validation and test part.
        samples: candidate samples of the training part.
        folders: where surrogates and scores are kept.
        training: makes the training of a surrogate of a number, which keeps its weights in a folder.

    Attributes:
        records: seconds and memory of each step, by name.
        curves: losses and validation results of each surrogate's training, by step.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        samples: CandidateSamples,
        folders: Folders,
        training: Callable[[Config, Splits, RunFolder, int], Training],
    ) -> None:
        self.config, self.splits, self.samples, self.folders = config, splits, samples, folders
        self.records: dict[str, Record] = {}
        self.curves: dict[str, Any] = {}
        self._training = training
        self._surrogates: dict[int, nn.Module] = {}
        self._llm: LLMRecommender | None = None
        self._untuned: dict[str, Tensor] = {}

    def scores(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the scores of these names, and make what they need before, in order."""
        scores: dict[str, np.ndarray] = {}
        if names:
            with self._opened() as folders:
                for name in score_names(self.config, names):
                    scores[name] = self._score(name, scores, *folders)
        return {name: scores[name] for name in names}

    def llm(self, folder: RunFolder) -> LLMRecommender:
        """Return the recommender before fine-tuning, from which effort is measured and fine-tuning starts.

        Args:
            folder: keeps the record of the step that loads or builds it.
        """
        if self._llm is None:
            with step(folder, LLM):
                init_seed(self.config["seed"], self.config["reproducibility"])
                self._llm = self.config.model_class(self.config, self.splits.train)
                processes.broadcast_parameters(self._llm.network)
                fsdp.shard(self._llm.network, self.config["device"].type, self.config["mixed_precision"])
            self.records[LLM] = records(folder)[LLM]
            self._untuned = {name: value.detach().clone() for name, value in self._trained()}
        else:
            for name, value in self._trained():
                value.data.copy_(self._untuned[name])
        return self._llm

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        named = self._llm.network.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    @contextmanager
    def _opened(self) -> Iterator[tuple[RunFolder, RunFolder, RunFolder]]:
        """Open the folders of surrogates, of their scores and of the language model's; no other run uses them then."""
        paths = self.folders.surrogates, self.folders.surrogate_scores, self.folders.llm_scores
        with ExitStack() as stack:
            yield tuple(stack.enter_context(opened(path)) for path in paths)

    def _score(
        self, name: str, scores: dict[str, np.ndarray], of_surrogates: RunFolder, *of_scores: RunFolder
    ) -> np.ndarray:
        """Load or compute a score whose needs are among ``scores``."""
        numbers = surrogate_numbers(self.config, get_scorer(name).needed(self.config))
        folder, file = of_scores[needs_llm(self.config, name)], f"{name}.npy"
        if not folder.has(file):
            scorer = self._scorer(name, scores, folder, [self._surrogate(n, of_surrogates) for n in numbers])
            with step(folder, name):
                values = scorer.score(self.samples)
                with folder.output(file) as path, open(path, "wb") as stream:
                    np.save(stream, values)
        discard_unfinished(folder, name)
        self._note(name, folder)
        for files in map(SurrogateFiles, numbers):
            self._note(files.step, of_surrogates)
            if training := of_surrogates.read_json(files.curve):
                self.curves[files.step] = training["curve"]
        return np.load(folder / file)

    def _scorer(
        self, name: str, scores: dict[str, np.ndarray], folder: RunFolder, surrogates: Sequence[nn.Module]
    ) -> Scorer:
        scorer = get_scorer(name)
        train_first = self._training(self.config, self.splits, folder, 0) if TRAINING in scorer.needs else None
        return scorer.from_inputs(
            ScorerInputs(
                self.config, self.splits, folder, self.folders.effort, train_first and train_first.watch, surrogates,
                self.llm(folder) if LLM in scorer.needed(self.config) else None, scores,
            )  # fmt: skip
        )

    def _surrogate(self, number: int, folder: RunFolder) -> nn.Module:
        """Load or train a surrogate."""
        if number not in self._surrogates:
            files = SurrogateFiles(number)
            training = self._training(self.config, self.splits, folder, number)
            if folder.has(files.weights, files.curve):
                training.load()
            else:
                with step(folder, files.step):
                    training.fit()
                training.finish()  # after the record is kept: what is there of a finished training is whole
            discard_unfinished(folder, files.weights)
            self._surrogates[number] = training.model
        return self._surrogates[number]

    def _note(self, name: str, folder: RunFolder) -> None:
        if name in (kept := records(folder)):
            self.records[name] = kept[name]


def scoring_steps(config: Config, names: Iterable[str]) -> list[str]:
    """Return the steps that some scores take, in order: surrogates, language model, scores that others need."""
    steps: dict[str, None] = {}
    for name in names:
        needs = get_scorer(name).needed(config)
        steps |= dict.fromkeys(surrogate_steps(config, name))
        steps |= dict.fromkeys([LLM] if LLM in needs else [])
        steps |= dict.fromkeys(scoring_steps(config, [need for need in needs if need not in MADE]))
        steps[name] = None
    return list(steps)


def surrogate_steps(config: Config, name: str) -> list[str]:
    """Return the steps that train what a score is computed on."""
    return [SurrogateFiles(number).step for number in surrogate_numbers(config, get_scorer(name).needed(config))]


def step_outputs(config: Config, folders: Folders, name: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of what a step that is kept makes, a surrogate's or a score's, and the names of its outputs."""
    if name in scorer_names():
        folder = folders.llm_scores if needs_llm(config, name) else folders.surrogate_scores
        return folder, (f"{name}.npy",)
    files = next(files for files in map(SurrogateFiles, range(config["n_surrogates"])) if files.step == name)
    return folders.surrogates, (files.weights, files.curve)


def score_names(config: Config, names: Iterable[str]) -> list[str]:
    """Return some scores and those that they need, in order."""
    return [name for name in scoring_steps(config, names) if name in scorer_names()]


def needs_surrogate(config: Config, names: Iterable[str]) -> bool:
    """Return whether some scores are computed on surrogates."""
    surrogates = {SURROGATE, SURROGATES, TRAINING}
    return any(not surrogates.isdisjoint(get_scorer(name).needed(config)) for name in score_names(config, names))


def needs_llm(config: Config, name: str) -> bool:
    """Return whether a score is computed on the language model."""
    return LLM in scoring_steps(config, [name])


def surrogate_numbers(config: Config, needs: Sequence[str]) -> Sequence[int]:
    """Return the numbers of the surrogates that a scorer needs."""
    return range(config["n_surrogates"] if SURROGATES in needs else int(SURROGATE in needs))
