"""One run: selection, few-shot fine-tuning, metrics."""

import json
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, train_loader
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.distributed import processes
from recbole_dealrec.report import example_places, log_summary, selection_statistics, write_report
from recbole_dealrec.run_folder import RunFolder, read_json
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.stages import SharedStages
from recbole_dealrec.trainer import LLMTrainer

STAGES = ("score", "select", "finetune", "evaluate")


class Pipeline:
    """The stages of one run, in order; a stage whose output is in the run folder is not run again.

    Args:
        config: the run's configuration.
        stages: what it shares with runs of other samplers.
        folder: run folder.

    Raises:
        InputError: no such sampler, or too few candidates to choose from.
    """

    def __init__(self, config: Config, stages: SharedStages, folder: RunFolder) -> None:
        self.config = config
        self.stages = stages
        self.folder = folder
        self.samples, self.splits = stages.samples, stages.splits
        self.sampler = get_sampler(config["sampler"])(config, stages.scorers)
        self.sampler.check(len(self.samples))

    def run(self, last: str = STAGES[-1]) -> dict[str, Any]:
        """The stages up to and including the ``last`` one.

        Returns:
            What ``recbole_dealrec.run_recbole_dealrec`` does, but for ``run_dir``.
        """
        with self.folder.output("config.yaml") as file:
            file.write_text(yaml.safe_dump(self.config.resolved(), allow_unicode=True), encoding="utf-8")
        if last == "score":
            self.score()
            return {"seconds": self.folder.seconds}
        selected = self.select()
        if last == "select":
            return {"selected": selected, "seconds": self.folder.seconds}
        best_valid_result = self.fine_tune(selected)
        if last == "finetune":
            seconds = self.folder.seconds
            return {"best_valid_result": best_valid_result, "selected": selected, "seconds": seconds}
        return self._finish(selected, best_valid_result, self.evaluate())

    def score(self) -> None:
        """Scores that the sampler needs, kept in the folder of the shared stages."""
        for name in self.sampler.needs:
            self.stages.scorers[name].score(self.samples)

    def _finish(
        self, selected: np.ndarray, best_valid_result: dict[str, float], evaluation: dict[str, Any]
    ) -> dict[str, Any]:
        """Write result and report, and remove what only an interrupted run needs."""
        result = {
            "best_valid_result": best_valid_result,
            **evaluation,
            "n_candidates": len(self.samples),
            "seconds": self.folder.seconds,
            "memory_mib": self.folder.memory,
            "training": self._training_curves(),
            "selection": self._statistics(),
            "selected": selected.tolist(),
        }
        self.folder.output_json("result.json", result)
        write_report(self.folder, self.config, result)
        log_summary(self.config, result)
        self.folder.discard_unfinished()
        self.stages.discard_unfinished()
        return {**result, "selected": selected}

    def select(self) -> np.ndarray:
        """Indices of the selected candidates, int64 [n_fewshot]."""
        if all(map(self.folder.has, ("fewshot.jsonl", "examples.json", "scores.csv"))):
            return np.flatnonzero(pd.read_csv(self.folder / "scores.csv", usecols=["selected"])["selected"])
        with self.folder.stage("selection"):
            selected = processes.broadcast(np.asarray(self.sampler.sample(self.samples), dtype=np.int64))
        self._write_fewshot(self.samples[selected])
        self._write_examples()
        self._write_scores(selected)
        self.folder.synchronise()
        return selected

    def fine_tune(self, selected: np.ndarray) -> dict[str, float]:
        """Fine-tune on the selected samples; returns the best validation result."""
        trained = self.folder.has("fine_tuning.json") and self.folder.has(self.config.model_class.weights_folder)
        if not trained:
            trainer = self._trainer()
            with self.folder.stage("fine-tuning"):
                self.stages.seed()
                train_data = train_loader(self.config, self.splits.train, self.samples.rows[selected])
                valid_data = QueryDataLoader(self.config, self.splits.valid, self.config["n_valid"])
                trainer.fit(train_data, valid_data, show_progress=self.config["show_progress"])
                self.folder.output_json("fine_tuning.json", trainer.summary())
        return read_json(self.folder / "fine_tuning.json")["best_valid_result"]

    def evaluate(self) -> dict[str, Any]:
        """Metrics of the fine-tuned recommender on the test part, their standard errors and the number of queries."""
        if not self.folder.has("test_result.json"):
            trainer = self._trainer()
            with self.folder.stage("evaluation"):
                self.stages.seed()
                train_data = train_loader(self.config, self.splits.train, self.samples.rows)
                trainer.eval_collector.data_collect(train_data)
                test_data = QueryDataLoader(self.config, self.splits.test, self.config["n_test"])
                evaluation = {
                    "test_result": trainer.test(test_data, self.config["show_progress"]),
                    "test_standard_error": trainer.evaluator.standard_errors(),
                    "n_test_queries": len(test_data.positives),
                }
                self.folder.output_json("test_result.json", evaluation)
        return read_json(self.folder / "test_result.json")

    def _statistics(self) -> dict[str, Any]:
        scores = pd.read_csv(self.folder / "scores.csv")
        return selection_statistics(scores, self.samples, item_counts(self.splits.train))

    def _training_curves(self) -> dict[str, dict[str, Any]]:
        """Curves of the fine-tuning and of the surrogates that the run used, by stage, as far as they were kept."""
        files = {
            "fine-tuning": self.folder / "fine_tuning.json",
            **self.stages.surrogate_trainings(self.folder.seconds),
        }
        trainings = {stage: read_json(file) for stage, file in files.items()}
        return {stage: training["curve"] for stage, training in trainings.items() if "curve" in training}

    def _trainer(self) -> LLMTrainer:
        llm = self.stages.llm
        return LLMTrainer(self.config, llm, self.folder, llm.weights_folder)

    def _write_scores(self, selected: np.ndarray) -> None:
        dataset = self.splits.train
        columns = {
            "user": dataset.id2token(dataset.uid_field, self.samples.user_id),
            "target": dataset.id2token(dataset.iid_field, self.samples.item_id),
            **self.sampler.columns,
            "selected": np.isin(np.arange(len(self.samples)), selected).astype(int),
        }
        with self.folder.output("scores.csv") as file:
            pd.DataFrame(columns).to_csv(file, index=False)

    def _write_fewshot(self, samples: CandidateSamples) -> None:
        with self.folder.output("fewshot.jsonl") as file, open(file, "w", encoding="utf-8") as stream:
            for row in self.stages.llm.instructions(samples):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _write_examples(self) -> None:
        ranked_by, places = example_places(self.sampler.columns, self.samples.item_length)
        named = [(name, index) for name, indices in places.items() for index in indices.tolist()]
        rows = self.stages.llm.instructions(self.samples[np.array([index for _, index in named], dtype=np.int64)])
        examples = [{"place": name, "sample": index, **row} for (name, index), row in zip(named, rows, strict=True)]
        self.folder.output_json("examples.json", {"ranked_by": ranked_by, "samples": examples})
