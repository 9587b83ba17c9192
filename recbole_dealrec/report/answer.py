"""A run and its yardsticks, as the terminal and the page show them."""

from typing import Any

from recbole_dealrec.model.surrogate.surrogate import surrogate_labels

NORMAL_95 = 1.96  # standard errors in half of a 95 % interval


def answer_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the run, of the re-weighted run, and of the yardsticks.

    A row has ``name``, ``test_result``, ``standard_error``, and ``recall_parts``, which may be empty.
    """
    run = {"test_result": result["test_result"], "standard_error": result["test_standard_error"]}
    labels = surrogate_labels(row["name"] for row in result["yardsticks"])
    return [
        {"name": "this run", **run, "recall_parts": result["recall_parts"]},
        {"name": "this run, re-weighted", **result["reweighting"], "recall_parts": {}},
        *({**row, "name": labels[row["name"]]} for row in result["yardsticks"]),
    ]


def answer_metrics(result: dict[str, Any]) -> list[str]:
    """Return the names of the metrics at the cut-off of the headline metric."""
    cutoff = result["headline"].rpartition("@")[2]
    return [name for name in result["test_result"] if name.endswith(f"@{cutoff}")]


def metric_table(
    result: dict[str, float], errors: dict[str, float]
) -> tuple[list[str], dict[str, dict[str, tuple[float, float | None]]]]:
    """Return metrics and their standard errors by name and cut-off, as RecBole names them (``recall@10``).

    A metric without a cut-off has the cut-off ''.
    """
    table: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, value in result.items():
        metric, _, cutoff = name.partition("@")
        table.setdefault(metric, {})[cutoff] = value, errors.get(name)
    return list(dict.fromkeys(cutoff for values in table.values() for cutoff in values)), table
