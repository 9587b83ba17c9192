"""Which samples a report shows as examples."""

from collections.abc import Mapping

import numpy as np

_EACH = 2


def example_places(
    ranked_by: str | None, columns: Mapping[str, np.ndarray], item_length: np.ndarray
) -> tuple[str, dict[str, np.ndarray]]:
    """Return samples at the ends and in the middle of what the sampler ranks by.

    Args:
        ranked_by: name of the column that the sampler ranks by, if any.
        columns: what the sampler keeps of each candidate, arrays [n].
        item_length: lengths of the histories [n], which take the place of a column that there is not.

    Returns:
        Name of what they are ranked by, and indices of the ``highest``, ``median`` and ``lowest`` samples, each at most
        two, none twice; samples whose score is not finite are left out.
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
