"""The example prompts of a report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.sampler.selection import Selection

_EACH = 2


def example_prompts(selection: Selection, samples: CandidateSamples, llm: LLMRecommender) -> dict[str, Any]:
    """Return the prompts of samples with the highest, median and lowest values of what the sampler ranks by."""
    name, places = example_places(selection.ranked_by, selection.columns, samples.item_length)
    named = [(place, index) for place, indices in places.items() for index in indices.tolist()]
    rows = llm.instructions(samples[np.array([index for _, index in named], dtype=np.int64)])
    examples = [{"place": place, "sample": index, **row} for (place, index), row in zip(named, rows, strict=True)]
    return {"ranked_by": name, "samples": examples}


def example_places(
    ranked_by: str | None, columns: Mapping[str, np.ndarray], item_length: np.ndarray
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the samples with the highest, median and lowest values of what the sampler ranks by.

    Args:
        ranked_by: name of the column that the sampler ranks by, if any.
        columns: the sampler's columns, arrays [n].
        item_length: lengths of the histories [n], ranked by if there is no such column.

    Returns:
        Name of the ranked values, and indices of the ``highest``, ``median`` and ``lowest`` samples, at most two each,
        all different; samples with values that are not finite are left out.
    """
    name, values = (ranked_by, columns[ranked_by]) if ranked_by else ("history length", item_length)
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(-values[finite], kind="stable")]
    each = min(_EACH, len(order) // 3)
    middle = (len(order) - each) // 2
    return name, {
        "highest": order[:each],
        "median": order[middle : middle + each],
        "lowest": order[len(order) - each :],
    }
