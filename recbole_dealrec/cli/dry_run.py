"""Dry run: the steps that a command would run and an estimate of their cost, without running them."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from recbole_dealrec.cli.estimate import Estimate, Estimator
from recbole_dealrec.config import Config
from recbole_dealrec.config.given import check_last_step
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.model.checkpoint import is_on_disk, quiet_transformers
from recbole_dealrec.model.surrogate.surrogate import surrogate_labels
from recbole_dealrec.pipeline import EVALUATION, FINE_TUNING, SELECTION, Job, prepare
from recbole_dealrec.quick_start import configure_comparison
from recbole_dealrec.scorer.scorer import LLM, get_scorer
from recbole_dealrec.scorer.scoring import score_names, scoring_steps, step_outputs, surrogate_steps
from recbole_dealrec.store.peak_memory import memory_text
from recbole_dealrec.store.run_folder import intact_outputs
from recbole_dealrec.training.exponent import REWEIGHTING

# The runs of a seed share the other steps.
_OWN_STEPS = {SELECTION: "select", FINE_TUNING: "finetune", REWEIGHTING: "evaluate", EVALUATION: "evaluate"}


def dry_run_text(
    samplers: Sequence[str] | None,
    seeds: Sequence[int] | None,
    model: str | None,
    dataset: str | None,
    config_file_list: Sequence[str],
    config_dict: Mapping[str, Any],
    last_step: str = LAST_STEPS[-1],
) -> str:
    """Return the configuration of the first run, then the folder, the steps and the estimated cost of each run.

    No file is kept. Arguments as for ``recbole_dealrec.compare_samplers``.

    Raises:
        InputError: as for a run at its start, except for a language model that is not on the disk.
    """
    check_last_step(last_step)
    by_seed = configure_comparison(samplers, seeds, model, dataset, config_file_list, config_dict)
    first, estimator = by_seed[0][0], None
    absent = _absent_llm(first)
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for configs in by_seed:
            jobs, counted = prepare(configs, check_llm=not absent), set()
            if estimator is None:
                parts.append(str(jobs[0].splits.summary))
            estimator = estimator or Estimator(jobs[0], Path(folder))
            parts = parts or [yaml.safe_dump(first.resolved(), allow_unicode=True).strip()]
            for job in jobs:
                states = step_states(job, last_step)
                to_do = [name for name, state in states.items() if state == "to do" and name not in counted]
                counted.update(set(to_do) - _OWN_STEPS.keys())
                costs = {}
                if not absent:
                    with _secluded(Path(folder)):
                        labels = surrogate_labels(states)
                        costs = {labels[name]: estimator.estimate(job, name) for name in to_do}
                parts.append(f"{_run_text(job, states)}\n{absent or _estimate_text(costs)}")
    return "\n\n".join(parts)


def step_states(job: Job, last: str) -> dict[str, str]:
    """Return for each step up to the last one, in order, whether it is cached, to do, or not needed."""
    config, needs, folders = job.config, job.sampler.needs, job.folders()
    own = {name: step for name, step in _OWN_STEPS.items() if LAST_STEPS.index(step) <= LAST_STEPS.index(last)}
    steps = list(dict.fromkeys([*scoring_steps(config, needs), *[LLM] * bool(own), *own]))
    outputs = {name: (folders.run, job.outputs()[name]) for name in own}
    outputs |= {name: step_outputs(config, folders, name) for name in steps if name not in {LLM, *own}}
    intact = {folder: intact_outputs(folder) for folder, _ in outputs.values()}
    there = {name for name, (folder, files) in outputs.items() if set(files) <= intact[folder]}
    to_do = own.keys() - there
    scores = () if own and SELECTION not in to_do else score_names(config, needs)
    missing = [name for name in scores if name not in there]
    for name in missing:
        to_do |= {name, *surrogate_steps(config, name)} - there
    if to_do & own.keys() or any(LLM in get_scorer(name).needed(config) for name in missing):
        to_do.add(LLM)
    return {name: "to do" if name in to_do else "cached" if name in there else "not needed" for name in steps}


def _absent_llm(config: Config) -> str:
    """Return the line that replaces the estimate if the language model is not on the disk, else an empty string."""
    path = config["llm_path"] if "llm_path" in config else "tiny"
    if path == "tiny" or is_on_disk(path):
        return ""
    return f"  no estimate: llm_path '{path}' is not on this disk, and a dry run downloads nothing"


def _run_text(job: Job, states: Mapping[str, str]) -> str:
    config, folder = job.config, job.folders().run
    lines = [f"{config['sampler']}, seed {config['seed']}, {len(job.samples)} candidate samples; run folder {folder}"]
    scoring = scoring_steps(config, job.sampler.needs)
    labels = surrogate_labels(states)
    for name, state in states.items():
        last = "score" if name in scoring else _OWN_STEPS.get(name, "select")
        lines.append(f"  {last:<9} {labels[name]:<25} {state}")
    return "\n".join(lines)


def _estimate_text(costs: Mapping[str, Estimate]) -> str:
    if not costs:
        return "  nothing to do"
    total = sum(cost.seconds for cost in costs.values())
    kinds = sorted({kind for cost in costs.values() for kind in cost.memory})
    peak = {kind: max(cost.memory.get(kind, 0.0) for cost in costs.values()) for kind in kinds}
    lines = [
        f"  estimate  {name:<25} {_seconds_text(cost.seconds):<14} {memory_text(cost.memory)}"
        for name, cost in {**costs, "total": Estimate(total, peak)}.items()
    ]
    return "\n".join([
        *lines,
        "  Measured on one batch of each step, with this machine's present load. All epochs are counted, although",
        "  training may stop earlier. Memory is the peak of a full batch.",
    ])  # fmt: skip


def _seconds_text(seconds: float) -> str:
    """Return the time with two significant digits and a suitable unit."""
    if seconds < 1:
        return "below 1 s"
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= size)
    return f"about {float(f'{seconds / size:.2g}'):g} {unit}"


@contextmanager
def _secluded(folder: Path) -> Iterator[None]:
    """Work in a folder, because RecBole writes files to the current one, and without logs and warnings."""
    here, disabled = os.getcwd(), logging.root.manager.disable
    with ExitStack() as stack:
        stack.callback(logging.disable, disabled)
        stack.callback(os.chdir, here)
        stack.enter_context(quiet_transformers())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.chdir(folder)
        yield
