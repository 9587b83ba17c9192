"""Entry points: a run, a comparison of samplers over seeds, and a selection from DataFrames."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.config.given import check_last_step
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.data.convert import Columns
from recbole_dealrec.data.frame import FRAME, dataset_written, selection_frame
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import (
    EVALUATION,
    FINE_TUNING,
    UNTUNED_EVALUATION,
    YARDSTICKS,
    Job,
    Pipeline,
    configure,
    prepare,
)
from recbole_dealrec.report import write_comparison_report
from recbole_dealrec.report.comparison_table import (
    REFERENCES,
    comparison_table,
    log_comparison,
    write_comparison,
    yardstick_values,
)
from recbole_dealrec.report.summary import log_next
from recbole_dealrec.report.tracking import check_tracking, tracked
from recbole_dealrec.sampler.selection import Selection
from recbole_dealrec.scorer.scorer import LLM
from recbole_dealrec.scorer.scoring import Scoring
from recbole_dealrec.store.console import CONSOLE, start_logging
from recbole_dealrec.store.latest import point_latest
from recbole_dealrec.store.opening import opened
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.exponent import REWEIGHTING
from recbole_dealrec.training.query_evaluator import headline_metric


def run_recbole_dealrec(
    model: str | None = None,
    dataset: str | None = None,
    sampler: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    last_step: str = LAST_STEPS[-1],
) -> dict[str, Any]:
    """Score the candidate samples, select a few, fine-tune the language model on them and evaluate it.

    A key in ``config_dict`` overrides an argument, an argument overrides a file. The first three arguments default to
    BIGRec, ml-100k and DEALRec. Surrogates and scores are stored next to the run folder and shared by all runs with the
    same relevant keys.

    Args:
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        sampler: name of a few-shot sampler.
        config_file_list: YAML files of configuration keys.
        config_dict: configuration keys that override all files.
        saved: whether the outputs are kept; a run with an existing folder resumes after its finished steps.
        last_step: the last step to run: score, select, finetune or evaluate. A later call resumes after it.

    Returns:
        ``best_valid_result`` and ``test_result`` (metric to value), ``test_standard_error`` (metric to its standard
        error over the ``n_test_queries`` test queries), ``selected`` (int64 indices of the candidate samples),
        ``seconds`` (step to wall time) and ``run_dir`` (empty if not saved); with an earlier ``last_step``, the entries
        known by then.

    Raises:
        InputError: invalid input or configuration, before anything is trained.
    """
    check_last_step(last_step)
    config = configure(model, dataset, config_file_list, config_dict or {}, sampler)
    check_tracking(config, saved)
    start_logging(config)
    (job,) = prepare([config], last=last_step)
    with processes.process_group(config["device"].type == "cpu"), _root(config, saved) as root:
        CONSOLE.info(f"{_told(job)}; run folder {job.folders(root).run}")
        result, run_dir = _run(job, job.scoring(root), root, last_step)
    if saved:
        log_next(Path(run_dir), last_step)
    return {**result, "run_dir": run_dir if saved else ""}


def compare_samplers(
    samplers: Iterable[str] | str | None,
    seeds: Iterable[int] | int | None = None,
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    last_step: str = LAST_STEPS[-1],
) -> dict[str, Any]:
    """Run every sampler with every seed and compare their metrics and costs.

    The samplers of a seed share surrogates, scores and the language model before fine-tuning. Each run gives the same
    result as ``run_recbole_dealrec``, and resumes after its finished steps.

    Args:
        samplers: names of few-shot samplers, or a single one; None for the configured one. With several samplers and
            the key ``yardsticks``, Random and TargetFrequency are added: they cost nothing, and the others are tested
            against them.
        seeds: seeds, or a single one, each used for all samplers; None for the configured one.
        model: recommender to fine-tune.
        dataset: name of the dataset's folder and files.
        config_file_list: YAML files of configuration keys.
        config_dict: keys that override all files; no ``sampler`` with ``samplers``, no ``seed`` with ``seeds``.
        last_step: the last step of each run: score, select, finetune or evaluate.

    Returns:
        ``runs`` (DataFrame, one row per run), ``table`` (DataFrame, see ``comparison_table``) and ``comparison_dir``,
        the folder with both as CSV, the table as LaTeX and ``report.html``; with a ``last_step`` before evaluate,
        only ``runs``, without metrics. Metrics are unrounded.

    Raises:
        InputError: invalid input or configuration, before anything is trained.
    """
    check_last_step(last_step)
    by_seed = configure_comparison(samplers, seeds, model, dataset, config_file_list, config_dict or {})
    first = by_seed[0][0]
    start_logging(first)
    with processes.process_group(first["device"].type == "cpu"):
        runs = pd.DataFrame([row for configs in by_seed for row in _rows(prepare(configs, last=last_step), last_step)])
        if last_step != LAST_STEPS[-1]:
            return {"runs": runs}
        table, folder = processes.on_main(lambda: _report_comparison(first, runs))
    return {"runs": runs, "table": table, "comparison_dir": str(folder)}


def select_fewshot(
    interactions: Any,
    items: Any = None,
    llm_path: str = "tiny",
    *,
    user_col: str | None = None,
    item_col: str | None = None,
    time_col: str | None = None,
    title_col: str | None = None,
    text_cols: Sequence[str] = (),
    encoding: str | None = None,
    **keys: Any,
) -> pd.DataFrame:
    """Choose few-shot samples for a language model from DataFrames or files, without fine-tuning.

    The samples come from the training split: with the default ``eval_args``, the last two items of each user are held
    out. Surrogates and scores are kept only if a ``checkpoint_dir`` is given.

    Args:
        interactions: pandas or polars DataFrame with users, items and times; or path of a file, or of a folder that
            also has titles, as for ``recbole_dealrec.data.convert``. Times are numbers, datetimes or ISO 8601 strings;
            rows with equal times keep their order.
        items: DataFrame or path with items and titles; None if ``interactions`` has them. Items without a title are
            left out.
        llm_path: Hugging Face id, folder or .gguf file of a causal language model; ``tiny`` builds a small one.
        user_col: column of users; None for a usual name, such as ``user_id``.
        item_col: column of items; None for a usual name, such as ``item_id``.
        time_col: column of times; None for a usual name, such as ``timestamp``.
        title_col: column of titles; None for ``title``.
        text_cols: further columns of items, which ``prompt_item`` may name.
        encoding: encoding of text files; None for UTF-8.
        keys: configuration keys, such as ``sampler``, ``n_fewshot`` and ``prompt_noun``.

    Returns:
        A row for each selected sample: ``user``, ``history`` (list of items, oldest first) and ``target`` with the
        ids of ``interactions``, ``history_titles``, ``target_title``, the sampler's columns of ``scores.csv``
        (DEALRec: ``influence``, ``effort``, ``score``, ``group``), and the fields of ``fewshot.jsonl``:
        ``instruction``, ``input``, ``output``, ``prompt`` and ``completion``; ``messages`` with ``chat_template``.

    Raises:
        InputError: a column or a value is missing, an item has two titles, or a key is invalid.
    """
    columns = Columns(user_col, item_col, time_col, title_col, texts=tuple(text_cols))
    with dataset_written(interactions, items, {**keys, "llm_path": llm_path}, columns, encoding) as (config_dict, ids):
        config = configure("BIGRec", FRAME, None, config_dict)
        check_tracking(config, "checkpoint_dir" in keys)
        (job,) = prepare([config], last="select")
        with opened(job.folders().run) as folder:
            pipeline, _ = _run_tracked(job, job.scoring(), folder, "select")
            selection = Selection.load(folder)
            samples = job.samples[selection.indices]
            scores = {name: values[selection.indices] for name, values in selection.columns.items()}
            return selection_frame(job.splits.train, samples, scores, pipeline.llm().instructions(samples), ids)


def configure_comparison(
    samplers: Iterable[str] | str | None,
    seeds: Iterable[int] | int | None,
    model: str | None,
    dataset: str | None,
    config_file_list: Sequence[str | Path] | None,
    config_dict: Mapping[str, Any],
) -> list[list[Config]]:
    """Return the configurations of all samplers, seed by seed; arguments as for ``compare_samplers``.

    Raises:
        InputError: a configuration is invalid, or a sampler or seed is named twice.
    """
    by_sampler = _each_named_once("sampler", samplers, config_dict)
    by_seed = _each_named_once("seed", seeds, config_dict)
    if len(by_sampler) > 1:
        first = configure(model, dataset, config_file_list, {**config_dict, **by_seed[0], **by_sampler[0]})
        references = [{"sampler": name} for name in REFERENCES if first["yardsticks"]]
        by_sampler = [*by_sampler, *(sampler for sampler in references if sampler not in by_sampler)]
    return [
        [configure(model, dataset, config_file_list, {**config_dict, **seed, **sampler}) for sampler in by_sampler]
        for seed in by_seed
    ]


def _each_named_once(key: str, values: Iterable | str | int | None, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``{key: value}`` for each value to compare, and ``[{}]`` for None, which keeps the configured value."""
    if values is None:
        return [{}]
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    if not values or len(set(values)) < len(values):
        raise InputError(f"{key}: name each value to compare exactly once, not {', '.join(map(str, values))}")
    if key in keys:
        raise InputError(f"configuration key '{key}' is given in addition to the values to compare; remove one")
    return [{key: value} for value in values]


def _told(job: Job) -> str:
    """Return the sampler of a run, and how many samples it selects."""
    sampler, n = job.config["sampler"], len(job.samples)
    return f"{sampler}: {n if sampler == 'Full' else job.config['n_fewshot']:,} of {n:,} candidate samples"


def _run(job: Job, scoring: Scoring, root: Path | None, last: str) -> tuple[dict[str, Any], str]:
    """Run a job up to its last step; return the result and the run folder."""
    with opened(job.folders(root).run) as folder:
        result = _run_tracked(job, scoring, folder, last)[1]
        if folder.written:
            point_latest(folder.path)
        return result, str(folder.path)


def _run_tracked(job: Job, scoring: Scoring, folder: RunFolder, last: str) -> tuple[Pipeline, dict[str, Any]]:
    """Run a job in its folder, and log it to the trackers of ``log_with``; return the pipeline and its result."""
    with tracked(job.config, folder) as tracking:
        pipeline = Pipeline(job, scoring, folder, tracking.log_curve)
        result = pipeline.run(last)
        tracking.log_result(pipeline.curves(), result)
    return pipeline, result


def _rows(jobs: Sequence[Job], last: str) -> Iterator[dict[str, Any]]:
    """Run the jobs of a seed, and yield a row of the comparison for each."""
    scoring = jobs[0].scoring()
    for job in jobs:
        named = {"sampler": job.config["sampler"], "seed": job.config["seed"]}
        CONSOLE.info(f"{_told(job)}, seed {named['seed']}; run folder {job.folders().run}")
        result, run_dir = _run(job, scoring, None, last)
        if last == LAST_STEPS[-1]:
            named["sees"] = ", ".join(result["selected_by"]["sees"])
            named |= {**result["unrounded"], **_costs(result["seconds"])}
        yield {**named, "run_dir": run_dir}


def _report_comparison(config: Config, runs: pd.DataFrame) -> tuple[pd.DataFrame, Path]:
    """Write and log the comparison of the runs; return its table and its folder."""
    table = comparison_table(runs, yardstick_values(runs))
    headline = headline_metric(config)
    folder = write_comparison(Path(config["checkpoint_dir"]), runs, table)
    write_comparison_report(folder, runs, table, headline)
    point_latest(folder)
    log_comparison(table, folder, headline)
    return table, folder


def _costs(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of selection (without loading the language model, which every run needs) and later steps."""
    others = (LLM, FINE_TUNING, REWEIGHTING, EVALUATION, YARDSTICKS, UNTUNED_EVALUATION)
    return {
        "selection seconds": sum(value for name, value in seconds.items() if name not in others),
        "fine-tuning seconds": seconds.get(FINE_TUNING, float("nan")),
        "evaluation seconds": seconds.get(EVALUATION, float("nan")),
    }


@contextmanager
def _root(config: Config, saved: bool) -> Iterator[Path]:
    """Yield the parent folder of all outputs: ``checkpoint_dir``, or a temporary folder if nothing is saved."""
    if saved:
        yield Path(config["checkpoint_dir"])
        return
    with ExitStack() as stack:
        yield Path(processes.on_main(lambda: stack.enter_context(tempfile.TemporaryDirectory())))
        processes.gather(None)  # wait until no process reads from the temporary folder
