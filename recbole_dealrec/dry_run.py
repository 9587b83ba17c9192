"""What a command would do, found out without doing it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_dealrec.config import Config  # first: it makes RecBole importable
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.digest import run_name, shared_name, surrogate_score_name
from recbole_dealrec.pipeline import STAGES
from recbole_dealrec.quick_start import check_stage, checked_config, checked_data
from recbole_dealrec.run_folder import whole_outputs
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.stages import score_files


def dry_run_text(
    samplers: Sequence[str],
    seeds: Sequence[int] | None,
    model: str,
    dataset: str,
    config_file_list: Sequence[str],
    config_dict: Mapping[str, Any],
    stage: str = STAGES[-1],
) -> str:
    """Resolved configuration of the first run, then of each run its folder, its stages, and which are cached.

    Nothing is written. Arguments as for ``recbole_dealrec.compare_samplers``.

    Raises:
        InputError: what a run itself would refuse at its start.
    """
    check_stage(stage)
    alone = seeds is None and len(samplers) == 1
    parts = []
    for seed in seeds or [None]:
        keys = dict(config_dict) if seed is None else {**config_dict, "seed": seed}
        configs = [checked_config(model, dataset, config_file_list, {"sampler": name, **keys}) for name in samplers]
        splits, samples = checked_data(configs)
        parts = parts or [yaml.safe_dump(configs[0].resolved(), allow_unicode=True).strip()]
        parts += [_run_text(config, splits, samples, alone, stage) for config in configs]
    return "\n\n".join(parts)


def _run_text(config: Config, splits: Splits, samples: CandidateSamples, alone: bool, stage: str) -> str:
    parent = Path(config["checkpoint_dir"])
    folder = parent / run_name(config, splits)
    places = [folder] if alone else [parent / name(config, splits) for name in (surrogate_score_name, shared_name)]
    lines = [f"{config['sampler']}, seed {config['seed']}, {len(samples)} candidate samples; run folder {folder}"]
    whole = {place: whole_outputs(place) for place in {folder, *places}}
    for last, name, within, outputs in _stages(config, [folder], places):
        if STAGES.index(last) <= STAGES.index(stage):
            cached = set(outputs) <= set().union(*(whole[place] for place in within))
            lines.append(f"  {last:<9} {name:<25} {'cached' if cached else 'to do'}")
    return "\n".join(lines)


def _stages(config: Config, folder: list[Path], scores: list[Path]) -> list[tuple[str, str, list[Path], list[str]]]:
    """Stage of the command line, what is done in it, folders that its outputs may be in and their names, in order."""
    needed = get_sampler(config["sampler"]).needs
    return [
        *(("score", name, scores, score_files(name)) for name in needed),
        ("select", "selection", folder, ["scores.csv", "fewshot.jsonl", "examples.json"]),
        ("finetune", "fine-tuning", folder, ["fine_tuning.json", config.model_class.weights_folder]),
        ("evaluate", "evaluation", folder, ["test_result.json"]),
    ]
