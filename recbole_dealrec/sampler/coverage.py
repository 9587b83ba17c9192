"""Coverage-enhanced selection; DEALRec, arXiv 2401.17197, algorithm 2."""

import numpy as np

PRUNED = -1


def score_groups(scores: np.ndarray, n_groups: int = 50, hard_prune_ratio: float = 0.1) -> np.ndarray:
    """Return the group of each sample: which of ``n_groups`` score ranges of equal width contains its score.

    Args:
        scores: float [n].
        n_groups: K.
        hard_prune_ratio: share of the samples, with the highest scores, that is pruned first.

    Returns:
        int64 [n] in [0, K), lowest scores in group 0; -1 where a score is pruned or not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    groups = np.full(len(scores), PRUNED, dtype=np.int64)
    kept = _kept_by_hard_prune(scores, hard_prune_ratio)
    place = scores[kept]
    if len(place):
        place /= 2  # the difference of halves cannot overflow
        low, high = place.min(), place.max()
        place -= low
        place /= (high - low) or 1.0
        place *= n_groups
        groups[kept] = np.minimum(place, n_groups - 1, out=place)
    return groups


def _kept_by_hard_prune(scores: np.ndarray, hard_prune_ratio: float) -> np.ndarray:
    """Return whether each score is finite and not pruned, bool [n]; of equal scores, later ones are pruned first."""
    finite = np.isfinite(scores)
    values = scores[finite]
    left = n_after_pruning(len(values), hard_prune_ratio)
    if left == len(values):
        return finite
    values.partition(left)
    edge = values[left]
    kept = finite & (scores < edge)
    ties = np.flatnonzero(scores == edge)
    kept[ties[: left - np.count_nonzero(kept)]] = True
    return kept


def n_after_pruning(n: int, hard_prune_ratio: float) -> int:
    """Return how many of ``n`` samples remain after the hard prune."""
    return n - int(np.floor(n * hard_prune_ratio))


def draw_from_groups(groups: np.ndarray, n_fewshot: int, seed: int) -> np.ndarray:
    """Draw an equal share of the remaining budget from each group, smallest first; int64 [n_fewshot], sorted.

    Args:
        groups: int64 [n], negative where a sample cannot be chosen.
        n_fewshot: budget.
        seed: seed of the uniform draws inside a group.

    Raises:
        ValueError: fewer than ``n_fewshot`` samples can be chosen.
    """
    groups = np.maximum(groups, PRUNED)
    if groups.max(initial=PRUNED) <= np.iinfo(np.int16).max:
        groups = groups.astype(np.int16)  # NumPy's stable sort of int16 is a radix sort
    order = np.argsort(groups, kind="stable")
    order = order[np.count_nonzero(groups == PRUNED) :]
    if len(order) < n_fewshot:
        raise ValueError(f"n_fewshot is {n_fewshot}, but only {len(order)} samples are left to choose from")
    ordered = groups[order]
    ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    members = sorted(np.split(order, ends), key=len)
    random = np.random.default_rng(seed)
    chosen, budget = [], n_fewshot
    for left, group in zip(range(len(members), 0, -1), members, strict=True):
        share = min(len(group), budget // left)
        chosen.append(random.choice(group, share, replace=False))
        budget -= share
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def coverage_enhanced_selection(
    scores: np.ndarray, n_fewshot: int, n_groups: int = 50, hard_prune_ratio: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Select samples over the whole range of scores: CCS's hard prune, then the paper's algorithm 2.

    The highest ``hard_prune_ratio`` of the scores is dropped, and the rest is split into ``n_groups`` ranges of equal
    width. From each group, smallest to largest, ``min(its size, budget // groups left)`` samples are drawn uniformly.
    Samples whose score is not finite are never selected.

    Args:
        scores: float [n], larger is more useful.
        n_fewshot: number of samples to select.
        n_groups: K.
        hard_prune_ratio: in [0, 1).
        seed: seed of the draws.

    Returns:
        Indices, int64 [n_fewshot], sorted and unique.

    Raises:
        ValueError: fewer than ``n_fewshot`` samples remain after the hard prune.
    """
    return draw_from_groups(score_groups(scores, n_groups, hard_prune_ratio), n_fewshot, seed)
