"""The pipeline: samples, scores, selection, few-shot fine-tuning, metrics."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from torch import nn

from recbole_dealrec.config import Config  # first: it makes RecBole importable
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, Splits, load_splits, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import MODELS
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.surrogate import build_surrogate, surrogate_loader
from recbole_dealrec.report import log_summary, write_report
from recbole_dealrec.run_folder import RunFolder, atomic_path, read_json, write_json
from recbole_dealrec.sampler import FewShotSampler, Scorer, get_sampler
from recbole_dealrec.scorer import (
    EffortScorer,
    EL2NScorer,
    GraNdScorer,
    InfluenceScorer,
    LLMRepresentationScorer,
    LossTrajectoryScorer,
    PartialEffortScorer,
    SurrogateRepresentationScorer,
    ValidDistanceScorer,
)
from recbole_dealrec.trainer import LLMTrainer, SafetensorsTrainer

from recbole.utils import init_logger, init_seed  # isort: skip

# Keys that change how a run is carried out, not what comes out.
_NEUTRAL_KEYS = {
    "show_progress", "state", "gpu_id", "use_gpu", "device", "checkpoint_dir", "data_path", "log_wandb",
    "wandb_project", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "worker",
    "config_files", "tokens_per_batch", "micro_batch_size", "eval_batch_size", "surrogate_eval_batch_size",
}  # fmt: skip


def run_recbole_dealrec(
    model: str = "BIGRec",
    dataset: str = "ml-100k",
    sampler: str = "DEALRec",
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Score the candidate samples, select few, fine-tune the language model on them and evaluate it.

    Args:
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        sampler: name of a few-shot sampler; a ``sampler`` in ``config_dict`` wins.
        config_file_list: YAML files of configuration keys.
        config_dict: configuration keys that win over all files.
        saved: whether the run folder is kept; a run whose folder is there goes on from its finished stages.

    Returns:
        ``best_valid_result`` and ``test_result`` (metric to value), ``selected`` (int64 indices of the candidate
        samples), ``seconds`` (stage to wall time) and ``run_dir`` (empty if not saved).

    Raises:
        InputError: input or configuration that cannot be used, before anything is trained.
    """
    if model not in MODELS:
        raise InputError(f"no model '{model}'; known are {', '.join(MODELS)} (others can be the surrogate_model)")
    config = Config(model, dataset, config_file_list, {"sampler": sampler, **(config_dict or {})})
    sampler_class = get_sampler(config["sampler"])
    config.model_class.check(config)
    _start_logging(config)
    splits = load_splits(config)
    samples = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    with _run_folder(config, splits, saved) as run:
        pipeline = Pipeline(config, splits, samples, run)
        pipeline.sampler = sampler_class(config, pipeline.scorers)
        pipeline.sampler.check(len(samples))
        logging.getLogger().info(f"{len(samples)} candidate samples; run folder {run.path}")
        result = pipeline.run()
    return {**result, "run_dir": str(run.path) if saved else ""}


class Pipeline:
    """The stages of one run, in order; a stage whose output is in the run folder is not run again.

    Args:
        config: the run's configuration.
        splits: training, validation and test part.
        samples: candidate samples of the training part.
        run: run folder.
    """

    sampler: FewShotSampler

    def __init__(self, config: Config, splits: Splits, samples: CandidateSamples, run: RunFolder) -> None:
        self.config = config
        self.splits = splits
        self.samples = samples
        self.run_folder = run
        self.scorers: dict[str, Scorer] = {
            "influence": _StoredScorer(run, "influence", self._influence_scorer),
            "effort": _StoredScorer(run, "effort", self._effort_scorer),
            **{name: _StoredScorer(run, name, build) for name, build in self._baseline_scorers().items()},
        }

    def run(self) -> dict[str, Any]:
        """All stages; the returned dictionary is that of :func:`run_recbole_dealrec` without ``run_dir``."""
        self._write_config()
        selected = self.select()
        best_valid_result = self.fine_tune(selected)
        test_result = self.evaluate()
        result = {
            "best_valid_result": best_valid_result,
            "test_result": test_result,
            "n_candidates": len(self.samples),
            "seconds": self.run_folder.seconds,
            "selected": selected.tolist(),
        }
        write_json(self.run_folder / "result.json", result)
        write_report(self.run_folder, self.config, result)
        log_summary(self.config, result)
        return {**result, "selected": selected}

    @cached_property
    def llm(self) -> LLMRecommender:
        """The recommender before fine-tuning, from which effort is measured and fine-tuning starts."""
        with self.run_folder.stage("language model"):
            self._seed()
            return self.config.model_class(self.config, self.splits.train)

    def surrogates(self) -> list:
        """Trained surrogates, ``n_surrogates`` of them, with seeds counted up from ``seed``."""
        return [self._surrogate(number) for number in range(self.config["n_surrogates"])]

    def select(self) -> np.ndarray:
        """Indices of the selected candidates, int64 [n_fewshot]."""
        table = self.run_folder / "scores.csv"
        if table.exists():
            return np.flatnonzero(pd.read_csv(table, usecols=["selected"])["selected"])
        with self.run_folder.stage("selection"):
            selected = np.asarray(self.sampler.sample(self.samples), dtype=np.int64)
            self._write_fewshot(self.samples[selected])
            self._write_scores(table, selected)
        return selected

    def fine_tune(self, selected: np.ndarray) -> dict[str, float]:
        """Fine-tune on the selected samples; returns the best validation result."""
        outcome = self.run_folder / "fine_tuning.json"
        if not outcome.exists():
            trainer = self._llm_trainer()
            with self.run_folder.stage("fine-tuning"):
                self._seed()
                train_data = train_loader(self.config, self.splits.train, self.samples.rows[selected])
                valid_data = QueryDataLoader(self.config, self.splits.valid, self.config["n_valid"])
                trainer.fit(train_data, valid_data, show_progress=self.config["show_progress"])
                write_json(outcome, {"best_valid_result": trainer.best_valid_result})
        return read_json(outcome)["best_valid_result"]

    def evaluate(self) -> dict[str, float]:
        """Metrics of the fine-tuned recommender on the test part."""
        outcome = self.run_folder / "test_result.json"
        if not outcome.exists():
            trainer = self._llm_trainer()
            with self.run_folder.stage("evaluation"):
                self._seed()
                train_data = train_loader(self.config, self.splits.train, self.samples.rows)
                trainer.eval_collector.data_collect(train_data)
                test_data = QueryDataLoader(self.config, self.splits.test)
                test_result = trainer.evaluate(test_data, show_progress=self.config["show_progress"])
                write_json(outcome, {metric: float(value) for metric, value in test_result.items()})
        return read_json(outcome)

    def _seed(self) -> None:
        # Each stage starts from the seed, so that a stage read from disk leaves the next one as it was.
        init_seed(self.config["seed"], self.config["reproducibility"])

    def _llm_trainer(self) -> LLMTrainer:
        return LLMTrainer(self.config, self.llm, self.run_folder / self.llm.weights_folder)

    def _surrogate(self, number: int, watch: Callable[[nn.Module], None] | None = None):
        """Trained surrogate; with ``watch``, trained again if need be, which ``watch`` sees after each evaluation."""
        config = self.config.surrogate()
        config["seed"] = self.config["seed"] + number
        init_seed(config["seed"], config["reproducibility"])
        model = build_surrogate(config, self.splits.train)
        weights = self.run_folder / ("surrogate.safetensors" if number == 0 else f"surrogate-{number}.safetensors")
        finished = weights.with_suffix(".json")
        trainer = SafetensorsTrainer(config, model, weights)
        if watch or not finished.exists():
            with self.run_folder.stage("surrogate" if number == 0 else f"surrogate {number}"):
                train_data = surrogate_loader(config, self.splits.train, model)
                valid_data = QueryDataLoader(config, self.splits.valid)
                _, result = trainer.fit(
                    train_data,
                    valid_data,
                    show_progress=config["show_progress"],
                    callback_fn=watch and (lambda epoch, score: watch(model)),
                )
                write_json(finished, result)
        trainer.load(weights)
        return model

    def _influence_scorer(self) -> InfluenceScorer:
        on_valid = self.config["influence_on"] == "valid"
        risk_samples = CandidateSamples.from_dataset(self.splits.valid) if on_valid else None
        return InfluenceScorer(self.surrogates(), self.config, risk_samples)

    def _effort_scorer(self) -> Scorer:
        effort = EffortScorer(self.llm, self.config)
        if self.config["effort_sample_ratio"] == 1:
            return effort
        return PartialEffortScorer(effort, self._surrogate(0), self.scorers["influence"].score, self.config)

    def _baseline_scorers(self) -> dict[str, Callable[[], Scorer]]:
        config = self.config
        return {
            "grand": lambda: GraNdScorer(self.surrogates(), config),
            "el2n": lambda: EL2NScorer(self.surrogates(), config),
            "loss_trajectory": lambda: LossTrajectoryScorer(lambda watch: self._surrogate(0, watch), config),
            "surrogate_representation": lambda: SurrogateRepresentationScorer(self._surrogate(0), config),
            "llm_representation": lambda: LLMRepresentationScorer(self.llm),
            "valid_distance": lambda: ValidDistanceScorer(
                self.llm, CandidateSamples.from_dataset(self.splits.valid), config
            ),
        }

    def _write_config(self) -> None:
        with atomic_path(self.run_folder / "config.yaml") as file:
            file.write_text(yaml.safe_dump(self.config.resolved(), allow_unicode=True), encoding="utf-8")

    def _write_scores(self, table: Path, selected: np.ndarray) -> None:
        dataset = self.splits.train
        columns = {
            "user": dataset.id2token(dataset.uid_field, self.samples.user_id),
            "target": dataset.id2token(dataset.iid_field, self.samples.item_id),
            **self.sampler.columns,
            "selected": np.isin(np.arange(len(self.samples)), selected).astype(int),
        }
        with atomic_path(table) as file:
            pd.DataFrame(columns).to_csv(file, index=False)

    def _write_fewshot(self, samples: CandidateSamples) -> None:
        with atomic_path(self.run_folder / "fewshot.jsonl") as file, open(file, "w", encoding="utf-8") as stream:
            for row in self.llm.instructions(samples):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class _StoredScorer:
    """A scorer that is built and run once; its scores are kept in the run folder."""

    run: RunFolder
    name: str
    build: Callable[[], Scorer]

    def score(self, samples: CandidateSamples) -> np.ndarray:
        file = self.run / f"{self.name}.npy"
        if not file.exists():
            scorer = self.build()
            with self.run.stage(self.name):
                scores = scorer.score(samples)
            with atomic_path(file) as path, open(path, "wb") as stream:
                np.save(stream, scores)
        return np.load(file)


@contextmanager
def _run_folder(config: Config, splits: Splits, saved: bool) -> Iterator[RunFolder]:
    if saved:
        name = f"{config['dataset']}-{config['model']}-{config['sampler']}-{_digest(config, splits)}"
        yield RunFolder(Path(config["checkpoint_dir"]) / name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield RunFolder(Path(folder))


def _digest(config: Config, splits: Splits) -> str:
    """Twelve hexadecimal digits of what determines the result: resolved keys, rows, item tokens and titles."""
    keys = {key: value for key, value in config.resolved().items() if key not in _NEUTRAL_KEYS}
    hashed = hashlib.sha256(json.dumps(keys, sort_keys=True, default=str).encode())
    for part in (splits.train, splits.valid, splits.test):
        samples = CandidateSamples.from_dataset(part)
        for column in (samples.user_id, samples.item_id, samples.item_id_list):
            hashed.update(np.ascontiguousarray(column).tobytes())
    tokens = splits.train.field2id_token[splits.train.iid_field]
    hashed.update("\n".join([*map(str, tokens), *splits.train.titles]).encode())
    return hashed.hexdigest()[:12]


def _start_logging(config: Config) -> None:
    """RecBole's log file and console; those of an earlier run in this process are closed first."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "of_recbole", False)]:
        root.removeHandler(handler)
        handler.close()
    others = set(root.handlers)
    init_logger(config)
    for handler in set(root.handlers) - others:
        handler.of_recbole = True
    logging.getLogger("httpx").setLevel(logging.WARNING)
    root.info(config)
