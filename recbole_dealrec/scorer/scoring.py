"""Scores of the candidates, and the models that they are computed with, shared by all runs of a seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from recbole.utils import init_seed
from torch import Tensor, nn

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.surrogate.surrogate import SurrogateFiles, surrogate_labels
from recbole_dealrec.scorer.scorer import (
    LLM,
    MADE,
    PARTS,
    SURROGATE,
    SURROGATES,
    TRAIN,
    TRAINING,
    Scorer,
    ScorerInputs,
    get_scorer,
    scorer_names,
)
from recbole_dealrec.store.names import Folders
from recbole_dealrec.store.opening import discard_unfinished, opened
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import Record, is_due, records, step


class Training(Protocol):
    """Training of a surrogate; ``recbole_dealrec.training.surrogate_training.SurrogateTraining`` is one."""

    model: nn.Module

    def fit(self) -> None: ...

    def finish(self) -> None: ...

    def load(self) -> None: ...

    def watch(self, after_evaluation: Callable[[nn.Module], None]) -> None: ...


class Scoring:
    """Surrogates, language model and scores of the runs of one seed.

    Surrogates and scores are loaded from their folders, or computed and saved there.

    Args:
        config: configuration of one of the runs; they differ only in keys of selection and fine-tuning.
        splits: training, validation and test parts, of which the selection may see only half of the validation part.
        samples: candidate samples of the training part.
        folders: folders of surrogates and scores.
        training: creates the training of the surrogate with a number, which saves its weights in a folder; an optional
            fifth argument is called with the curve after each epoch.

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
        training: Callable[..., Training],
    ) -> None:
        self.config, self.splits, self.samples, self.folders = config, splits, samples, folders
        self.records: dict[str, Record] = {}
        self.curves: dict[str, Any] = {}
        self._on_epoch: Callable[..., None] = lambda step, curve: None
        self._training = training
        self._surrogates: dict[int, nn.Module] = {}
        self._llm: LLMRecommender | None = None
        self._untuned: dict[str, Tensor] = {}

    def scores(
        self, names: Sequence[str], on_epoch: Callable[..., None] = lambda step, curve: None
    ) -> dict[str, np.ndarray]:
        """Return the scores with these names; first load or compute everything that they need.

        Args:
            names: names of scores.
            on_epoch: called with the step and the curve of a surrogate's training after each epoch.
        """
        self._on_epoch = on_epoch
        scores: dict[str, np.ndarray] = {}
        if names:
            with self._open_folders() as folders:
                for name in score_names(self.config, names):
                    scores[name] = self._score(name, scores, *folders)
        return {name: scores[name] for name in names}

    def llm(self, folder: RunFolder) -> LLMRecommender:
        """Return the recommender before fine-tuning, from which effort is measured and fine-tuning starts.

        Args:
            folder: folder for the record of the step that loads or creates it.
        """
        if self._llm is None:
            with step(folder, LLM):
                init_seed(self.config["seed"], self.config["reproducibility"])
                self._llm = self.config.model_class(self.config, self.splits.train)
                processes.broadcast_parameters(self._llm.network)
                fsdp.shard(self._llm.network, self.config["device"].type, self.config["mixed_precision"])
            self.records[LLM] = records(folder)[LLM]
            self._untuned = {name: value.detach().clone() for name, value in self._trained_parameters()}
        else:
            for name, value in self._trained_parameters():
                value.data.copy_(self._untuned[name])
        return self._llm

    def surrogates(self, steps: Sequence[str]) -> dict[str, nn.Module]:
        """Return the trained surrogates among some steps, by step."""
        numbers = [n for n in range(self.config["n_surrogates"]) if SurrogateFiles(n).step in steps]
        if not numbers:
            return {}
        with opened(self.folders.surrogates) as folder:
            trained = [n for n in numbers if folder.has(SurrogateFiles(n).weights, SurrogateFiles(n).curve)]
            return {SurrogateFiles(n).step: self._load_or_train(n, numbers, folder) for n in trained}

    def _trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        named = self._llm.network.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    @contextmanager
    def _open_folders(self) -> Iterator[tuple[RunFolder, RunFolder, RunFolder]]:
        """Lock and yield the folders of surrogates, of scores on surrogates, and of scores by the language model."""
        paths = self.folders.surrogates, self.folders.surrogate_scores, self.folders.llm_scores
        with ExitStack() as stack:
            yield tuple(stack.enter_context(opened(path)) for path in paths)

    def _score(
        self, name: str, scores: dict[str, np.ndarray], of_surrogates: RunFolder, *of_scores: RunFolder
    ) -> np.ndarray:
        """Load or compute a score; ``scores`` has to contain those that it needs."""
        numbers = surrogate_numbers(self.config, get_scorer(name).needed(self.config))
        folder, file = of_scores[needs_llm(self.config, name)], f"{name}.npy"
        if is_due(folder, name, file):
            surrogates = [self._load_or_train(number, numbers, of_surrogates) for number in numbers]
            scorer = self._create_scorer(name, scores, folder, surrogates)
            detail = f"{len(self.samples):,} samples" + (f", {len(numbers)} surrogates" if len(numbers) > 1 else "")
            with step(folder, name, detail):
                values = scorer.score(self.samples)
            # After the record is saved, so that a score always has its record.
            with folder.output(file) as path, open(path, "wb") as stream:
                np.save(stream, values)
        discard_unfinished(folder, name)
        self._read_record(name, folder)
        for files in map(SurrogateFiles, numbers):
            self._read_record(files.step, of_surrogates)
            if training := of_surrogates.read_json(files.curve):
                self.curves[files.step] = training["curve"]
        return np.load(folder / file)

    def _create_scorer(
        self, name: str, scores: dict[str, np.ndarray], folder: RunFolder, surrogates: Sequence[nn.Module]
    ) -> Scorer:
        scorer = get_scorer(name)
        needs = scorer.needed(self.config)
        train_first = self._training(self.config, self.splits, folder, 0) if TRAINING in needs else None
        return scorer.from_inputs(
            ScorerInputs(
                self.config, self.splits, folder, self.folders.effort, train_first and train_first.watch, surrogates,
                self.llm(folder) if LLM in needs else None, scores,
            )  # fmt: skip
        )

    def _load_or_train(self, number: int, numbers: Sequence[int], folder: RunFolder) -> nn.Module:
        """Return the surrogate of a number, one of ``numbers``; load it, or train and save it."""
        if number not in self._surrogates:
            files = SurrogateFiles(number)
            training = self._training(self.config, self.splits, folder, number, partial(self._on_epoch, files.step))
            shown_name = surrogate_labels(SurrogateFiles(n).step for n in numbers)[files.step]
            if is_due(folder, shown_name, files.weights, files.curve):
                with step(folder, files.step, shown_name=shown_name):
                    training.fit()
                training.finish()  # after the record is saved, so that a finished training always has its record
            else:
                training.load()
            discard_unfinished(folder, files.weights)
            self._surrogates[number] = training.model
        return self._surrogates[number]

    def _read_record(self, name: str, folder: RunFolder) -> None:
        """Add the record of a step, if its folder has one, to ``records``."""
        if name in (stored := records(folder)):
            self.records[name] = stored[name]


def scoring_steps(config: Config, names: Iterable[str]) -> list[str]:
    """Return the steps that some scores require, in order: surrogates, language model, scores that others need."""
    steps: dict[str, None] = {}
    for name in names:
        needs = get_scorer(name).needed(config)
        steps |= dict.fromkeys(surrogate_steps(config, name))
        steps |= dict.fromkeys([LLM] if LLM in needs else [])
        steps |= dict.fromkeys(scoring_steps(config, [need for need in needs if need not in MADE]))
        steps[name] = None
    return list(steps)


def surrogate_steps(config: Config, name: str) -> list[str]:
    """Return the steps that train the surrogates of a score."""
    return [SurrogateFiles(number).step for number in surrogate_numbers(config, get_scorer(name).needed(config))]


def step_outputs(config: Config, folders: Folders, name: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder and the names of the outputs of a step that trains a surrogate or computes a score."""
    if name in scorer_names():
        folder = folders.llm_scores if needs_llm(config, name) else folders.surrogate_scores
        return folder, (f"{name}.npy",)
    files = next(files for files in map(SurrogateFiles, range(config["n_surrogates"])) if files.step == name)
    return folders.surrogates, (files.weights, files.curve)


def score_names(config: Config, names: Iterable[str]) -> list[str]:
    """Return the names of some scores and of those that they need, in order."""
    return [name for name in scoring_steps(config, names) if name in scorer_names()]


def seen_parts(config: Config, names: Iterable[str]) -> tuple[str, ...]:
    """Return what a selection by some scores depends on: the training part, and what they see of the validation part.

    Early stopping of surrogates is not counted: it sees the validation part in every run, as that of fine-tuning does.
    """
    seen = {TRAIN}.union(*(get_scorer(name).seen(config) for name in score_names(config, names)))
    return tuple(part for part in PARTS if part in seen)


def needs_surrogate(config: Config, names: Iterable[str]) -> bool:
    """Return whether some scores are computed on surrogates."""
    surrogates = {SURROGATE, SURROGATES, TRAINING}
    return any(not surrogates.isdisjoint(get_scorer(name).needed(config)) for name in score_names(config, names))


def check_scorers(config: Config, names: Iterable[str], surrogate: nn.Module, samples: CandidateSamples) -> None:
    """Raise InputError if scores that need surrogates cannot be computed on a surrogate that is not trained yet."""
    for scorer in map(get_scorer, score_names(config, names)):
        if not {SURROGATE, SURROGATES}.isdisjoint(scorer.needed(config)):
            scorer.check(surrogate, config, samples[:2])


def needs_llm(config: Config, name: str) -> bool:
    """Return whether a score is computed on the language model."""
    return LLM in scoring_steps(config, [name])


def surrogate_numbers(config: Config, needs: Sequence[str]) -> Sequence[int]:
    """Return the numbers of the surrogates that a scorer needs."""
    return range(config["n_surrogates"] if SURROGATES in needs else int(SURROGATE in needs))
