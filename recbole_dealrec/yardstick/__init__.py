"""Yardsticks: what recommenders that cost seconds reach on a run's test queries, and what that says about the run."""

from recbole_dealrec.yardstick.recall_part import ItemKinds, recall_parts
from recbole_dealrec.yardstick.verdict import verdict
from recbole_dealrec.yardstick.yardsticks import UNTUNED, Yardsticks, yardstick_row

__all__ = ["UNTUNED", "ItemKinds", "Yardsticks", "recall_parts", "verdict", "yardstick_row"]
