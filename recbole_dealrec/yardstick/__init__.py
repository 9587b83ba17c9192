"""Yardsticks: metrics of recommenders that need only seconds, on a run's test queries, and a verdict on the run."""

from recbole_dealrec.yardstick.evaluation import Evaluation
from recbole_dealrec.yardstick.verdict import verdict

__all__ = ["Evaluation", "verdict"]
