"""Seconds and peak memory of steps, and what an interrupted run had spent."""

import re
import threading
import time

import pytest

from recbole_dealrec.distributed import processes
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.opening import opened
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import add_records, records, step, stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(step_module, "perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def seconds(folder):
    return {name: record["seconds"] for name, record in records(folder).items()}


def test_steps_are_logged_and_measured_one_after_the_other(tmp_path, clock, caplog):
    caplog.set_level("INFO")
    run = RunFolder(tmp_path)
    assert records(run) == {}
    for name, spent in (("first", 2), ("second", 32)):
        with step(run, name):
            clock(spent)
        clock(64)  # belongs to none
    assert seconds(run) == {"first": 2, "second": 32} and list(records(run)) == ["first", "second"]
    assert all(record["memory"]["resident"] > 0 for record in records(run).values())
    said = [re.sub(r"\d+\.\d GiB", "", message) for message in caplog.messages]
    assert said == ["first ...", "first: 2.0 s, RAM ", "second ...", "second: 32.0 s, RAM "]


def test_a_step_that_fails_has_no_record_and_costs_no_other(tmp_path, clock):
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError), step(run, "broken"):
        clock(2)
        raise ValueError
    with step(run, "later"):
        clock(8)
    assert seconds(run) == {"later": 8}


def test_records_of_an_earlier_run_are_kept_until_the_step_runs_again(tmp_path, clock):
    with step(RunFolder(tmp_path), "one"):
        clock(1)
    again = RunFolder(tmp_path)
    with step(again, "two"):
        clock(2)
    assert seconds(again) == {"one": 1, "two": 2}
    with step(again, "one"):
        clock(3)
    assert seconds(RunFolder(tmp_path)) == {"one": 3, "two": 2}


def test_records_of_another_folder_are_added(tmp_path, clock):
    shared, run = RunFolder(tmp_path / "shared"), RunFolder(tmp_path / "run")
    with step(shared, "effort"):
        clock(5)
    add_records(run, records(shared))
    with step(run, "selection"):
        clock(1)
    assert records(RunFolder(tmp_path / "run"))["effort"] == records(shared)["effort"]
    assert seconds(run) == {"effort": 5, "selection": 1}


def test_a_step_counts_what_interrupted_runs_had_spent_on_what_it_goes_on_from(tmp_path, clock):
    run, kept = RunFolder(tmp_path), []

    def interrupted():
        with step(run, "long"):
            for spent in kept:
                stopwatch.resume(spent)
            clock(1)
            kept.append(stopwatch.seconds())
            clock(4)
            kept.append(stopwatch.seconds())
            clock(8)  # is lost
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        clock(1000)
    assert kept == [1, 5, 6, 10]
    with step(run, "long"):
        clock(32)
        for spent in kept:
            stopwatch.resume(spent)
    assert seconds(run) == {"long": 10 + 32}
    with step(run, "other"):
        clock(64)
    assert seconds(run)["other"] == 64  # nothing of the step before


def test_what_parts_of_a_step_had_cost_other_runs_is_added(tmp_path, clock):
    run = RunFolder(tmp_path)
    with step(run, "effort"):
        stopwatch.add(3)
        clock(1)
        stopwatch.add(4)
    assert seconds(run) == {"effort": 8}


def test_real_time(tmp_path):
    run = RunFolder(tmp_path)
    with step(run, "sleep"):
        time.sleep(0.05)
    assert 0.05 <= seconds(run)["sleep"] < 2


def test_no_thread_is_left_whatever_ends_a_step(tmp_path):
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), step(RunFolder(tmp_path), "long"):
        assert threading.active_count() == threads + 1
        raise KeyboardInterrupt
    assert threading.active_count() == threads


def _recorded(path):
    with processes.process_group(cpu=True), opened(path) as folder:
        with step(folder, "together"):
            folder.output_json("made.json", processes.rank())
        return records(folder), folder.read_json("made.json")


def test_all_processes_see_the_main_ones_record_and_outputs_when_a_step_ends(together, tmp_path):
    (first, made), other = together(2, _recorded, tmp_path / "run")
    assert other == (first, made) and made == 0 and set(first) == {"together"}
