"""What the stages of a run will take: each is rehearsed on small parts of the data, and its cost is scaled up."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, SequentialDataset, Splits
from recbole_dealrec.model.bigrec.gguf import gguf_folder, is_gguf
from recbole_dealrec.pipeline import Pipeline
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.scorer.partial_effort import part_size
from recbole_dealrec.stages import SharedStages
from recbole_dealrec.store.run_folder import RunFolder

_USERS, _CANDIDATES = 256, 384  # of the largest part, at most
_FRACTIONS = (16, 4, 1)  # of it, for the parts; the first one warms up libraries and processor
_FEWEST = 8  # users of a part, if there are as many
_PATIENCE = 15  # seconds that a stage may have taken to be rehearsed on the next part, too
_LISSA_STEPS = 100
OF_SURROGATES = ("influence", "grand", "el2n")  # scores of all surrogates; those below are of the first alone
OF_FIRST_SURROGATE = ("loss_trajectory", "surrogate_representation")


@dataclass(frozen=True)
class Work:
    """How much there is to do in a stage.

    Attributes:
        units: samples, samples times epochs, or steps: what the seconds grow with.
        times: how often it does what does not depend on them: epochs, or samples of the influence's curvature.
    """

    units: float
    times: float = 1.0


@dataclass(frozen=True)
class Fit:
    """Cost of a stage.

    Attributes:
        constant: seconds for each of ``Work.times``.
        slope: seconds for each of ``Work.units``.
        memory: peak in MiB by name, as ``PeakMemory`` has it.
    """

    constant: float
    slope: float
    memory: Mapping[str, float]

    @classmethod
    def through(cls, points: Sequence[tuple[Work, float]], memory: Mapping[str, float]) -> "Fit":
        """Line through the last two measurements.

        Args:
            points: work and seconds, the most units last. From one alone nothing is taken as constant, unless there
                are no units.
            memory: peak.
        """
        work, seconds = points[-1]
        slope = seconds / work.units if work.units else 0.0
        for less, fewer in points[-2:-1]:
            if work.units > less.units:
                # A line that falls, or that meets zero before there is no unit, is noise.
                slope = min(slope, max(0.0, (seconds - fewer) / (work.units - less.units)))
        constant = max(0.0, seconds - slope * work.units)
        return cls(constant / work.times if work.times else constant, slope, memory)

    def seconds(self, work: Work) -> float:
        """Seconds of so much work."""
        return self.constant * work.times + self.slope * work.units


@dataclass(frozen=True)
class Estimate:
    """Seconds, all epochs counted, and peak memory in MiB of a stage."""

    seconds: float
    memory: Mapping[str, float]


def stage_work(config: Config, splits: Splits, samples: CandidateSamples) -> dict[str, Work]:
    """Work of each stage, one surrogate's for ``surrogate``."""
    n, surrogates, ratio = len(samples), config["n_surrogates"], config["effort_sample_ratio"]
    steps = {"tiny": "tiny_steps", "rqvae": "rqvae_steps"}
    kind = config["llm_path"] if "llm_path" in config else config["semantic_id"]
    epochs, surrogate_epochs = config["epochs"], config["surrogate_epochs"]
    return {
        "surrogate": Work(surrogate_epochs * len(splits.train), surrogate_epochs),
        "influence": Work(n * surrogates, _curvature_work(config, n) * surrogates),
        **dict.fromkeys(("grand", "el2n"), Work(n * surrogates, surrogates)),
        **dict.fromkeys(("loss_trajectory", "surrogate_representation", "llm_representation"), Work(n)),
        "language model": Work(config[steps[kind]] if kind in steps else 0),
        "effort": Work(part_size(n, ratio) if ratio < 1 else n),
        "valid_distance": Work(n + min(1000, len(splits.valid))),
        "selection": Work(n),
        "fine-tuning": Work(epochs * fewshot_size(config, n), epochs),
        "evaluation": Work(min(config["n_test"] or len(splits.test), len(splits.test))),
    }


def _curvature_work(config: Config, n_candidates: int) -> int:
    """Samples that a solve of the influence passes over in each step, or for LiSSA its steps."""
    if config["hessian_solver"] == "lissa":
        return config["lissa_depth"] * config["lissa_repeats"]
    return min(config["hessian_samples"] or n_candidates, n_candidates)


def fewshot_size(config: Config, n_candidates: int) -> int:
    """Samples that are fine-tuned on."""
    return n_candidates if config["sampler"] == "Full" else config["n_fewshot"]


class Estimator:
    """Estimates for the runs of one command, which differ in sampler and seed; each stage is rehearsed once.

    The rehearsals are runs of the real stages, with training cut to one evaluation, on parts of the users and
    candidates that are even over their lengths. Seconds are those of the largest part, and grow with the work as from
    the part before it. Peak memory is that of the largest part: it does not grow with the number of samples once
    batches are full.

    Args:
        configs: configurations of the runs of one seed.
        splits: training, validation and test part.
        samples: candidate samples.
        folder: temporary folder; nothing is written elsewhere.

    Attributes:
        rehearsed: seconds that the rehearsals took.
    """

    def __init__(self, configs: Sequence[Config], splits: Splits, samples: CandidateSamples, folder: Path) -> None:
        self.rehearsed = 0.0
        self._splits, self._samples, self._folder = splits, samples, folder
        n_users, most = len(np.unique(samples.user_id)), _CANDIDATES
        users = min(_USERS, n_users // 2)
        if any(map(_follows_training, configs)):
            # What follows the training scores all candidates of its users, so that both grow alike.
            users, most = min(users, most * n_users // len(samples)), len(samples)
        limits = [most if most == len(samples) else max(_FEWEST, most // by) for by in _FRACTIONS]
        parts = [
            _part(splits, samples, max(_FEWEST, users // by), limit)
            for by, limit in zip(_FRACTIONS, limits, strict=True)
        ]
        self._rehearsals = [
            _Rehearsal(folder / str(number), splits, samples, *part, n_curvature=len(parts[min(number, 1)][1]))
            for number, part in enumerate(parts)
        ]
        self._fits: dict[tuple, Fit] = {}

    @classmethod
    @contextmanager
    def opened(cls, configs: Sequence[Config], splits: Splits, samples: CandidateSamples) -> Iterator["Estimator"]:
        """An estimator whose folder is removed at the end."""
        with tempfile.TemporaryDirectory() as folder:
            yield cls(configs, splits, samples, Path(folder))

    def estimates(
        self, config: Config, stages: Sequence[str], scores: Mapping[str, Path], built: bool
    ) -> dict[str, Estimate]:
        """Cost of some stages of a run.

        Args:
            config: configuration of the run.
            stages: names of the stages that are to do, in order.
            scores: files of the scores that are there already.
            built: whether the embedded language model is there already.
        """
        work = stage_work(config, self._splits, self._samples)
        if built:
            work["language model"] = Work(0)
        found = {}
        for stage in stages:
            kind = "surrogate" if stage.startswith("surrogate ") else stage
            fit = self._fit(config, kind, scores)
            found[stage] = Estimate(fit.seconds(work[kind]), fit.memory)
        return found

    def _fit(self, config: Config, stage: str, scores: Mapping[str, Path]) -> Fit:
        own = {
            "surrogate": _follows_training(config),
            "selection": config["sampler"],
            "fine-tuning": fewshot_size(config, len(self._samples)),
        }
        key = stage, own.get(stage)
        if key not in self._fits:
            start, points = perf_counter(), []
            with _secluded(self._folder):
                for rehearsal in self._rehearsals:
                    work, seconds, memory = rehearsal.measure(config, stage, scores)
                    points.append((work, seconds))
                    if perf_counter() - start > _PATIENCE:
                        break
                if stage == "influence":
                    # How many products a solve takes differs between the parts; so its share is measured apart. The
                    # mean gradient costs about what the scores do.
                    unsolved = max(0.0, seconds - 2 * rehearsal.score_once_more(stage))
                    points = [(replace(work, units=0), unsolved), (work, seconds)]
            self._fits[key] = Fit.through(points, memory)
            self.rehearsed += perf_counter() - start
        return self._fits[key]


class _Rehearsal:
    """The stages of a run on a part of the data.

    Args:
        folder: where everything is kept.
        splits: the whole data.
        samples: all candidates.
        part: part of the data.
        candidates: candidates in it.
        index: which of all candidates these are, int64.
        n_curvature: most samples that the curvature is measured on; the same for the parts that a line goes through.
    """

    def __init__(
        self,
        folder: Path,
        splits: Splits,
        samples: CandidateSamples,
        part: Splits,
        candidates: CandidateSamples,
        index: np.ndarray,
        n_curvature: int,
    ) -> None:
        self.path = folder
        self.whole = splits, samples
        self.splits, self.samples, self.index = part, candidates, index
        self.n_curvature = n_curvature
        self._pipelines: dict[tuple[str, int], Pipeline] = {}
        self._stages: SharedStages | None = None

    def measure(
        self, config: Config, stage: str, scores: Mapping[str, Path]
    ) -> tuple[Work, float, Mapping[str, float]]:
        """Work, seconds and peak memory of a stage; what it builds on is done before, if it has not been yet."""
        pipeline = self._pipeline(config)
        self._take_over(pipeline.stages.folder, scores)
        selected = np.linspace(0, len(self.samples) - 1, pipeline.config["n_fewshot"]).astype(np.int64)
        if stage in pipeline.stages.scorers:
            self._score(pipeline.stages, stage)
        elif stage == "surrogate":
            self._train_surrogate(pipeline)
        elif stage == "language model":
            pipeline.stages.llm  # noqa: B018
        elif stage == "selection":
            pipeline.select()
        elif stage == "fine-tuning":
            pipeline.fine_tune(selected)
        else:
            self._evaluate(pipeline)
        folders = pipeline.stages.folder, pipeline.folder
        seconds = {name: value for folder in folders for name, value in folder.seconds.items()}
        memory = {name: peak for folder in folders for name, peak in folder.memory.items()}
        return stage_work(pipeline.config, self.splits, self.samples)[stage], seconds[stage], memory[stage]

    def score_once_more(self, name: str) -> float:
        """Seconds that a scorer takes again, with what it keeps while it is not finished: the influence's solution."""
        folder = self._stages.score_folder
        folder.discard(f"{name}.npy")
        self._stages.scorers[name].score(self.samples)
        return folder.seconds[name]

    def _pipeline(self, config: Config) -> Pipeline:
        key = config["sampler"], fewshot_size(config, len(self.whole[1]))
        if key not in self._pipelines:
            small = self._config(config)
            if self._stages is None:
                self._stages = SharedStages(small, self.splits, self.samples, RunFolder(self.path / "shared"))
            folder = RunFolder(self.path / "-".join(map(str, key)), self._stages.folder)
            self._pipelines[key] = Pipeline(small, self._stages, folder)
        return self._pipelines[key]

    def _config(self, config: Config) -> Config:
        """The run's, with what takes long cut to the size of the part.

        One epoch of the fine-tuning ends with so many validation queries as an epoch of the run does on average.
        """
        n, (splits, samples) = len(self.samples), self.whole
        fewshot = fewshot_size(config, len(samples))
        queries = min(config["n_valid"] or len(splits.valid), len(splits.valid))
        usable = get_sampler(config["sampler"])(config, {}).usable(n)
        # No more than the part has validation queries for, in the proportion of the run.
        per_query = fewshot * max(1, config["eval_step"]) / queries
        n_fewshot = max(1, min(fewshot, usable // 3, int(len(self.splits.valid) * per_query)))
        keys = {
            "checkpoint_dir": str(self.path), "show_progress": False, "n_surrogates": 1,
            "surrogate_epochs": min(config["surrogate_epochs"], max(1, config["surrogate_eval_step"])),
            "hessian_samples": min(config["hessian_samples"] or len(samples), self.n_curvature),
            "lissa_depth": min(config["lissa_depth"], _LISSA_STEPS),
            "lissa_repeats": 1, "effort_sample_ratio": 1.0, "n_fewshot": n_fewshot,
            "n_groups": min(config["n_groups"], n_fewshot),
            "epochs": min(config["epochs"], 1),
            "eval_step": min(config["eval_step"], 1),
            "n_valid": max(1, round(n_fewshot / per_query)),
        }  # fmt: skip
        for steps in ("tiny_steps", "rqvae_steps"):
            if steps in config:
                keys[steps] = min(config[steps], max(1, n // 10))
        for path in ("llm_path", "text_encoder_path"):
            if path in config and Path(config[path]).exists():
                file = str(Path(config[path]).absolute())
                keys[path] = str(gguf_folder(file, self.path.parent)) if is_gguf(file) else file  # unpacked once
        return Config(config["model"], config["dataset"], config_dict={**config.resolved(), **keys})

    def _take_over(self, folder: RunFolder, scores: Mapping[str, Path]) -> None:
        """Scores that are there already, of the candidates of this part."""
        for name, file in scores.items():
            if not folder.has(f"{name}.npy"):
                with folder.output(f"{name}.npy") as path, open(path, "wb") as stream:
                    np.save(stream, np.load(file)[self.index])

    def _score(self, stages: SharedStages, name: str) -> None:
        if name not in stages.folder.seconds:
            stages.folder.discard(f"{name}.npy")  # taken over from a run that had it already
        stages.scorers[name].score(self.samples)

    def _train_surrogate(self, pipeline: Pipeline) -> None:
        if _follows_training(pipeline.config):
            self._score(pipeline.stages, "loss_trajectory")
        else:
            pipeline.stages.surrogates()

    def _evaluate(self, pipeline: Pipeline) -> None:
        """Evaluate the language model as it is, which takes as long as a fine-tuned one."""
        llm = pipeline.stages.llm
        with pipeline.folder.output(llm.weights_folder) as path:
            llm.save(path)
        pipeline.evaluate()


def _follows_training(config: Config) -> bool:
    """Whether all candidates are scored at each evaluation of the surrogate's training."""
    return "loss_trajectory" in get_sampler(config["sampler"]).needs


def _part(
    splits: Splits, samples: CandidateSamples, n_users: int, most: int
) -> tuple[Splits, CandidateSamples, np.ndarray]:
    """A part of the data, its candidates, and which of all they are; of so many users of each split."""
    rows = [_rows_of_users(part, n_users) for part in (splits.train, splits.valid, splits.test)]
    datasets = (splits.train, splits.valid, splits.test)
    part = Splits(*(data.copy(data.inter_feat[kept]) for data, kept in zip(datasets, rows, strict=True)))
    index = np.flatnonzero(np.isin(samples.rows, rows[0]))
    index = index[np.argsort(samples.item_length[index], kind="stable")]
    index = np.sort(index[_evenly(len(index), most)])
    candidates = samples[index]
    return part, replace(candidates, rows=np.searchsorted(rows[0], candidates.rows)), index


def _rows_of_users(dataset: SequentialDataset, count: int) -> np.ndarray:
    """All rows of ``count`` users that are even over all users, by the length of what they have; ascending."""
    samples = CandidateSamples.from_dataset(dataset)
    users, place, rows = np.unique(samples.user_id, return_inverse=True, return_counts=True)
    items = np.bincount(place.reshape(-1), weights=samples.item_length)
    kept = users[np.lexsort((items, rows))[_evenly(len(users), count)]]
    return np.flatnonzero(np.isin(samples.user_id, kept))


def _evenly(n: int, count: int) -> np.ndarray:
    """``count`` places among n, or all if there are fewer, in the middle of runs of equal length."""
    count = min(n, count)
    return ((np.arange(count) + 0.5) * n / count).astype(np.int64)


@contextmanager
def _secluded(folder: Path) -> Iterator[None]:
    """Inside the folder, where RecBole writes what it writes into the current one, without logs and warnings."""
    here, disabled = os.getcwd(), logging.root.manager.disable
    with ExitStack() as stack:
        stack.callback(logging.disable, disabled)
        stack.callback(os.chdir, here)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.chdir(folder)
        yield
