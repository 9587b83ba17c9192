"""Peak memory; it is really filled."""

import time

import numpy as np

from recbole_dealrec.store.peak_memory import peak_memory
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import records, step


def fill(mib):
    """Fills memory and keeps it long enough to be seen, then lets it go."""
    held = np.ones(mib << 17)
    time.sleep(0.1)
    return held.nbytes


def test_what_was_held_and_let_go_is_seen():
    with peak_memory() as peaks:
        before = peaks()["resident"]
        fill(300)
        assert 290 < peaks()["resident"] - before < 340
    with peak_memory() as peaks:
        assert peaks()["resident"] < before + 100


def _steps(path):
    run = RunFolder(path)
    for name, mib in (("large", 300), ("small", 20), ("middle", 100)):
        with step(run, name):
            fill(mib)
    return {name: record["memory"]["resident"] for name, record in records(run).items()}


def test_a_step_has_its_own_peak(together, tmp_path):
    # In a process of its own: what other tests left in this one may be let go in between.
    [peaks] = together(1, _steps, tmp_path / "run")
    assert peaks["large"] - peaks["small"] > 200
    assert 50 < peaks["middle"] - peaks["small"] < peaks["large"] - peaks["small"]
