"""The table of results in the terminal."""

from logging import getLogger
from typing import Any

from texttable import Texttable

from recbole_dealrec.config import Config


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


def with_error(value: float, error: float | None) -> str:
    """Return a metric with its standard error, if it has one."""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
