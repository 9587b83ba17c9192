"""The table of results in the terminal."""

from logging import getLogger
from typing import Any

from texttable import Texttable

from recbole_dealrec.config import Config
from recbole_dealrec.report.answer import answer_metrics, answer_rows


def log_summary(config: Config, result: dict[str, Any]) -> None:
    """Log the metrics and the time of each step as a table."""
    table = Texttable()
    table.set_deco(Texttable.HEADER)
    table.set_cols_dtype(["t", "t", "t", "t"])
    table.set_cols_align(["l", "r", "l", "r"])
    table.set_header_align(["l", "r", "l", "r"])
    errors = result["test_standard_error"]
    metrics = [(metric, with_error(value, errors.get(metric))) for metric, value in result["test_result"].items()]
    steps = [(step, f"{seconds:.1f}") for step, seconds in result["seconds"].items()]
    rows = max(len(metrics), len(steps))
    metrics += [("", "")] * (rows - len(metrics))
    steps += [("", "")] * (rows - len(steps))
    table.header(["test metric", "value", "step", "seconds"])
    table.add_rows([[*left, *right] for left, right in zip(metrics, steps, strict=True)], header=False)
    title = f"{config['dataset']}, {config['model']}, {config['sampler']}: "
    chosen = f"{len(result['selected'])} of {result['n_candidates']} candidate samples"
    tested = f"{result['n_test_queries']} test queries, ± standard error over them"
    getLogger().info(f"{title}{chosen}; {tested}\n{table.draw()}")
    if "verdict" in result:
        getLogger().info(f"what else ranks these queries\n{_yardstick_table(result)}\n{result['verdict']}")


def _yardstick_table(result: dict[str, Any]) -> str:
    """Return the run and its yardsticks with all metrics at the cut-off of the headline metric."""
    shown = answer_metrics(result)
    table = Texttable(max_width=0)
    table.set_deco(Texttable.HEADER)
    table.set_cols_dtype(["t"] * (1 + len(shown)))
    table.set_cols_align(["l"] + ["r"] * len(shown))
    table.set_header_align(["l"] + ["r"] * len(shown))
    table.header(["", *shown])
    for row in answer_rows(result):
        values, errors = row["test_result"], row["standard_error"]
        cells = [with_error(values[name], errors.get(name)) if name in values else "" for name in shown]
        table.add_row([row["name"], *cells])
    return table.draw()


def with_error(value: float, error: float | None) -> str:
    """Return a metric with its standard error, if it has one."""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
