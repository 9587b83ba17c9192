"""Loaders of training rows and of evaluation queries."""

from itertools import islice
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader

from recbole_dealrec.config import Config
from recbole_dealrec.data.candidates import Fields
from recbole_dealrec.data.dataset import SequentialDataset
from recbole_dealrec.distributed import fsdp, processes

_ROWS_COMPARED = 1 << 16  # at once, or those of a user


class SpareBatch(tuple):
    """A repeated batch whose result is ignored, so that all processes run the same number of forward passes."""


class QueryDataLoader(FullSortEvalDataLoader):
    """Full-ranking evaluation in which rows with the same user and history are one query with several positive items.

    Recall and NDCG are then per user, as in the paper. Queries are sorted by history length, so that the prompts of a
    batch are of similar length. Batches do not contain the target item. They are distributed over the processes in
    turn; with FSDP, a process with fewer batches gets a ``SpareBatch``.

    Args:
        config: reads ``eval_batch_size``.
        dataset: validation or test part.
        n_queries: number of queries to draw by ``seed``; 0 for all.

    Attributes:
        first_batch: number of the first batch of the main process.
    """

    first_batch = 0

    def __init__(self, config: Config, dataset: SequentialDataset, n_queries: int = 0) -> None:
        queries, positives = _queries(dataset)
        lengths = dataset.inter_feat[Fields.of(config).length].numpy()[queries]
        order = np.argsort(lengths, kind="stable")
        queries, positives = queries[order], [positives[query] for query in order]
        if 0 < n_queries < len(queries):
            drawn = np.sort(np.random.default_rng(config["seed"]).choice(len(queries), n_queries, replace=False))
            queries, positives = queries[drawn], [positives[query] for query in drawn]
            getLogger().info(f"{n_queries} of {len(order)} queries are drawn")
        self.positives = positives
        super().__init__(config, dataset.copy(dataset.inter_feat[queries]), sampler=None)

    def __iter__(self):
        share = islice(super().__iter__(), self.first_batch + processes.rank(), None, processes.world_size())
        for batch, is_counted in fsdp.in_lockstep(share, lambda: self.collate_fn([0])):
            yield batch if is_counted else SpareBatch(batch)

    def collate_fn(self, index: list[int]):
        interaction, history_index, _, _ = super().collate_fn(index)
        interaction = interaction[np.arange(len(interaction))]  # a copy, so that the dataset keeps its targets
        interaction.drop(self.iid_field)
        positives = [self.positives[query] for query in index]
        positive_u = np.repeat(np.arange(len(index)), [len(items) for items in positives])
        return interaction, history_index, torch.from_numpy(positive_u), torch.from_numpy(np.concatenate(positives))


def _queries(dataset: SequentialDataset) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first row of each query, ascending, and its positive items."""
    first = _first_rows(dataset)
    order = np.argsort(first, kind="stable")
    queries, starts = np.unique(first[order], return_index=True)
    return queries, np.split(dataset.inter_feat[dataset.iid_field].numpy()[order], starts[1:])


def _first_rows(dataset: SequentialDataset) -> np.ndarray:
    """Return the first row with the same user and history, for each row; int64 [n]."""
    fields, feat = Fields.of(dataset.config), dataset.inter_feat
    users = feat[fields.user].numpy()
    order = np.argsort(users, kind="stable")
    ends = np.flatnonzero(np.diff(users[order])) + 1  # of users, so that no user is in two blocks
    ends = ends[np.flatnonzero(np.diff(ends // _ROWS_COMPARED, prepend=0))]
    first = np.empty(len(users), dtype=np.int64)
    for rows in np.split(order, ends):
        keys = np.column_stack([users[rows], feat[rows][fields.history].numpy()])
        _, place, query = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        first[rows] = rows[place[query.reshape(-1)]]
    return first


def train_loader(config: Config, dataset: SequentialDataset, rows: np.ndarray) -> TrainDataLoader:
    """Return RecBole's training loader for some rows of the training part, with the dataset's id maps."""
    return TrainDataLoader(config, dataset.copy(dataset.inter_feat[rows]), sampler=None, shuffle=config["shuffle"])
