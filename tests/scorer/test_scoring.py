"""Which steps scores take, what is computed once, what is loaded, and what an interruption leaves."""

from dataclasses import replace

import numpy as np
import pytest

from recbole_dealrec.config.registry import SCORERS
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.scorer import influence, scoring
from recbole_dealrec.scorer.effort import EffortScorer
from recbole_dealrec.scorer.problem import Problem
from recbole_dealrec.scorer.scorer import LLM, get_scorer, register_scorer, scorer_names
from recbole_dealrec.scorer.scoring import Scoring, needs_llm, score_names, scoring_steps, seen_parts
from recbole_dealrec.store import score_checkpoint
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.run_folder import UNFINISHED
from recbole_dealrec.training.surrogate_training import SurrogateTraining

KEYS = {
    "show_progress": False, "use_gpu": False, "sampler": "Full", "topk": [1, 2], "n_surrogates": 2,
    "surrogate_hidden_size": 8, "surrogate_inner_size": 16, "surrogate_epochs": 2, "surrogate_eval_step": 1,
    "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 8, "hessian_damping": 1.0,
}  # fmt: skip
OF_LLM = {
    "effort", "gradient_similarity", "less", "llm_gradient", "llm_loss", "llm_representation", "valid_distance",
    "valid_similarity",
}  # fmt: skip
PART = {"effort_sample_ratio": 0.5}


@pytest.mark.parametrize(
    ("names", "keys", "expected"),
    [
        ([], {}, []),
        (["influence"], {}, ["surrogate", "surrogate 1", "influence"]),
        (["influence"], {"n_surrogates": 1}, ["surrogate", "influence"]),
        (["surrogate_representation"], {}, ["surrogate", "surrogate_representation"]),
        (["loss_trajectory"], {}, ["loss_trajectory"]),
        (["effort"], {}, [LLM, "effort"]),
        (["effort"], PART, ["surrogate", LLM, "surrogate 1", "influence", "effort"]),
        (["influence", "effort"], PART, ["surrogate", "surrogate 1", "influence", LLM, "effort"]),
        (["effort", "valid_distance"], {}, [LLM, "effort", "valid_distance"]),
        (["gradient_similarity", "less"], {}, [LLM, "llm_gradient", "gradient_similarity", "less"]),
        (
            ["surrogate_representation", "llm_representation"],
            {},
            ["surrogate", "surrogate_representation", LLM, "llm_representation"],
        ),
    ],
)
def test_what_is_needed_comes_before_and_once(ten, names, keys, expected):
    config = ten(**{**KEYS, **keys})
    steps = scoring_steps(config, names)
    assert steps == expected
    assert score_names(config, names) == [step for step in steps if step in scorer_names()]


def test_which_scores_are_computed_on_the_language_model(ten):
    found = {name for name in scorer_names() if needs_llm(ten(**KEYS), name)}
    assert found == OF_LLM
    assert len(scorer_names()) == 14


HISTORIES, TARGETS = "validation histories", "validation targets"


@pytest.mark.parametrize(
    ("names", "keys", "expected"),
    [
        ([], {}, []),
        (["influence", "effort", "el2n", "llm_representation", "loss_trajectory"], {}, []),
        (["target_frequency"], {}, [TARGETS]),
        (["valid_similarity"], {}, [HISTORIES]),
        (["target_frequency", "valid_similarity"], {}, [HISTORIES, TARGETS]),
        (["valid_distance", "effort"], {}, [HISTORIES, TARGETS]),
        (["influence"], {"influence_on": "valid"}, [HISTORIES, TARGETS]),
        (["effort"], {"influence_on": "valid"}, []),
        (["effort"], {"influence_on": "valid", **PART}, [HISTORIES, TARGETS]),  # through the influence
    ],
)
def test_what_scores_see_of_the_validation_part(ten, names, keys, expected):
    assert seen_parts(ten(**{**KEYS, **keys}), names) == ("training", *expected)


@pytest.mark.parametrize("influence_on", ["train", "valid"])
def test_a_scorer_that_is_given_the_validation_part_says_what_it_sees(scoring_of, monkeypatch, influence_on):
    read = {}

    class Watched:
        def __init__(self, splits, name):
            self.splits, self.name = splits, name

        def __getattr__(self, part):
            read[self.name].add(part)
            return getattr(self.splits, part)

    for name in scorer_names():
        scorer = get_scorer(name)

        def watched(inputs, name=name, make=scorer.from_inputs):
            read[name] = set()
            return make(replace(inputs, splits=Watched(inputs.splits, name)))

        monkeypatch.setattr(scorer, "from_inputs", watched)
    made = scoring_of(influence_on=influence_on)
    made.scores(scorer_names())
    reading = {name for name, parts in read.items() if "valid" in parts}
    assert reading == {name for name in scorer_names() if get_scorer(name).seen(made.config)}
    assert ("influence" in reading) == (influence_on == "valid") and len(reading) >= 3


def test_a_registered_scorer_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(SCORERS, "entries", {name: SCORERS.entries[name] for name in SCORERS})
    scorer = type("Own", (get_scorer("el2n"),), {})
    assert register_scorer("own")(scorer) is scorer and get_scorer("own") is scorer
    assert "own" in scorer_names()


class Killed(BaseException):
    pass


@pytest.fixture
def scoring_of(write_dataset, tmp_path, checkpoint):
    """``scoring_of()``: the scoring of a run on a small dataset, as a new process would have it."""
    sequences = {f"u{user}": [f"i{(user * 7 + place * 3) % 20}" for place in range(6)] for user in range(24)}
    write_dataset("small", sequences)
    paths = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "llm_path": checkpoint("llama")}

    def make(**keys):
        (job,) = prepare([configure("BIGRec", "small", None, {**KEYS, **paths, **keys})])
        return job.scoring()

    return make


@pytest.fixture
def calls(monkeypatch):
    """What was trained, loaded or computed: names of steps, in order."""
    seen, original = [], scoring.step

    def watched(folder, name, *details, **options):
        seen.append(name)
        return original(folder, name, *details, **options)

    monkeypatch.setattr(scoring, "step", watched)
    return seen


def test_each_is_computed_once_and_loaded_by_others(scoring_of, calls):
    names = ["influence", "el2n", "effort"]
    first = scoring_of()
    scores = first.scores(names)
    assert calls == ["surrogate", "surrogate 1", "influence", "el2n", LLM, "effort"]
    assert list(scores) == names and all(values.shape == (24,) for values in scores.values())
    assert set(first.records) == set(calls) and set(first.curves) == {"surrogate", "surrogate 1"}
    again = first.scores(["effort", "influence"])
    assert list(again) == ["effort", "influence"]

    calls.clear()
    other = scoring_of(n_fewshot=7, learning_rate=0.5, sampler="DEALRec")  # of no consequence to scores
    for name, values in other.scores(names).items():
        np.testing.assert_array_equal(values, scores[name])
    assert calls == []
    assert other.curves == first.curves
    assert other.records == {name: record for name, record in first.records.items() if name != LLM}

    other.scores(["grand"])
    assert calls == ["grand"]  # on the surrogates that are there
    assert other.records["surrogate 1"] == first.records["surrogate 1"]


def test_no_names_touch_no_folder(scoring_of, tmp_path, calls):
    assert scoring_of().scores([]) == {} and calls == []
    assert not (tmp_path / "saved").exists()


def test_scores_lie_where_all_who_can_use_them_look(scoring_of, tmp_path):
    made = scoring_of()
    made.scores(["el2n", "valid_distance"])
    where = {path.name: path.parent for path in (tmp_path / "saved").rglob("*.npy")}
    assert where == {"el2n.npy": made.folders.surrogate_scores, "valid_distance.npy": made.folders.llm_scores}
    weights = {path.name for path in made.folders.surrogates.glob("*.safetensors")}
    assert weights == {"surrogate.safetensors", "surrogate-1.safetensors"}
    assert not made.folders.run.exists()


def test_a_part_of_the_effort_takes_influence_and_the_first_surrogate(scoring_of, calls):
    made = scoring_of(**PART)
    scores = made.scores(["effort"])
    assert list(scores) == ["effort"]
    assert calls == ["surrogate", "surrogate 1", "influence", LLM, "effort"]
    assert set(made.records) == set(calls)


def test_a_trajectory_has_a_training_of_its_own(scoring_of, calls, tmp_path):
    made = scoring_of()
    trajectory = made.scores(["loss_trajectory"])["loss_trajectory"]
    assert calls == ["loss_trajectory"] and set(made.records) == {"loss_trajectory"} and made.curves == {}
    assert trajectory.shape == (24, 2) and trajectory.dtype == np.float32
    assert not list((tmp_path / "saved").rglob("*.safetensors"))
    surrogates = scoring_of()
    surrogates.scores(["el2n"])
    np.testing.assert_array_equal(scoring_of().scores(["loss_trajectory"])["loss_trajectory"], trajectory)


def test_a_scorer_is_given_what_it_needs_and_no_more(scoring_of, monkeypatch):
    given = {}
    for name in scorer_names():
        scorer = get_scorer(name)

        def watched(inputs, name=name, make=scorer.from_inputs):
            given[name] = inputs
            return make(inputs)

        monkeypatch.setattr(scorer, "from_inputs", watched)
    scoring_of(**PART).scores(scorer_names())
    assert set(given) == set(scorer_names())
    for name, inputs in given.items():
        assert (inputs.watch_training is not None) == (name == "loss_trajectory")
        assert (inputs.llm is not None) == (name in OF_LLM)
        number = {"influence": 2, "el2n": 2, "grand": 2, "effort": 1, "surrogate_representation": 1}.get(name, 0)
        assert len(inputs.surrogates) == number, name
    assert "influence" in given["effort"].scores


def test_the_language_model_is_as_it_was_before_fine_tuning_each_time(scoring_of, tmp_path):
    from recbole_dealrec.store.run_folder import RunFolder

    made, folder = scoring_of(), RunFolder(tmp_path / "run")
    llm = made.llm(folder)
    before = {name: value.detach().clone() for name, value in llm.network.named_parameters() if value.requires_grad}
    for value in llm.network.parameters():
        if value.requires_grad:
            value.data.add_(1)
    assert made.llm(folder) is llm and made.records[LLM]["seconds"] > 0
    for name, value in llm.network.named_parameters():
        if name in before:
            assert (value == before[name]).all()


def test_an_interrupted_score_goes_on_and_costs_what_it_would_have(scoring_of, monkeypatch, calls):
    monkeypatch.setattr(score_checkpoint, "_SECONDS", -1)
    monkeypatch.setattr(score_checkpoint, "_WRITING_SHARE", float("inf"))
    batches, derivative = [], Problem.derivative
    monkeypatch.setattr(step_module, "perf_counter", lambda: 10 * len(batches))
    monkeypatch.setattr("recbole_dealrec.model.surrogate.surrogate._LOGITS_PER_BATCH", 150)  # 7 samples
    killed_at = None

    def slow(self, x):
        compute = derivative(self, x)

        def counted(batch):
            batches.append(batch)
            if len(batches) == killed_at:
                raise Killed
            return compute(batch)

        return counted

    monkeypatch.setattr(Problem, "derivative", slow)
    monkeypatch.setattr(influence, "tried_problem", lambda surrogate, config, _: Problem(surrogate, config))
    whole = scoring_of(checkpoint_dir="whole")
    expected = whole.scores(["influence"])["influence"]
    cost, count = whole.records["influence"]["seconds"], len(batches)
    assert count >= 4 and cost == 10 * count

    batches.clear()
    calls.clear()
    killed_at = count // 2 + 2  # in the second surrogate's
    killed = scoring_of()
    with pytest.raises(Killed):
        killed.scores(["influence"])
    assert killed.records == {}
    assert list(killed.folders.surrogate_scores.glob(f"*{UNFINISHED}"))
    killed_at, spent = None, len(batches)
    again = scoring_of()
    np.testing.assert_array_equal(again.scores(["influence"])["influence"], expected)
    assert len(batches) - spent == count - (spent - 1)
    assert again.records["influence"]["seconds"] == cost
    assert calls == ["surrogate", "surrogate 1", "influence", "influence"]
    for folder in (again.folders.surrogate_scores, again.folders.surrogates):
        assert not list(folder.glob(f"*{UNFINISHED}"))


def test_another_score_of_the_folder_leaves_what_an_interrupted_one_has_kept(scoring_of, monkeypatch):
    monkeypatch.setattr(score_checkpoint, "_SECONDS", -1)
    monkeypatch.setattr(score_checkpoint, "_WRITING_SHARE", float("inf"))
    derivative, solve = Problem.derivative, influence._solution

    def killed(self, x):
        raise Killed

    monkeypatch.setattr(Problem, "derivative", killed)
    monkeypatch.setattr(influence, "tried_problem", lambda surrogate, config, _: Problem(surrogate, config))
    with pytest.raises(Killed):
        scoring_of().scores(["influence"])
    scoring_of().scores(["el2n"])
    solved = []
    monkeypatch.setattr(Problem, "derivative", derivative)
    monkeypatch.setattr(influence, "_solution", lambda *args: solved.append(None) or solve(*args))
    scoring_of().scores(["influence"])
    assert len(solved) == 1  # that of the second surrogate; the first one's was kept
    assert not list(scoring_of().folders.surrogate_scores.glob(f"*{UNFINISHED}"))


@pytest.mark.parametrize("killed", ["fit", "finish"])
def test_a_training_that_did_not_finish_is_not_used(scoring_of, monkeypatch, calls, killed):
    whole = scoring_of(checkpoint_dir="whole").scores(["el2n"])["el2n"]
    original = getattr(SurrogateTraining, killed)

    def ends(self):
        if killed == "fit":
            original(self)  # the weights are there
        raise Killed

    monkeypatch.setattr(SurrogateTraining, killed, ends)
    with pytest.raises(Killed):
        scoring_of().scores(["el2n"])
    monkeypatch.setattr(SurrogateTraining, killed, original)
    calls.clear()
    np.testing.assert_array_equal(scoring_of().scores(["el2n"])["el2n"], whole)
    assert calls == ["surrogate", "surrogate 1", "el2n"]


def test_scores_of_the_language_model_do_not_depend_on_what_came_before(scoring_of):
    alone = scoring_of(checkpoint_dir="alone").scores(["effort"])["effort"]
    behind = scoring_of().scores(["influence", "valid_distance", "effort"])["effort"]
    np.testing.assert_array_equal(behind, alone)
    assert EffortScorer.needs == (LLM,)
    assert isinstance(scoring_of(), Scoring)
