"""A selection that is kept and loaded again."""

import numpy as np
import pytest

from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler.selection import Selection
from recbole_dealrec.store.run_folder import RunFolder


@pytest.mark.parametrize(
    ("columns", "ranked_by"),
    [
        ({}, None),
        ({"effort": np.array([0.1, np.nan, -np.inf])}, None),
        ({"score": np.array([1 / 3, np.nan, 1e300]), "group": np.array([0, -1, 7])}, "score"),
        ({"indices": np.array([1.0, 2.0, 3.0]), "ranked_by": np.array([3, 2, 1])}, "indices"),
        ({"name": np.array(["a", "", "\u00e9"])}, None),
    ],
    ids=["no columns", "not finite", "numbers of both kinds", "names of its own parts", "text"],
)
def test_a_selection_comes_back_as_it_was(columns, ranked_by, tmp_path):
    kept = Selection(np.array([0, 2], dtype=np.int64), columns, ranked_by)
    kept.save(RunFolder(tmp_path))
    found = Selection.load(RunFolder(tmp_path))
    assert found.indices.dtype == np.int64 and found.indices.tolist() == [0, 2]
    assert found.ranked_by == ranked_by and list(found.columns) == list(columns)
    for name, values in columns.items():
        assert found.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.columns[name], values)


@pytest.mark.parametrize(
    ("indices", "ranked_by", "words"),
    [([2, 0], "effort", "not ascending"), ([1, 1], "effort", "one twice"), ([0, 2], "score", "the columns: effort")],
)
def test_what_a_sampler_got_wrong_is_named(indices, ranked_by, words):
    with pytest.raises(InputError, match=words):
        Selection(np.array(indices), {"effort": np.zeros(3)}, ranked_by)
