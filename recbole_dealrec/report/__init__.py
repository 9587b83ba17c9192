"""Reports: a table in the terminal, and a page for a run or a comparison."""

from recbole_dealrec.report.comparison_page import write_comparison_report
from recbole_dealrec.report.example import example_places, example_prompts
from recbole_dealrec.report.ranked_query import ranked_queries
from recbole_dealrec.report.run_page import write_report
from recbole_dealrec.report.statistic import selection_statistics
from recbole_dealrec.report.summary import log_summary

__all__ = [
    "example_places", "example_prompts", "log_summary", "ranked_queries", "selection_statistics",
    "write_comparison_report", "write_report",
]  # fmt: skip
