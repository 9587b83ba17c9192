"""The parts of Recall: beyond the popularity list, and by where a target occurs in the training part."""

from dataclasses import dataclass

import numpy as np

from recbole_dealrec.data import CandidateSamples, SequentialDataset
from recbole_dealrec.training.query_evaluator import QueryEvaluator
from recbole_dealrec.yardstick.baseline import popularity_order


@dataclass(frozen=True)
class ItemKinds:
    """Where each item occurs in the training part.

    Attributes:
        popularity_rank: 0 for the most popular item of the training part, int64 [n_items].
        is_target: whether it is the target of a candidate, bool [n_items].
        is_in_history: whether it is in the history of a candidate, bool [n_items].
    """

    popularity_rank: np.ndarray
    is_target: np.ndarray
    is_in_history: np.ndarray

    @classmethod
    def of(cls, dataset: SequentialDataset, samples: CandidateSamples) -> "ItemKinds":
        """Return the kinds of the items of a training part and its candidates."""
        n_items = dataset.item_num
        rank = np.full(n_items, n_items)
        rank[popularity_order(dataset.item_counts)] = np.arange(n_items - 1)
        target, history = np.zeros(n_items, dtype=bool), np.zeros(n_items, dtype=bool)
        target[samples.item_id] = True
        history[samples.item_id_list] = True
        return cls(rank, target, history)


def recall_parts(evaluator: QueryEvaluator, kinds: ItemKinds) -> dict[str, dict[str, float]]:
    """Return the parts of Recall at each cut-off, by the names ``recall@k``.

    Args:
        evaluator: has evaluated the queries.
        kinds: kinds of the items.

    Returns:
        ``beyond popularity list`` is the part on items outside the k most popular ones; ``training targets``, ``seen in
        histories only`` and ``new`` add up to Recall.
    """
    items, hits = (evaluator.evaluated.get(name).numpy() for name in ("rec.items", "rec.topk"))
    gain = hits[:, :-1] / np.maximum(hits[:, -1:], 1)
    target, history = kinds.is_target[items], kinds.is_in_history[items]
    parts = {}
    for k in evaluator.config["topk"]:
        masks = {
            "beyond popularity list": kinds.popularity_rank[items] >= k,
            "training targets": target,
            "seen in histories only": history & ~target,
            "new": ~history & ~target,
        }
        parts[f"recall@{k}"] = {name: float((gain * mask)[:, :k].sum(axis=1).mean()) for name, mask in masks.items()}
    return parts
