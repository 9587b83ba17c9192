"""What a command would do and about what it would take, found out without doing it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_dealrec.cli.estimate import OF_FIRST_SURROGATE, OF_SURROGATES, Estimate, Estimator
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.model.bigrec.tiny import tiny_llm_folder
from recbole_dealrec.model.checkpoint import is_on_disk
from recbole_dealrec.pipeline import STAGES
from recbole_dealrec.quick_start import check_stage, checked_data, resolved_config
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.stages import score_file, surrogate_names
from recbole_dealrec.store.names import run_name, shared_name, surrogate_name, surrogate_score_name
from recbole_dealrec.store.run_folder import whole_outputs

_OWN_STAGES = ("selection", "fine-tuning", "evaluation")  # the others are shared by the runs of a seed


def dry_run_text(
    samplers: Sequence[str],
    seeds: Sequence[int] | None,
    model: str,
    dataset: str,
    config_file_list: Sequence[str],
    config_dict: Mapping[str, Any],
    stage: str = STAGES[-1],
) -> str:
    """Resolved configuration of the first run, then of each run its folder, its stages, which are cached, and an
    estimate of time and memory for the others.

    Nothing is left behind. Arguments as for ``recbole_dealrec.compare_samplers``.

    Raises:
        InputError: what a run itself would refuse at its start, but for a language model that is not on the disk.
    """
    check_stage(stage)
    alone = seeds is None and len(samplers) == 1
    parts, estimator = [], None
    with ExitStack() as stack:
        for seed in seeds or [None]:
            keys = dict(config_dict) if seed is None else {**config_dict, "seed": seed}
            configs = [
                resolved_config(model, dataset, config_file_list, {"sampler": name, **keys}) for name in samplers
            ]
            absent = _absent_llm(configs[0])
            if not absent:
                configs[0].model_class.check(configs[0])
            splits, samples = checked_data(configs)
            estimator = estimator or stack.enter_context(Estimator.opened(configs, splits, samples))
            parts = parts or [yaml.safe_dump(configs[0].resolved(), allow_unicode=True).strip()]
            counted: set[str] = set()
            for config in configs:
                run = _Run.of(config, splits, samples, alone, stage)
                estimate = absent or _estimate_text(run, splits, estimator, counted)
                parts.append(f"{_run_text(run, samples)}\n{estimate}")
    return "\n\n".join(parts)


@dataclass(frozen=True)
class _Run:
    """A run as far as it is there.

    Attributes:
        config: its configuration.
        folder: its folder.
        stages: stage of the command line, what is done in it, and whether it is cached, in order.
        scores: files of the scores that are there, by name.
        surrogates: stages of the surrogates that are there.
    """

    config: Config
    folder: Path
    stages: list[tuple[str, str, bool]]
    scores: dict[str, Path]
    surrogates: set[str]

    @classmethod
    def of(cls, config: Config, splits: Splits, samples: CandidateSamples, alone: bool, stage: str) -> "_Run":
        parent = Path(config["checkpoint_dir"])
        folder = parent / run_name(config, splits)
        shared = (surrogate_score_name, shared_name, surrogate_name)
        *places, surrogate_place = [folder] * 3 if alone else [parent / name(config, splits) for name in shared]
        whole = {place: whole_outputs(place) for place in {folder, *places, surrogate_place}}
        stages = [
            (last, name, set(outputs) <= set().union(*(whole[place] for place in within)))
            for last, name, within, outputs in _stages(config, [folder], places)
            if STAGES.index(last) <= STAGES.index(stage)
        ]
        files = {(place / name).absolute() for place in places for name in whole[place] if name.endswith(".npy")}
        names = map(surrogate_names, range(config["n_surrogates"]))
        trained = {name for name, *outputs in names if set(outputs) <= whole[surrogate_place]}
        return cls(config, folder, stages, {file.stem: file for file in files}, trained)

    def measured(self) -> list[str]:
        """Names of the stages that are to do, as a run measures them, in order."""
        config = self.config
        to_do = [name for _, name, cached in self.stages if not cached]
        partial = "effort" in to_do and config["effort_sample_ratio"] < 1
        if partial and "influence" not in {*to_do, *self.scores}:
            to_do.insert(0, "influence")
        of_all, of_first = set(OF_SURROGATES) & set(to_do), set(OF_FIRST_SURROGATE) & set(to_do)
        count = config["n_surrogates"] if of_all else int(bool(of_first) or partial)
        surrogates = [name for name, *_ in map(surrogate_names, range(count))]
        if "loss_trajectory" not in to_do:
            surrogates = [name for name in surrogates if name not in self.surrogates]
        llm = ["language model"] if set(to_do) - of_all - of_first else []
        return [*surrogates, *llm, *to_do]


def _absent_llm(config: Config) -> str:
    """What to say instead of an estimate, if the language model is not on the disk."""
    path = config["llm_path"] if "llm_path" in config else "tiny"
    if path == "tiny" or is_on_disk(path):
        return ""
    return f"  no estimate: llm_path '{path}' is not on this disk, and a dry run downloads nothing"


def _run_text(run: _Run, samples: CandidateSamples) -> str:
    config = run.config
    lines = [f"{config['sampler']}, seed {config['seed']}, {len(samples)} candidate samples; run folder {run.folder}"]
    lines += [f"  {last:<9} {name:<25} {'cached' if cached else 'to do'}" for last, name, cached in run.stages]
    return "\n".join(lines)


def _estimate_text(run: _Run, splits: Splits, estimator: Estimator, counted: set[str]) -> str:
    """Estimates of what is to do; ``counted`` are stages that an earlier run of the seed does."""
    to_do = [name for name in run.measured() if name not in counted]
    counted.update(set(to_do) - set(_OWN_STAGES))
    if not to_do:
        return "  nothing is to do"
    config = run.config
    built = "llm_path" in config and config["llm_path"] == "tiny" and tiny_llm_folder(config, splits.train).is_dir()
    estimates = estimator.estimates(config, to_do, run.scores, built)
    lines = [
        f"  estimate  {name:<25} {_seconds_text(cost.seconds):<14} {_memory_text(cost)}"
        for name, cost in estimates.items()
    ]
    total = sum(cost.seconds for cost in estimates.values())
    kinds = {kind for cost in estimates.values() for kind in cost.memory}
    peak = {kind: max(cost.memory.get(kind, 0.0) for cost in estimates.values()) for kind in sorted(kinds)}
    rehearsed = estimator.rehearsed
    lines += [
        f"  estimate  {'all that is to do':<25} {_seconds_text(total):<14} {_memory_text(Estimate(total, peak))}",
        f"  Scaled up from {rehearsed:.0f} s of rehearsals of these stages on parts of the data, on this machine as",
        "  busy as it was. Every epoch is counted, though training may stop earlier. Memory is the peak of the",
        "  rehearsals, which does not grow with the number of samples once batches are full.",
    ]
    return "\n".join(lines)


def _seconds_text(seconds: float) -> str:
    """Two digits and a unit that suits them."""
    if seconds < 1:
        return "below 1 s"
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= size)
    return f"about {float(f'{seconds / size:.2g}'):g} {unit}"


def _memory_text(cost: Estimate) -> str:
    names = {"resident": "RAM", "gpu": "GPU"}
    return ", ".join(f"{names[kind]} {size / 1024:.1f} GiB" for kind, size in cost.memory.items())


def _stages(config: Config, folder: list[Path], scores: list[Path]) -> list[tuple[str, str, list[Path], list[str]]]:
    """Stage of the command line, what is done in it, folders that its outputs may be in and their names, in order."""
    needed = get_sampler(config["sampler"]).needs
    return [
        *(("score", name, scores, [score_file(name)]) for name in needed),
        ("select", "selection", folder, ["scores.csv", "fewshot.jsonl", "examples.json"]),
        ("finetune", "fine-tuning", folder, ["fine_tuning.json", config.model_class.weights_folder]),
        ("evaluate", "evaluation", folder, ["test_result.json"]),
    ]
