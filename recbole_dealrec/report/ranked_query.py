"""Rankings of a few test queries with titles, for the report."""

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_dealrec.data import Fields, QueryDataLoader, SequentialDataset, Splits
from recbole_dealrec.data.title import distinct_titles
from recbole_dealrec.distributed import processes
from recbole_dealrec.model import LLMRecommender

_QUERIES = 5
_SHOWN = 5  # items of a history and of a ranking


def ranked_queries(llm: LLMRecommender, splits: Splits) -> list[dict[str, Any]]:
    """Return user, latest titles of the history, targets and best titles of five test queries, drawn by ``seed``.

    Returns:
        For each query ``user``, ``history``, ``targets`` (each with ``title`` and ``rank``, from 1) and ``ranking``
        (each with ``title`` and ``hit``).
    """
    dataset, found = splits.train, []
    titles = distinct_titles(dataset.titles, dataset.field2id_token[dataset.iid_field])
    for batch in QueryDataLoader(llm.config, splits.test, _QUERIES):
        interaction, _, row, item = batch
        scores = llm.full_sort_predict(interaction.to(llm.device)).view(len(interaction), -1).cpu()
        scores[:, 0] = -torch.inf  # the padding item
        for query in range(len(interaction)):
            positives = item[row == query].tolist()
            one = interaction[query : query + 1]
            found.append(_ranked_query(dataset, titles, one, scores[query].numpy(), positives))
    return [query for share in processes.gather(found) for query in share]


def _ranked_query(
    dataset: SequentialDataset, titles: list[str], query: Interaction, scores: np.ndarray, positives: list[int]
) -> dict[str, Any]:
    fields = Fields.of(dataset.config)
    history, length = query[fields.history][0], int(query[fields.length][0])
    return {
        "user": str(dataset.id2token(dataset.uid_field, int(query[fields.user][0]))),
        "history": [titles[index] for index in history[:length][-_SHOWN:].tolist()],
        "targets": [
            {"title": titles[index], "rank": int(np.count_nonzero(scores > scores[index])) + 1}
            for index in positives
        ],
        "ranking": [
            {"title": titles[index], "hit": index in positives}
            for index in np.argsort(-scores, kind="stable")[:_SHOWN].tolist()
        ],
    }
