"""Entry points: one run, and a comparison of samplers over seeds."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import colorama
import pandas as pd
from colorama.ansitowin32 import StreamWrapper
from recbole.utils import init_logger

from recbole_dealrec import processes
from recbole_dealrec.comparison import comparison_table, log_comparison, write_comparison
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits, check_topk, load_splits
from recbole_dealrec.digest import run_name
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import MODELS
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.pipeline import STAGES, Pipeline
from recbole_dealrec.report import write_comparison_report
from recbole_dealrec.run_folder import RunFolder
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.stages import SharedStages


def run_recbole_dealrec(
    model: str = "BIGRec",
    dataset: str = "ml-100k",
    sampler: str = "DEALRec",
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    stage: str = STAGES[-1],
    shared: bool = False,
) -> dict[str, Any]:
    """Score the candidate samples, select few, fine-tune the language model on them and evaluate it.

    Args:
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        sampler: name of a few-shot sampler; a ``sampler`` in ``config_dict`` wins.
        config_file_list: YAML files of configuration keys.
        config_dict: configuration keys that win over all files.
        saved: whether the run folder is kept; a run whose folder is there goes on from its finished stages.
        stage: the last stage: score, select, finetune or evaluate. A later call goes on from there.
        shared: whether surrogates, scores and the language model before fine-tuning are kept in a folder of their own,
            which other shared runs and comparisons use too, and not in the run folder.

    Returns:
        ``best_valid_result`` and ``test_result`` (metric to value), ``test_standard_error`` (metric to its standard
        error over the ``n_test_queries`` test queries), ``selected`` (int64 indices of the candidate samples),
        ``seconds`` (stage to wall time) and ``run_dir`` (empty if not saved); before the last stage those of them that
        are known by then.

    Raises:
        InputError: input or configuration that cannot be used, before anything is trained.
    """
    check_stage(stage)
    config = checked_config(model, dataset, config_file_list, {"sampler": sampler, **(config_dict or {})})
    _start_logging(config)
    splits, samples = checked_data([config])
    path = Path(config["checkpoint_dir"]) / run_name(config, splits)
    with (
        processes.joined(config["device"].type == "cpu"),
        _kept_or_temporary(path, saved) as path,
        SharedStages.opened(config, splits, samples) if shared else nullcontext() as stages,
        RunFolder.opened(path, stages and stages.folder) as folder,
    ):
        effort_folder = None if saved else path / "effort"
        stages = stages or SharedStages(config, splits, samples, folder, effort_folder=effort_folder)
        pipeline = Pipeline(config, stages, folder)
        getLogger().info(f"{len(samples)} candidate samples; run folder {path}")
        result = pipeline.run(stage)
    return {**result, "run_dir": str(path) if saved else ""}


def compare_samplers(
    samplers: Sequence[str],
    seeds: Sequence[int] | None = None,
    model: str = "BIGRec",
    dataset: str = "ml-100k",
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    stage: str = STAGES[-1],
) -> dict[str, Any]:
    """Run every sampler with every seed and compare their metrics and costs.

    The samplers of a seed share surrogates, scores and the language model before fine-tuning; each of these is computed
    once. A run comes out as ``run_recbole_dealrec`` alone would have it, and one whose folder is there goes on from
    its finished stages.

    Args:
        samplers: names of few-shot samplers; the first one is tested against the best of the others.
        seeds: seeds, each used for all samplers; None for the configured one alone.
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        config_file_list: YAML files of configuration keys.
        config_dict: configuration keys that win over all files; no ``sampler``, and no ``seed`` beside ``seeds``.
        stage: the last stage of each run: score, select, finetune or evaluate.

    Returns:
        ``runs`` (DataFrame, one row a run), ``table`` (DataFrame, as ``comparison_table`` describes it) and
        ``comparison_dir``, the folder with both as CSV, the table as LaTeX and ``report.html``; before the stage
        evaluate ``runs`` alone, without metrics.

    Raises:
        InputError: input or configuration that cannot be used, before anything is trained.
    """
    check_stage(stage)
    keys = dict(config_dict or {})
    _check_named_once("sampler", samplers, keys)
    if seeds is None:
        seeds = [checked_config(model, dataset, config_file_list, {**keys, "sampler": samplers[0]})["seed"]]
    else:
        _check_named_once("seed", seeds, keys)
    configs = [
        [checked_config(model, dataset, config_file_list, {**keys, "sampler": name, "seed": seed}) for name in samplers]
        for seed in seeds
    ]
    _start_logging(configs[0][0])
    with processes.joined(configs[0][0]["device"].type == "cpu"):
        runs = pd.DataFrame([row for of_seed in configs for row in _runs_of_seed(of_seed, stage)])
        if stage != STAGES[-1]:
            return {"runs": runs}
        table = comparison_table(runs)
        folder = processes.on_main(lambda: write_comparison(Path(configs[0][0]["checkpoint_dir"]), runs, table))
        processes.on_main(lambda: write_comparison_report(folder, runs, table))
    log_comparison(table, folder)
    return {"runs": runs, "table": table, "comparison_dir": str(folder)}


def check_stage(stage: str) -> None:
    """Refuse a stage that there is not.

    Raises:
        InputError: its name is none of ``STAGES``.
    """
    if stage not in STAGES:
        raise InputError(f"no stage '{stage}'; the stages are {', '.join(STAGES)}")


def _check_named_once(key: str, values: Sequence, keys: Mapping[str, Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise InputError(f"{key}: each value to compare has to be named once, not {', '.join(map(str, values))}")
    if key in keys:
        raise InputError(f"configuration key '{key}' is given beside the values to compare; leave one of them out")


def _runs_of_seed(configs: Sequence[Config], stage: str) -> Iterator[dict[str, Any]]:
    """A row of the comparison for each configuration; these differ in keys of the selection alone."""
    first, parent = configs[0], Path(configs[0]["checkpoint_dir"])
    splits, samples = checked_data(configs)
    with SharedStages.opened(first, splits, samples) as stages:
        for config in configs:
            with RunFolder.opened(parent / run_name(config, splits), stages.folder) as folder:
                getLogger().info(f"{config['sampler']}, seed {config['seed']}; run folder {folder.path}")
                yield _row(Pipeline(config, stages, folder), stage)


def _row(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    config, folder, result = pipeline.config, pipeline.folder, pipeline.run(stage)
    if stage != STAGES[-1]:
        return {"sampler": config["sampler"], "seed": config["seed"], "run_dir": str(folder.path)}
    return {
        "sampler": config["sampler"],
        "seed": config["seed"],
        **result["test_result"],
        "selection seconds": folder.cost("selection", without="language model"),  # every run needs that one
        "fine-tuning seconds": folder.seconds.get("fine-tuning", float("nan")),
        "evaluation seconds": folder.seconds.get("evaluation", float("nan")),
        "run_dir": str(folder.path),
    }


def checked_config(
    model: str, dataset: str, config_file_list: Sequence[str] | None, config_dict: Mapping[str, Any]
) -> Config:
    """Configuration of a run, with all that can be refused before the data are read.

    Raises:
        InputError: it cannot be used.
    """
    config = resolved_config(model, dataset, config_file_list, config_dict)
    config.model_class.check(config)
    return config


def resolved_config(
    model: str, dataset: str, config_file_list: Sequence[str] | None, config_dict: Mapping[str, Any]
) -> Config:
    """Configuration of a run, with all that can be refused before checkpoints are looked at.

    Raises:
        InputError: it cannot be used.
    """
    if model not in MODELS:
        raise InputError(f"no model '{model}'; known are {', '.join(MODELS)} (others can be the surrogate_model)")
    if Path(dataset).name != dataset or dataset in ("", ".", ".."):
        raise InputError(f"dataset '{dataset}': a dataset is named by its folder alone; data_path says where that lies")
    config = Config(model, dataset, config_file_list, config_dict)
    get_sampler(config["sampler"])
    config.check_valid_metric()
    return config


def checked_data(configs: Sequence[Config]) -> tuple[Splits, CandidateSamples]:
    """Splits and candidates of runs that differ in keys of the selection alone, before anything is written.

    Raises:
        InputError: the data cannot be used, or not so by one of the runs.
    """
    first = configs[0]
    splits = load_splits(first)
    samples = CandidateSamples.from_dataset(splits.train, first["samples_per_user"])
    check_topk(first, splits.train)
    build_surrogate(first.surrogate(), splits.train)
    for config in configs:
        get_sampler(config["sampler"])(config, {}).check(len(samples))
    return splits, samples


@contextmanager
def _kept_or_temporary(path: Path, kept: bool) -> Iterator[Path]:
    if kept:
        yield path
    else:
        folder = processes.on_main(lambda: Path(tempfile.mkdtemp()))
        try:
            yield folder
        finally:
            if processes.is_main():
                shutil.rmtree(folder, ignore_errors=True)


def _start_logging(config: Config) -> None:
    """RecBole's log file and console; those of an earlier run in this process are closed first."""
    root = getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "of_recbole", False)]:
        root.removeHandler(handler)
        handler.close()
    others = set(root.handlers)
    if isinstance(sys.stdout, StreamWrapper):
        colorama.deinit()  # RecBole would wrap the streams once more with every run
    try:
        init_logger(config)
    except OSError as error:
        raise InputError(f"{Path('log').absolute()}: RecBole cannot write its log here ({error.strerror})") from error
    for handler in set(root.handlers) - others:
        handler.of_recbole = True
    getLogger("httpx").setLevel(WARNING)
    root.info(config)
