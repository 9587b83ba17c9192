"""The steps of one run: prepare, score, select, fine-tune, evaluate, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recbole.utils import init_seed

from recbole_dealrec.config import Config
from recbole_dealrec.config.given import check_given
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.config.yaml_file import read_yaml_files
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, Splits, check_cutoffs, load_splits, train_loader
from recbole_dealrec.data.catalogue import keep_catalogue
from recbole_dealrec.distributed import processes
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.model.checkpoint import checkpoint_contents
from recbole_dealrec.model.surrogate import build_surrogate, settle_epochs
from recbole_dealrec.report import example_prompts, log_summary, ranked_queries, selection_statistics, write_report
from recbole_dealrec.report.card import write_card
from recbole_dealrec.sampler.few_shot import FewShotSampler, settle_n_fewshot
from recbole_dealrec.sampler.selection import Selection
from recbole_dealrec.sampler.selection_card import CARD, GivenSampler, sampler_of, selection_card, shared_keys
from recbole_dealrec.scorer.scorer import LLM
from recbole_dealrec.scorer.scoring import Scoring, check_scorers, needs_surrogate, scoring_steps
from recbole_dealrec.store.names import Folders
from recbole_dealrec.store.opening import discard_unfinished, synchronize
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import add_records, is_due, records, step
from recbole_dealrec.training.exponent import REWEIGHTING, chosen_reweighting
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.training.safetensors_trainer import OnEpoch, unheard
from recbole_dealrec.training.surrogate_training import SurrogateTraining
from recbole_dealrec.yardstick import Evaluation, verdict

SELECTION, FINE_TUNING, EVALUATION, YARDSTICKS = "selection", "fine-tuning", "evaluation", "yardsticks"
UNTUNED_EVALUATION = "evaluation before fine-tuning"
SELECTION_OUTPUTS = ("selection.npz", CARD, "scores.csv", "fewshot.jsonl", "examples.json", "surrogates.json")


@dataclass(frozen=True)
class Job:
    """The checked input of one run.

    Attributes:
        config: its configuration.
        splits: training, validation and test parts.
        samples: candidate samples of the training part.
        sampler: the few-shot sampler.
    """

    config: Config
    splits: Splits
    samples: CandidateSamples
    sampler: FewShotSampler

    def scoring(self, root: Path | None = None) -> Scoring:
        """Return the scoring of this job; jobs that differ only in the selection can share it.

        Args:
            root: parent folder of all outputs; None for ``checkpoint_dir``.
        """
        return Scoring(self.config, self.splits.for_selection, self.samples, self.folders(root), SurrogateTraining)

    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Return the names of each step's outputs in the run folder."""
        fine_tuned = "fine_tuning.json", self.config.model_class.weights_folder
        outputs = {SELECTION: SELECTION_OUTPUTS, FINE_TUNING: fine_tuned, REWEIGHTING: (REWEIGHTING,)}
        return {**outputs, EVALUATION: (REWEIGHTING, "users.json", "test_result.json")}

    def folders(self, root: Path | None = None) -> Folders:
        """Return the folders of this job under ``root``, None for ``checkpoint_dir``."""
        return Folders.of(self.config, self._contents, root or Path(self.config["checkpoint_dir"]))

    @cached_property
    def _contents(self) -> dict[str, Any]:
        card = {"selection": self.sampler.origin} if isinstance(self.sampler, GivenSampler) else {}
        return {**self.splits.contents, **checkpoint_contents(self.config), **card}


def configure(
    model: str | None,
    dataset: str | None,
    config_file_list: Sequence[str | Path] | None,
    config_dict: Mapping[str, Any],
    sampler: str | None = None,
) -> Config:
    """Return the configuration of a run.

    A key in ``config_dict`` overrides an argument, an argument overrides a file; any other key has its default.

    Args:
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        config_file_list: YAML files of configuration keys.
        config_dict: configuration keys that override all files.
        sampler: few-shot sampler.

    Raises:
        InputError: the configuration is invalid, regardless of the data and the language model.
    """
    arguments = {"model": model, "dataset": dataset, "sampler": sampler}
    keys = {**{name: value for name, value in arguments.items() if value is not None}, **config_dict}
    keys |= shared_keys({**read_yaml_files(config_file_list), **keys})
    chosen = check_given(config_file_list, keys)
    config = Config(chosen["model"], chosen["dataset"], config_file_list, keys)
    config.check_valid_metric()
    return config


def prepare(configs: Sequence[Config], check_llm: bool = True, last: str = LAST_STEPS[-1]) -> list[Job]:
    """Load the data of runs, and check all their input before anything is computed.

    Args:
        configs: configurations that differ only in keys of the selection.
        check_llm: whether to also check the files of the language model.
        last: the last step of the runs.

    Raises:
        InputError: invalid input or configuration.
    """
    first = configs[0]
    if check_llm:
        first.model_class.check(first)
    splits = load_splits(first)
    samples = CandidateSamples.from_dataset(splits.train, first["samples_per_user"])
    surrogate = first.surrogate()
    untrained = build_surrogate(surrogate, splits.train)
    settle_n_fewshot(configs, len(samples))
    settle_epochs(configs, surrogate, splits.train, untrained)
    jobs = [Job(config, splits, samples, sampler_of(config, splits, samples)) for config in configs]
    with_surrogate = any(needs_surrogate(first, job.sampler.needs) for job in jobs)
    if with_surrogate or last in ("finetune", "evaluate"):
        check_cutoffs("topk", first["topk"], splits.train)
    if with_surrogate:
        check_cutoffs("surrogate_valid_metric", surrogate["topk"], splits.train)
    for job in jobs:
        job.sampler.check(samples)
        check_scorers(first, job.sampler.needs, untrained, samples)
    return jobs


class Pipeline:
    """Run the steps of one run in order, except those whose outputs are in the run folder.

    Args:
        job: the input of the run.
        scoring: scores and language model, shared with the runs of other samplers.
        folder: run folder.
        on_epoch: called after each epoch of a training with its step and its curve.
    """

    def __init__(self, job: Job, scoring: Scoring, folder: RunFolder, on_epoch: OnEpoch = unheard) -> None:
        self.job, self.scoring, self.folder, self.on_epoch = job, scoring, folder, on_epoch
        self.config, self.splits, self.samples = job.config, job.splits, job.samples
        self._evaluation = Evaluation(job.config, job.splits, job.samples)

    def run(self, last: str = LAST_STEPS[-1]) -> dict[str, Any]:
        """Run the steps up to the ``last`` one; return the result of ``run_recbole_dealrec`` without ``run_dir``."""
        with self.folder.output("config.yaml") as file:
            file.write_text(yaml.safe_dump(self.config.resolved(), allow_unicode=True), encoding="utf-8")
        if last == "score":
            self.score()
            return {"seconds": self.seconds()}
        due = is_due(self.folder, SELECTION, *SELECTION_OUTPUTS)
        selection = self.select(self.score()) if due else Selection.load(self.folder)
        result: dict[str, Any] = {"selected": selection.indices}
        if last in ("finetune", "evaluate"):
            result["best_valid_result"] = self.fine_tune(selection.indices)
        if last == "evaluate":
            result |= self.evaluate()
            result = self.report(selection, {**result, "yardsticks": self.measure_yardsticks()})
        return {**result, "seconds": self.seconds()}

    def score(self) -> dict[str, np.ndarray]:
        """Return the scores that the sampler needs, and copy the records of their steps to the run folder."""
        needs = self.job.sampler.needs
        scores = self.scoring.scores(needs, self.on_epoch)
        known = self.scoring.records
        add_records(self.folder, {name: known[name] for name in scoring_steps(self.config, needs) if name in known})
        return scores

    def select(self, scores: Mapping[str, np.ndarray]) -> Selection:
        """Choose the few-shot samples, and write the outputs of the selection."""
        sampler, llm = self.job.sampler, self.llm()
        sampler.scores = scores
        with step(self.folder, SELECTION):
            indices = processes.broadcast(np.asarray(sampler.sample(self.samples), dtype=np.int64))
        card = selection_card(sampler, self.splits, self.samples, indices, records(self.folder))
        add_records(self.folder, card["steps"])
        self.folder.output_json(CARD, card)
        selection = Selection(indices, sampler.columns, sampler.ranked_by)
        steps = scoring_steps(self.config, sampler.needs)
        curves = {name: curve for name, curve in self.scoring.curves.items() if name in steps}
        self.folder.output_json("surrogates.json", curves)
        self.folder.output_json_lines("fewshot.jsonl", llm.instructions(self.samples[indices]))
        self.folder.output_json("examples.json", example_prompts(selection, self.samples, llm))
        with self.folder.output("scores.csv") as file:
            selection.table(self.splits.train, self.samples).to_csv(file, index=False)
        selection.save(self.folder)
        synchronize(self.folder)
        return selection

    def fine_tune(self, selected: np.ndarray) -> dict[str, float]:
        """Fine-tune on the selected samples, and return the best validation result."""
        if is_due(self.folder, FINE_TUNING, *self.job.outputs()[FINE_TUNING]):
            trainer = self._trainer()
            with step(self.folder, FINE_TUNING, f"{len(selected):,} samples") as outputs:
                self._reset_seed()
                train_data = train_loader(self.config, self.splits.train, self.samples.rows[selected])
                valid_data = QueryDataLoader(self.config, self.splits.for_tuning.valid, self.config["n_valid"])
                trainer.fit(train_data, valid_data, show_progress=self.config["show_progress"])
                outputs["fine_tuning.json"] = trainer.summary()
        return self.folder.read_json("fine_tuning.json")["best_valid_result"]

    def evaluate(self) -> dict[str, Any]:
        """Return the metrics on the test part, their standard errors and the number of queries."""
        if is_due(self.folder, EVALUATION, *self.job.outputs()[EVALUATION]):
            trainer = self._trainer()
            reweighting = chosen_reweighting(trainer, self.splits, list(self._surrogates().values()))
            with step(self.folder, EVALUATION) as outputs:
                self._reset_seed()
                result = self._evaluation.tuned(trainer, reweighting)
                with trainer.accelerator.autocast():
                    outputs["users.json"] = ranked_queries(trainer.model, self.splits)
                outputs["test_result.json"] = result
        return self.folder.read_json("test_result.json")

    def measure_yardsticks(self) -> list[dict[str, Any]]:
        """Return the rows of the yardsticks and of the model before fine-tuning, on the same test queries."""
        if not self.config["yardsticks"]:
            return []
        if is_due(self.folder, YARDSTICKS, "yardsticks.json"):
            surrogates = self._surrogates()
            with step(self.folder, YARDSTICKS) as outputs:
                outputs["yardsticks.json"] = self._evaluation.yardsticks(surrogates)
        if self._untuned_is_due():
            trainer = self._trainer()
            with step(self.folder, UNTUNED_EVALUATION) as outputs:
                outputs["untuned.json"] = self._evaluation.untuned(trainer)
        return [*self.folder.read_json("yardsticks.json"), *filter(None, [self.folder.read_json("untuned.json")])]

    def _surrogates(self) -> dict[str, Any]:
        return self.scoring.surrogates(scoring_steps(self.config, self.job.sampler.needs))

    def _untuned_is_due(self) -> bool:
        seconds, wanted = self.seconds(), self.config["untuned"]
        cheap = seconds.get(EVALUATION, 0) < sum(seconds.values()) / 10
        due = (cheap if wanted == "auto" else wanted) and is_due(self.folder, UNTUNED_EVALUATION, "untuned.json")
        return processes.broadcast(due)

    def report(self, selection: Selection, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result and the report, and remove unfinished outputs."""
        table = selection.table(self.splits.train, self.samples)
        card = self.folder.read_json(CARD)
        keep_catalogue(self.folder, self.splits)
        result = {
            **result,
            **verdict(self.config, result),
            "selected_by": {name: card[name] for name in ("sampler", "model")} | {"sees": list(self.job.sampler.sees)},
            "n_candidates": len(self.samples),
            "seconds": self.seconds(),
            "memory_mib": {name: record["memory"] for name, record in records(self.folder).items()},
            "training": self.curves(),
            "selection": selection_statistics(table, selection.ranked_by, self.samples, self.splits.train.item_counts),
        }
        self.folder.output_json("result.json", {**result, "selected": selection.indices.tolist()})
        write_report(self.folder, self.config, result, table)
        write_card(self.folder, self.config, result)
        log_summary(self.config, result)
        discard_unfinished(self.folder)
        return result

    def curves(self) -> dict[str, Any]:
        """Return losses and validation results of each finished training, by step."""
        curve = self.folder.read_json("fine_tuning.json", {}).get("curve")
        surrogates = self.folder.read_json("surrogates.json", self.scoring.curves)
        return {FINE_TUNING: curve, **surrogates} if curve else surrogates

    def seconds(self) -> dict[str, float]:
        """Return the wall time of each step, including the shared steps that the selection needs."""
        return {name: record["seconds"] for name, record in records(self.folder).items()}

    def llm(self) -> LLMRecommender:
        """Return the recommender before fine-tuning."""
        llm = self.scoring.llm(self.folder)
        add_records(self.folder, {LLM: self.scoring.records[LLM]})
        return llm

    def _trainer(self) -> LLMTrainer:
        weights = self.config.model_class.weights_folder
        return LLMTrainer(self.config, self.llm(), self.folder, weights, partial(self.on_epoch, FINE_TUNING))

    def _reset_seed(self) -> None:
        """Seed all generators at the beginning of a step, so that it does not depend on which steps ran before."""
        init_seed(self.config["seed"], self.config["reproducibility"])
