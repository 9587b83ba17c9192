"""The example prompts of a report."""

from typing import Any

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.sampler.selection import Selection

_PLACES = ("highest", "highest selected", "median selected", "lowest selected", "lowest")


def example_prompts(selection: Selection, samples: CandidateSamples, llm: LLMRecommender) -> dict[str, Any]:
    """Return the prompts of samples at both ends and in the middle of the values that the sampler ranks by."""
    name, places = example_places(selection, samples.item_length)
    rows = llm.instructions(samples[np.array(list(places.values()), dtype=np.int64)])
    examples = [
        {"place": place, "sample": index, "why": _reason(selection, index), **row}
        for (place, index), row in zip(places.items(), rows, strict=True)
    ]
    return {"ranked_by": name, "samples": examples}


def example_places(selection: Selection, item_length: np.ndarray) -> tuple[str, dict[str, int]]:
    """Return the candidates, and the selected ones, with the highest and lowest values that the sampler ranks by.

    Args:
        selection: its ``ranked_by`` names the ranked column.
        item_length: lengths of the histories [n], ranked by if the sampler ranks by none.

    Returns:
        Name of the ranked values, and a sample for each place from ``highest`` to ``lowest``, all different; samples
        with values that are not finite are left out.
    """
    ranked_by = selection.ranked_by
    name, values = (ranked_by, selection.columns[ranked_by]) if ranked_by else ("history length", item_length)
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    order = order[np.isfinite(values[order])]
    chosen = order[np.isin(order, selection.indices)]
    ranked = {"highest": order, "lowest": order[::-1], "highest selected": chosen, "lowest selected": chosen[::-1]}
    ranked["median selected"] = chosen[len(chosen) // 2 :]
    places: dict[str, int] = {}
    for place, found in ranked.items():
        if len(found) and found[0] not in places.values():
            places[place] = int(found[0])
    return name, {place: places[place] for place in _PLACES if place in places}


def _reason(selection: Selection, index: int) -> str:
    """Return why a sample is selected or not."""
    group = selection.columns.get("group")
    selected = index in selection.indices
    if group is None:
        return "selected" if selected else "not selected"
    if group[index] < 0:
        return "pruned by hard_prune_ratio: its score is among the highest"
    same = np.flatnonzero(group == group[index])
    taken = np.count_nonzero(np.isin(same, selection.indices))
    return (
        f"{'drawn' if selected else 'not drawn'}: group {group[index]} has {taken} selected samples out of {len(same)}"
    )
