"""Cost estimate of a run: each step is measured on one full batch, and its seconds count for every batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recbole_dealrec.cli import part
from recbole_dealrec.cli.part import query_seconds, seconds_of, timed
from recbole_dealrec.cli.part_scoring import PartScoring
from recbole_dealrec.data import train_loader
from recbole_dealrec.model.bigrec.tiny import tiny_llm_folder
from recbole_dealrec.model.surrogate.surrogate import surrogate_loader
from recbole_dealrec.pipeline import EVALUATION, FINE_TUNING, SELECTION, Job
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.scorer.scorer import LLM, TRAINING, get_scorer, scorer_names
from recbole_dealrec.scorer.scoring import step_outputs
from recbole_dealrec.store.peak_memory import peak_memory
from recbole_dealrec.training.exponent import REWEIGHTING, n_queries
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer


@dataclass(frozen=True)
class Estimate:
    """Seconds of all epochs, and peak memory in MiB by name."""

    seconds: float
    memory: Mapping[str, float]


class Estimator:
    """Measure each step once, for the runs of one command, which differ in sampler and seed.

    A full batch has the peak memory of the run, however many batches there are.

    Args:
        job: one of the runs.
        folder: temporary folder; nothing is written elsewhere.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.run, self.splits, self.n = job.config, job.splits, len(job.samples)
        self.root = Path(job.config["checkpoint_dir"]).absolute()
        for made in self.root.glob("*"):
            (folder / made.name).symlink_to(made)  # an existing language model is not built again
        self.config = part.short_config(job.config, folder)
        self.scoring = PartScoring(job, self.config, folder)
        self.folder = partial(part.new_folder, folder)
        self.ranked = False
        self.estimates: dict[tuple, Estimate] = {}

    def estimate(self, job: Job, name: str) -> Estimate:
        """Return the cost of a step of a job; the steps that it depends on have to be estimated first."""
        own = {LLM: self._make_llm, SELECTION: self._select, FINE_TUNING: self._fine_tune, EVALUATION: self._evaluate}
        own[REWEIGHTING] = self._reweight
        kind = name if name in (*own, *scorer_names()) else "surrogate"
        key = kind, {SELECTION: job.config["sampler"], FINE_TUNING: part.n_selected(job)}.get(kind)
        if key not in self.estimates:
            with peak_memory() as memory:
                if kind in own:
                    seconds = own[kind](job)
                else:
                    seconds = self._train_surrogate() if kind == "surrogate" else self._score(kind)
            self.estimates[key] = Estimate(seconds, memory())
        return self.estimates[key]

    def _train_surrogate(self) -> float:
        config, model, epochs = self.config.surrogate(), self.scoring.surrogate, self.run["surrogate_epochs"]
        trainer = SafetensorsTrainer(config, model, self.folder(), "surrogate")
        data = surrogate_loader(config, self.splits.train, model)._dataset
        rows = np.random.default_rng(0).permutation(len(data))[: config["train_batch_size"]]  # as a run shuffles them
        training = timed(lambda rows: trainer.fit(train_loader(config, data, rows), saved=False), rows)
        evaluate = lambda queries: trainer.evaluate(queries, load_best_model=False)  # noqa: E731
        validation = query_seconds(config, self.splits.for_selection.valid, 0, evaluate)
        return epochs * training * len(data) / len(rows) + validation * part.evaluations(epochs, config["eval_step"])

    def _make_llm(self, _: Job) -> float:
        """Return the seconds to load the model, or to build it, from builds in few steps (cold, warm) and in more."""
        path = self.run["llm_path" if "llm_path" in self.run else "semantic_id"]
        key = {"tiny": "tiny_steps", "rqvae": "rqvae_steps"}.get(path)
        if key is None or (path == "tiny" and tiny_llm_folder(self.config, self.splits.train).is_dir()):
            return self._load_llm({})
        steps = self.run[key]
        counts = [min(steps, count) for count in (1, 2, 12 + steps // 20)]
        cold, warm, more = (self._load_llm({key: count}) for count in counts)
        return cold + max(0.0, more - warm) * (steps - counts[0]) / max(1, counts[2] - counts[1])

    def _load_llm(self, keys: Mapping[str, Any]) -> float:
        config = part.with_keys(self.config, keys)
        return seconds_of(lambda: setattr(self.scoring, "llm", config.model_class(config, self.splits.train)))

    def _score(self, name: str) -> float:
        seconds = self.scoring.seconds(name)
        if TRAINING not in get_scorer(name).needed(self.config):
            return seconds
        watched = part.evaluations(self.run["surrogate_epochs"], self.run["surrogate_eval_step"])
        return self._train_surrogate() + watched * seconds

    def _select(self, job: Job) -> float:
        """Return the seconds of a selection from a part, assuming that they grow with the number of candidates."""
        if job.config["selection"]:
            return 0.0
        scoring, pool = self.scoring, self.scoring.pools[0]
        n_fewshot = max(1, self.run["n_fewshot"] * len(pool) // self.n)
        keys = {"n_fewshot": n_fewshot, "n_groups": min(self.run["n_groups"], n_fewshot)}
        sampler = get_sampler(job.config["sampler"])(part.with_keys(job.config, keys))
        for name in set(sampler.needs) - scoring.scores.keys():
            folder, files = step_outputs(job.config, job.folders(self.root), name)
            scoring.scores[name] = np.load(folder / files[0], mmap_mode="r")[: len(pool)]
        sampler.scores = {name: scoring.tiled(name, len(pool)) for name in sampler.needs}
        first = seconds_of(lambda: sampler.sample(pool))
        return (seconds_of(lambda: sampler.sample(pool)) if first < 1 else first) * self.n / len(pool)

    def _fine_tune(self, job: Job) -> float:
        config, epochs, pool = self.config, self.run["epochs"], self.scoring.pools[1]
        trainer = self._trainer()
        rows = pool.rows[part.typical(pool.item_length, min(config["train_batch_size"], part.n_selected(job)), config)]
        training = timed(lambda rows: trainer.fit(train_loader(config, self.splits.train, rows), saved=False), rows)
        ready = 0.0 if self.run["valid_metric"].lower() == "loss" else self._prepare_ranking()
        validation = query_seconds(config, self.splits.for_tuning.valid, config["n_valid"], trainer._valid_epoch)
        n_evaluations = part.evaluations(epochs, self.run["eval_step"])
        return epochs * training * part.n_selected(job) / len(rows) + n_evaluations * validation + ready

    def _reweight(self, _: Job) -> float:
        if "auto" not in (self.config["grounding_popularity"], self.config["grounding_collaborative"]):
            return 0.0
        rank = lambda queries: list(self._trainer().rankings(queries))  # noqa: E731
        valid, count = self.splits.for_tuning.valid, n_queries(self.config)
        return self._prepare_ranking() + query_seconds(self.config, valid, count, rank)

    def _evaluate(self, _: Job) -> float:
        trainer = self._trainer()
        trainer.collect_data(train_loader(self.config, self.splits.train, self.scoring.pools[1].rows))
        evaluate = lambda queries: trainer.evaluate(queries, load_best_model=False)  # noqa: E731
        return self._prepare_ranking() + query_seconds(self.config, self.splits.test, self.config["n_test"], evaluate)

    def _prepare_ranking(self) -> float:
        """Return the seconds of the preparation before the first query, measured on a part of the catalogue."""
        if self.ranked:
            return 0.0
        self.ranked, shares = True, []
        return seconds_of(lambda: shares.append(self.scoring.llm.rehearse_ranking())) * shares[0]

    def _trainer(self) -> LLMTrainer:
        return LLMTrainer(self.config, self.scoring.llm, self.folder(), self.scoring.llm.weights_folder)
