"""A run beside its yardsticks, as the terminal and the page show it."""

from typing import Any

NORMAL_95 = 1.96  # standard errors in half of a 95 % interval


def answer_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the run, of the run re-weighted, and of the yardsticks.

    A row has ``name``, ``test_result``, ``standard_error``, and ``recall_parts``, which may be empty.
    """
    run = {"test_result": result["test_result"], "standard_error": result["test_standard_error"]}
    return [
        {"name": "this run", **run, "recall_parts": result["recall_parts"]},
        {"name": "this run, re-weighted", **result["reweighting"], "recall_parts": {}},
        *result["yardsticks"],
    ]


def answer_metrics(result: dict[str, Any]) -> list[str]:
    """Return the names of the metrics at the cut-off of the headline metric."""
    cutoff = result["headline"].rpartition("@")[2]
    return [name for name in result["test_result"] if name.endswith(f"@{cutoff}")]
