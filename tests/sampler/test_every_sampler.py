"""What holds for every registered sampler, on real scores of a tiny surrogate and a tiny language model."""

from pathlib import Path

import numpy as np
import pytest

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.scorer.scorer import scorer_names

NAMES = sorted(SAMPLERS)
SOURCES = {
    "CCS": {"el2n"},
    "DEALRec": {"influence", "effort"},
    "EL2N": {"el2n"},
    "EffortOnly": {"effort"},
    "Full": set(),
    "GORACS": {"valid_distance", "effort"},
    "GraNd": {"grand"},
    "GradientDiverse": {"gradient_similarity", "llm_gradient"},
    "Greedy": {"influence", "effort"},
    "InfluenceOnly": {"influence"},
    "LESS": {"less"},
    "Longest": set(),
    "LossBottom": {"llm_loss"},
    "LossMiddle": {"llm_loss"},
    "LossTop": {"llm_loss"},
    "Popular": set(),
    "Random": set(),
    "Recent": set(),
    "RecentWindow": set(),
    "RecRanker": {"surrogate_representation"},
    "S2L": {"loss_trajectory"},
    "TargetFrequency": {"target_frequency"},
    "TF-DCon": {"surrogate_representation", "llm_representation"},
}
RANKED_BY = {
    "CCS": "el2n", "DEALRec": "score", "EL2N": "el2n", "EffortOnly": "effort", "GraNd": "grand", "Greedy": "score",
    "InfluenceOnly": "influence", "Longest": "history_length", "LossBottom": "llm_loss", "LossMiddle": "llm_loss",
    "LossTop": "llm_loss", "Popular": "target_count", "Recent": "time", "RecentWindow": "time",
    "TargetFrequency": "target_frequency",
}  # fmt: skip
DRAWING = {
    "Random", "TF-DCon", "S2L", "RecRanker", "CCS", "DEALRec", "InfluenceOnly", "EffortOnly", "TargetFrequency",
    "Longest", "Popular", "RecentWindow",
}  # fmt: skip
KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 1, "n_fewshot": 40,
    "n_groups": 8, "surrogate_epochs": 2, "surrogate_eval_step": 1, "surrogate_train_batch_size": 64,
    "surrogate_hidden_size": 16, "surrogate_inner_size": 32, "hessian_samples": 32, "MAX_ITEM_LIST_LENGTH": 20,
    "max_history_titles": 3, "llm_dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def scored(movies_path, checkpoint, tmp_path_factory):
    """Candidate samples of 200 users of ml-100k, and all their scores by name."""
    folder = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        keys = {**KEYS, "data_path": str(movies_path), "llm_path": checkpoint("llama")}
        (job,) = prepare([configure("BIGRec", "movies", None, keys)])
        yield job.samples, job.scoring(folder).scores(scorer_names())


@pytest.fixture(scope="module")
def samples(scored):
    return scored[0]


class Asked(dict):
    """Scores that note in ``names`` which of them were read."""

    def __init__(self, scores):
        super().__init__(scores)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler:
    @pytest.fixture
    def make(self, name, scored, movies_path):
        """``make(**keys)``: the sampler with its own default keys, given the scores that it needs."""
        if name == "GORACS":
            pytest.importorskip("ot")

        def build(**keys):
            fixed = {**KEYS, "data_path": str(movies_path), "sampler": name}
            sampler = get_sampler(name)(Config("BIGRec", "movies", config_dict={**fixed, **keys}))
            sampler.scores = {needed: scored[1][needed] for needed in sampler.needs}
            return sampler

        return build

    def test_as_many_as_asked_for_sorted_and_unique(self, name, make, samples):
        selected = make().sample(samples)
        assert selected.dtype == np.int64
        assert len(selected) == (len(samples) if name == "Full" else 40)
        assert (np.diff(selected) > 0).all() and selected[0] >= 0 and selected[-1] < len(samples)

    @pytest.mark.slow
    @pytest.mark.parametrize("n_fewshot", [1, 7, 120])
    def test_any_size(self, name, make, samples, n_fewshot):
        selected = make(n_fewshot=n_fewshot).sample(samples)
        assert len(np.unique(selected)) == (len(samples) if name == "Full" else n_fewshot)

    def test_all_that_is_usable_can_be_taken(self, name, make, samples):
        usable = make().usable(len(samples))
        sampler = make(n_fewshot=usable)
        sampler.check(samples)
        assert len(np.unique(sampler.sample(samples))) == usable

    def test_more_is_refused_before_it_has_scores(self, name, make, samples):
        n = len(samples)
        sampler = make(n_fewshot=make().usable(n) + 1)
        sampler.scores = {}
        if name == "Full":
            sampler.check(samples)
        else:
            with pytest.raises(InputError, match=f"of {n} candidate samples can be chosen"):
                sampler.check(samples)

    def test_the_seed_alone_decides(self, name, make, samples):
        selected = make(seed=5).sample(samples)
        np.random.seed(0)  # no global state has a part in it
        np.testing.assert_array_equal(make(seed=5).sample(samples), selected)
        others = [make(seed=seed).sample(samples) for seed in (6, 7)]
        assert any(not np.array_equal(other, selected) for other in others) == (name in DRAWING)

    def test_it_needs_what_it_reads_and_leaves_all_as_it_was(self, name, make, samples):
        sampler = make()
        sampler.scores = asked = Asked({source: values.copy() for source, values in sampler.scores.items()})
        given, history = dict(asked), samples.item_id_list.copy()
        sampler.sample(samples)
        assert asked.names == SOURCES[name] == set(sampler.needs)
        assert all(values is given[source] for source, values in asked.items())
        for source, values in make().scores.items():
            np.testing.assert_array_equal(asked[source], values)
        np.testing.assert_array_equal(samples.item_id_list, history)

    def test_it_names_the_column_that_it_ranks_by(self, name, make, samples):
        sampler = make()
        selected = sampler.sample(samples)
        assert sampler.ranked_by == RANKED_BY.get(name)
        if sampler.ranked_by:
            assert np.isfinite(sampler.columns[sampler.ranked_by][selected]).all()

    def test_columns_are_one_value_a_candidate(self, name, make, samples):
        sampler = make()
        selected = sampler.sample(samples)
        for values in sampler.columns.values():
            assert values.shape == (len(samples),)
        if "group" in sampler.columns:
            assert (sampler.columns["group"][selected] >= 0).all()

    def test_its_rule_is_written_down(self, name):
        sampler = get_sampler(name)
        assert sampler.__doc__ and sampler.__doc__ != sampler.__mro__[1].__doc__
        table = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
        assert f"| `{name}` |" in table
