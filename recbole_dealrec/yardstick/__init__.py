"""Yardsticks: what recommenders that cost seconds reach on a run's test queries, and what that says about the run."""

from recbole_dealrec.yardstick.evaluation import Evaluation
from recbole_dealrec.yardstick.verdict import verdict

__all__ = ["Evaluation", "verdict"]
