"""What every sampler starts from: surrogates, scores and the language model, each computed once."""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
from recbole.utils import init_seed
from torch import nn

from recbole_dealrec import processes, sharding
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, Splits, check_topk
from recbole_dealrec.digest import shared_name, surrogate_name, surrogate_score_name
from recbole_dealrec.model.grown_surrogate import item_tokens, start_from
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.surrogate import build_surrogate, surrogate_loader
from recbole_dealrec.previous_run import MEASURED_EFFORT, PreviousRun, surrogate_files
from recbole_dealrec.run_folder import RunFolder
from recbole_dealrec.sampler import Scorer
from recbole_dealrec.scorer import (
    EffortScorer,
    EL2NScorer,
    GraNdScorer,
    InfluenceScorer,
    KnownEffortScorer,
    LLMRepresentationScorer,
    LossTrajectoryScorer,
    PartialEffortScorer,
    ScoreCheckpoint,
    SurrogateRepresentationScorer,
    ValidDistanceScorer,
)
from recbole_dealrec.trainer import SafetensorsTrainer


class SharedStages:
    """The stages that do not depend on the sampler.

    Args:
        config: configuration of a run; keys of the selection, of fine-tuning and of the evaluation do not matter here.
        splits: training, validation and test part.
        samples: candidate samples of the training part.
        folder: where the scores of the language model are kept; what is there is not computed again.
        score_folder: where the scores of the surrogates are kept; None for ``folder``.
        surrogate_folder: where the surrogates are kept; None for ``folder``.

    Attributes:
        scorers: scorers by name, each built and run when its scores are first asked for.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        samples: CandidateSamples,
        folder: RunFolder,
        score_folder: RunFolder | None = None,
        surrogate_folder: RunFolder | None = None,
    ) -> None:
        self.config = config
        self.splits = splits
        self.samples = samples
        self.folder = folder
        self.score_folder = score_folder or folder
        self.surrogate_folder = surrogate_folder or folder
        self._llm: LLMRecommender | None = None
        self._previous = PreviousRun.of(config)
        self._checkpoint = ScoreCheckpoint(folder)
        of_surrogates = {
            "influence": self._influence_scorer,
            "grand": lambda: GraNdScorer(self.surrogates(), config),
            "el2n": lambda: EL2NScorer(self.surrogates(), config),
            "loss_trajectory": lambda: LossTrajectoryScorer(lambda watch: self._surrogate(0, watch), config),
            "surrogate_representation": lambda: SurrogateRepresentationScorer(self._surrogate(0), config),
        }
        of_llm = {
            "effort": self._effort_scorer,
            "llm_representation": lambda: LLMRepresentationScorer(self.llm, self._checkpoint),
            "valid_distance": lambda: ValidDistanceScorer(
                self.llm, CandidateSamples.from_dataset(splits.valid), config, self._checkpoint
            ),
        }
        self.scorers: dict[str, Scorer] = {
            name: _StoredScorer(place, name, build)
            for place, builders in ((self.score_folder, of_surrogates), (folder, of_llm))
            for name, build in builders.items()
        }

    @classmethod
    @contextmanager
    def opened(cls, config: Config, splits: Splits, samples: CandidateSamples) -> Iterator["SharedStages"]:
        """Stages in folders of their own under ``checkpoint_dir``, which other runs use too."""
        parent = Path(config["checkpoint_dir"])
        with (
            RunFolder.opened(parent / surrogate_name(config, splits)) as surrogate_folder,
            RunFolder.opened(parent / surrogate_score_name(config, splits), surrogate_folder) as score_folder,
            RunFolder.opened(parent / shared_name(config, splits), surrogate_folder) as folder,
        ):
            yield cls(config, splits, samples, folder, score_folder, surrogate_folder)

    def discard_unfinished(self) -> None:
        """Remove what only an interrupted run needs."""
        for folder in {self.folder, self.score_folder, self.surrogate_folder}:
            folder.discard_unfinished()

    @property
    def llm(self) -> LLMRecommender:
        """The recommender before fine-tuning, from which effort is measured and fine-tuning starts."""
        if self._llm is None:
            with self.folder.stage("language model"):
                self.seed()
                self._llm = self.config.model_class(self.config, self.splits.train)
                processes.broadcast_parameters(self._llm.network)
                sharding.shard(self._llm.network, self.config)
            self._untuned = {name: value.detach().clone() for name, value in self._tuned()}
        else:
            self.folder.reuse("language model")
            for name, value in self._tuned():
                value.data.copy_(self._untuned[name])
        return self._llm

    def surrogates(self) -> list:
        """Trained surrogates, ``n_surrogates`` of them, each with a seed of its own that follows from ``seed``."""
        return [self._surrogate(number) for number in range(self.config["n_surrogates"])]

    def surrogate_trainings(self, used: Container[str]) -> dict[str, Path]:
        """Files on the training of the surrogates among the stages that were used, by stage."""
        names = map(surrogate_names, range(self.config["n_surrogates"]))
        folder = self.surrogate_folder
        return {stage: folder / file for stage, _, file in names if stage in used and folder.has(file)}

    def seed(self) -> None:
        """Start a stage from the seed, so that a stage read from disk leaves the next one as it was."""
        init_seed(self.config["seed"], self.config["reproducibility"])

    def _tuned(self) -> list[tuple[str, nn.Parameter]]:
        named = self._llm.network.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def _surrogate(self, number: int, watch: Callable[[nn.Module], None] | None = None):
        """Trained surrogate; with ``watch``, trained again if need be, which ``watch`` sees after each evaluation."""
        config = self.config.surrogate()
        config["seed"] = surrogate_seed(self.config["seed"], number)
        init_seed(config["seed"], config["reproducibility"])
        model = build_surrogate(config, self.splits.train)
        stage, weights, finished = surrogate_names(number)
        trainer = SafetensorsTrainer(config, model, self.surrogate_folder, weights)
        if watch or not (self.surrogate_folder.has(weights) and self.surrogate_folder.has(finished)):
            check_topk(config, self.splits.train)
            with self.surrogate_folder.stage(stage):
                if self._previous:
                    self._start_from_previous(model, config, number)
                train_data = surrogate_loader(config, self.splits.train, model)
                valid_data = QueryDataLoader(config, self.splits.valid)
                options = {
                    "show_progress": config["show_progress"],
                    "callback_fn": watch and (lambda epoch, score: watch(model)),
                }
                processes.on_main(lambda: trainer.fit(train_data, valid_data, **options))
            # Only when the stage's seconds are kept: what is there of a finished training is whole.
            summary = {**trainer.summary(), "items": item_tokens(self.splits.train)}
            self.surrogate_folder.output_json(finished, summary)
            self.surrogate_folder.synchronise()
        else:
            self.surrogate_folder.reuse(stage)
        trainer.load(self.surrogate_folder / weights)
        return model

    def _start_from_previous(self, model: nn.Module, config: Config, number: int) -> None:
        (stage, _, _), path, train = surrogate_names(number), self._previous.path, self.splits.train
        if self._previous.has_surrogate(number):
            known = start_from(model, config, train, *self._previous.surrogate(number))
            getLogger().info(f"{stage} starts from that of {path}: {known} of {train.item_num - 1} items are known")
        else:
            getLogger().info(f"{stage} starts from nothing: {path} has none of this number")

    def _influence_scorer(self) -> InfluenceScorer:
        on_valid = self.config["influence_on"] == "valid"
        risk_samples = CandidateSamples.from_dataset(self.splits.valid) if on_valid else None
        return InfluenceScorer(self.surrogates(), self.config, risk_samples, ScoreCheckpoint(self.score_folder))

    def _effort_scorer(self) -> Scorer:
        measured = EffortScorer(self.llm, self.config, self._checkpoint)
        effort = KnownEffortScorer(measured, self.folder, self._previous)
        if self.config["effort_sample_ratio"] == 1:
            return effort
        return PartialEffortScorer(effort, self._surrogate(0), self.scorers["influence"].score, self.config)


def surrogate_names(number: int) -> tuple[str, str, str]:
    """Stage, and files of the weights and of the finished training, of a run's surrogate."""
    weights, finished = surrogate_files(number)
    return Path(weights).stem.replace("-", " "), weights, finished


def score_files(name: str) -> list[str]:
    """Outputs of a scorer, the scores first."""
    return [f"{name}.npy", *([MEASURED_EFFORT] if name == "effort" else [])]


def surrogate_seed(seed: int, number: int) -> int:
    """Seed of a run's surrogate; surrogates of neighbouring seeds have none in common, as ``seed + number`` would."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@dataclass(frozen=True)
class _StoredScorer:
    """A scorer that is built and run once; its scores are kept in the folder."""

    folder: RunFolder
    name: str
    build: Callable[[], Scorer]

    def score(self, samples: CandidateSamples) -> np.ndarray:
        file, *_ = files = score_files(self.name)
        if all(map(self.folder.has, files)):
            self.folder.reuse(self.name)
        else:
            with self.folder.stage(self.name):
                scores = self.build().score(samples)
                with self.folder.output(file) as path, open(path, "wb") as stream:
                    np.save(stream, scores)
        return np.load(self.folder / file)
