"""Grounding of generated titles to the catalogue: a score for every item; BIGRec, arXiv 2308.08434."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_dealrec.data.candidates import rank_from_end


def distances(queries: Tensor, items: Tensor) -> Tensor:
    """Return the distance of each query to each item, min-max normalised per query, float32 [B, n].

    Args:
        queries: embeddings of the generated titles, [B, d].
        items: embeddings of the items' titles, [n, d].
    """
    distance = torch.cdist(queries.float(), items.float(), compute_mode="donot_use_mm_for_euclid_dist")
    low, high = distance.amin(dim=1, keepdim=True), distance.amax(dim=1, keepdim=True)
    return (distance - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)


def rank_beams_first(beam_items: Tensor, beam_scores: Tensor, title_of_item: Tensor, fallback: Tensor) -> Tensor:
    """Return scores of all items from beams restricted to the catalogue's titles, float32 [B, n].

    Args:
        beam_items: title index of each beam, -1 if it has none, [B, K].
        beam_scores: summed log-likelihood of each beam, [B, K].
        title_of_item: title index of each item, -1 for padding, [n]; items with the same title get the same score.
        fallback: distances in [0, 1] that rank the items without a beam, [B, n].

    Returns:
        The log-likelihood of an item's beam; items without a beam rank below the worst beam, nearest first.
    """
    n_titles = int(title_of_item.max()) + 1
    by_title = torch.full((len(beam_items), n_titles + 1), -torch.inf, device=beam_scores.device)
    valid = (beam_items >= 0) & torch.isfinite(beam_scores)
    slots = torch.where(valid, beam_items, n_titles)
    by_title.scatter_reduce_(1, slots, beam_scores.masked_fill(~valid, -torch.inf), reduce="amax")
    by_title[:, n_titles] = -torch.inf
    named = by_title[:, torch.where(title_of_item < 0, n_titles, title_of_item)]
    worst = torch.where(torch.isfinite(named), named, torch.inf).amin(dim=1, keepdim=True)
    worst = torch.where(torch.isfinite(worst), worst, 0.0)
    return torch.where(torch.isfinite(named), named, worst - 1 - fallback)


def namesakes_before(titles: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Return how many items with the same title come before each item, int64 [n]; more frequent ones first, then by id.

    Args:
        titles: titles by internal item id.
        counts: occurrences in the training split, [n].
    """
    _, group = np.unique(np.asarray(titles, dtype=object), return_inverse=True)
    order = np.lexsort((-np.arange(len(counts)), counts))
    before = np.empty(len(order), dtype=np.int64)
    before[order] = rank_from_end(group[order])
    return before


def ranked_apart(scores: Tensor, namesakes: Tensor) -> Tensor:
    """Return scores [B, n] in which items with the same title differ in the last bits, so that their order is fixed.

    Args:
        scores: float32 [B, n], equal for items with the same title.
        namesakes: ``namesakes_before``, [n].
    """
    lowest = torch.tensor(-torch.inf, device=scores.device)
    for number in range(int(namesakes.max())):
        items = (namesakes > number).nonzero().squeeze(1)
        scores[:, items] = torch.nextafter(scores[:, items], lowest)
    return scores
