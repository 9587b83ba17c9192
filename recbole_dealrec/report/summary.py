"""The results of a run in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from texttable import Texttable

from recbole_dealrec.config import Config
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.model.surrogate.surrogate import surrogate_labels
from recbole_dealrec.report.answer import answer_metrics, answer_rows, metric_table
from recbole_dealrec.store.console import CONSOLE, line_width
from recbole_dealrec.store.peak_memory import memory_text


def log_summary(config: Config, result: dict[str, Any]) -> None:
    """Print a run's metrics, its yardsticks, and the seconds and memory of each step."""
    title = f"{config['dataset']}, {config['model']}, {config['sampler']}: "
    chosen = f"{len(result['selected']):,} of {result['n_candidates']:,} candidate samples"
    tested = f"{result['n_test_queries']:,} test queries, ± standard error over them"
    CONSOLE.info(f"{title}{chosen}; {tested}")
    CONSOLE.info(f"metrics\n{_metric_table(result)}")
    if "verdict" in result:
        CONSOLE.info(f"this run and its yardsticks\n{_yardstick_table(result)}")
        CONSOLE.info(result["verdict"])
    CONSOLE.info(f"seconds and peak memory\n{_step_table(result)}")


def log_next(folder: Path, last: str) -> None:
    """Print where the results of a run are, and what to do next."""
    lines = {
        "select": [f"few-shot samples: {folder / 'fewshot.jsonl'}"],
        "evaluate": [f"report: {folder / 'report.html'}", f"recommend: recbole-dealrec recommend {folder} --user ID"],
    }
    goes_on = [] if last == LAST_STEPS[-1] else ["continue: the same command without --last_step"]
    CONSOLE.info("\n".join(["next steps", *lines.get(last, []), *goes_on]))


def _metric_table(result: dict[str, Any]) -> str:
    """Return the run's metrics by cut-off."""
    cutoffs, values = metric_table(result["test_result"], result["test_standard_error"])
    rows = [
        [name, *(with_error(*found[cutoff]) if cutoff in found else "" for cutoff in cutoffs)]
        for name, found in values.items()
    ]
    return _drawn(["", *(f"@{cutoff}" if cutoff else "" for cutoff in cutoffs)], rows)


def _yardstick_table(result: dict[str, Any]) -> str:
    """Return the run and its yardsticks with all metrics at the cut-off of the headline metric."""
    shown, rows = answer_metrics(result), []
    for row in answer_rows(result):
        values, errors = row["test_result"], row["standard_error"]
        cells = (with_error(values[name], errors.get(name)) if name in values else "" for name in shown)
        rows.append([row["name"], *cells])
    return _drawn(["", *shown], rows)


def _step_table(result: dict[str, Any]) -> str:
    seconds, memory = result["seconds"], result["memory_mib"]
    labels = surrogate_labels(seconds)
    rows = [[labels[name], f"{spent:,.1f}", memory_text(memory.get(name, {}))] for name, spent in seconds.items()]
    rows.append(["all steps, with earlier runs", f"{sum(seconds.values()):,.1f}", ""])
    return _drawn(["", "seconds", "memory"], rows)


def _drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text, within the width of a line."""
    table = Texttable(max_width=line_width())
    table.set_deco(Texttable.HEADER)
    table.set_cols_dtype(["t"] * len(header))
    align = ["l"] + ["r"] * (len(header) - 1)
    table.set_cols_align(align)
    table.set_header_align(align)
    table.add_rows([list(header), *map(list, rows)])
    return table.draw()


def with_error(value: float, error: float | None) -> str:
    """Return a metric with its standard error, if it has one."""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
