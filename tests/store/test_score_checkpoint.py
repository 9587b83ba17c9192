"""Scores that are kept while they come."""

import numpy as np
import pytest

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.scorer import InfluenceScorer
from recbole_dealrec.store import score_checkpoint
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint
from recbole_dealrec.store.step import records, step


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def keep_every_batch(monkeypatch):
    monkeypatch.setattr(score_checkpoint, "_SECONDS", -1)
    monkeypatch.setattr(score_checkpoint, "_WRITING_SHARE", float("inf"))


def batches_of(*parts):
    for part in parts:
        yield np.array(part), part


class Compute:
    """Scores that are ten times the index; never returns from one of its calls."""

    def __init__(self, killed_at=None):
        self.asked, self.killed_at = [], killed_at

    def __call__(self, batch):
        self.asked.append(batch)
        if len(self.asked) == self.killed_at:
            raise Killed
        return 10.0 * np.array(batch)


PARTS = [(3, 0), (1, 4), (2,)]


def test_batches_that_are_kept_are_not_computed_again(tmp_path):
    rows = np.arange(5)
    for killed_at in (1, 2, 3):
        folder = tmp_path / str(killed_at)
        with pytest.raises(Killed):
            ScoreCheckpoint(RunFolder(folder)).score("x", rows, batches_of(*PARTS), Compute(killed_at))
        again, keep = Compute(), ScoreCheckpoint(RunFolder(folder))
        scores = keep.score("x", rows, batches_of(*PARTS), again)
        assert scores.dtype == np.float64 and scores.tolist() == [0, 10, 20, 30, 40]
        assert again.asked == PARTS[killed_at - 1 :]
        keep.folder.discard_unfinished()
        assert [path.name for path in folder.iterdir()] == ["checksums.json"]


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_kept_batches_cost_what_they_cost_when_they_were_computed(tmp_path, monkeypatch, killed_at):
    seconds = [0]
    monkeypatch.setattr(step_module, "perf_counter", lambda: seconds[0])

    def score(killed_at=None):
        compute, folder = Compute(killed_at), RunFolder(tmp_path)

        def slow(batch):
            seconds[0] += 10
            return compute(batch)

        with step(folder, "x"):
            ScoreCheckpoint(folder).score("x", np.arange(5), batches_of(*PARTS), slow)
        return records(folder)["x"]["seconds"]

    with pytest.raises(Killed):
        score(killed_at)
    assert score() == 10 * len(PARTS)


def test_a_batch_that_is_kept_in_part_is_computed_whole(tmp_path):
    with pytest.raises(Killed):
        ScoreCheckpoint(RunFolder(tmp_path)).score("x", np.arange(5), batches_of(*PARTS), Compute(2))
    again = Compute()
    ScoreCheckpoint(RunFolder(tmp_path)).score("x", np.arange(5), batches_of((0, 1), (3,), (2, 4)), again)
    assert again.asked == [(0, 1), (2, 4)]


def test_scores_of_other_samples_are_not_used(tmp_path):
    with pytest.raises(Killed):
        ScoreCheckpoint(RunFolder(tmp_path)).score("x", np.arange(5), batches_of(*PARTS), Compute(3))
    for name, rows in (("x", range(1, 6)), ("x", range(4)), ("y", range(5))):
        again, parts = Compute(), [(0, 1), (2, 3)]
        ScoreCheckpoint(RunFolder(tmp_path)).score(name, np.array(rows), batches_of(*parts), again)
        assert again.asked == parts


def test_what_is_computed_once_is_kept(tmp_path):
    rows = np.arange(2)
    x = ScoreCheckpoint(RunFolder(tmp_path)).compute_on_main("x", rows, lambda: np.float32([1, 2, 3]))
    again = ScoreCheckpoint(RunFolder(tmp_path)).compute_on_main("x", rows, lambda: pytest.fail("computed again"))
    assert again.dtype == x.dtype and again.tolist() == [1, 2, 3]


def test_without_a_folder_nothing_is_kept():
    keep, compute = ScoreCheckpoint(), Compute()
    for _ in range(2):
        keep.score("x", np.arange(5), batches_of(*PARTS), compute)
    assert compute.asked == 2 * PARTS


def test_influence_goes_on_from_the_solution(ten, tmp_path, monkeypatch):
    from recbole_dealrec.data import load_splits
    from recbole_dealrec.scorer import influence
    from recbole_dealrec.scorer.problem import Problem

    config = ten(surrogate_hidden_size=8, hessian_samples=0)
    splits = load_splits(config)
    surrogates = [build_surrogate(config.surrogate(), splits.train) for _ in range(2)]
    samples = CandidateSamples.from_dataset(splits.train)
    whole = InfluenceScorer(surrogates, config).score(samples)
    derivative, solves = Problem.derivative, []
    monkeypatch.setattr(influence, "tried_problem", lambda surrogate, config, _: Problem(surrogate, config))

    def killed_in_the_second(self, x):
        if self.surrogate is surrogates[1]:
            raise Killed
        return derivative(self, x)

    monkeypatch.setattr(Problem, "derivative", killed_in_the_second)
    with pytest.raises(Killed):
        InfluenceScorer(surrogates, config, None, ScoreCheckpoint(RunFolder(tmp_path))).score(samples)
    monkeypatch.setattr(Problem, "derivative", derivative)
    monkeypatch.setattr(influence, "_solution", lambda *args: solves.append(args))
    scorer = InfluenceScorer(surrogates, config, None, ScoreCheckpoint(RunFolder(tmp_path)))
    np.testing.assert_array_equal(scorer.score(samples), whole)
    assert not solves
