"""Peak memory of stages; the memory is really filled."""

import threading
import time

import numpy as np
import pytest

from recbole_dealrec.store.peak_memory import PeakMemory
from recbole_dealrec.store.run_folder import RunFolder


def fill(mib):
    """Fills memory and keeps it long enough to be seen, then lets it go."""
    held = np.ones(mib << 17)
    time.sleep(0.1)
    return held.nbytes


def test_what_was_held_and_let_go_is_seen_once():
    memory = PeakMemory()
    before = memory.take()["resident"]
    with memory.watched():
        fill(300)
    peak = memory.take()["resident"]
    assert 290 < peak - before < 340
    assert memory.take()["resident"] < peak - 200


def _nested_stages(path):
    run = RunFolder(path)
    with run.stage("outer"):
        with run.stage("large"):
            fill(300)
        with run.stage("small"):
            fill(20)
        fill(100)
    return run.memory, run.seconds


def test_a_stage_has_its_own_peak_without_the_stages_inside(together, tmp_path):
    # In a process of its own: what other tests left in this one may be let go in between.
    [(memory, seconds)] = together(1, _nested_stages, tmp_path / "run")
    peaks = {name: stage["resident"] for name, stage in memory.items()}
    assert set(peaks) == set(seconds)
    assert peaks["large"] - peaks["small"] > 200
    assert 50 < peaks["outer"] - peaks["small"] < peaks["large"] - peaks["small"]


def test_a_run_has_the_memory_of_the_shared_stages_it_used(tmp_path):
    shared = RunFolder(tmp_path / "shared")
    with shared.stage("effort"):
        fill(50)
    run = RunFolder(tmp_path / "run", shared)
    with run.stage("selection"):
        shared.reuse("effort")
    assert set(run.memory) == {"effort", "selection"}
    assert RunFolder(tmp_path / "run").memory == run.memory
    assert run.memory["effort"] == shared.memory["effort"]


def test_no_thread_is_left_whatever_ends_a_stage(tmp_path):
    threads = threading.active_count()
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), run.stage("outer"), run.stage("inner"):
        assert threading.active_count() == threads + 1
        raise KeyboardInterrupt
    assert threading.active_count() == threads and run.memory == {}
