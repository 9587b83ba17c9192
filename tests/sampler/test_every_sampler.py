"""What holds for every registered sampler, on real scores of a tiny surrogate and a tiny language model."""

from pathlib import Path

import numpy as np
import pytest
from recbole_dealrec.stages import SharedStages

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.store.run_folder import RunFolder

NAMES = sorted(SAMPLERS)
SOURCES = {
    "CCS": {"el2n"},
    "DEALRec": {"influence", "effort"},
    "EL2N": {"el2n"},
    "EffortOnly": {"effort"},
    "Full": set(),
    "GORACS": {"valid_distance", "effort"},
    "GraNd": {"grand"},
    "Greedy": {"influence", "effort"},
    "InfluenceOnly": {"influence"},
    "Random": set(),
    "RecRanker": {"surrogate_representation"},
    "S2L": {"loss_trajectory"},
    "TF-DCon": {"surrogate_representation", "llm_representation"},
}
DRAWING = {"Random", "TF-DCon", "S2L", "RecRanker", "CCS", "DEALRec", "InfluenceOnly", "EffortOnly"}
KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 1, "n_fewshot": 40,
    "n_groups": 8, "surrogate_epochs": 2, "surrogate_eval_step": 1, "surrogate_train_batch_size": 64,
    "surrogate_hidden_size": 16, "surrogate_inner_size": 32, "hessian_samples": 32, "MAX_ITEM_LIST_LENGTH": 20,
    "max_history_titles": 3, "llm_dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def stages(movies_path, checkpoint, tmp_path_factory):
    """Scorers of 200 users of ml-100k; each is computed once, when a sampler asks for it."""
    folder = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        keys = {**KEYS, "data_path": str(movies_path), "llm_path": checkpoint("llama")}
        config = Config("BIGRec", "movies", config_dict=keys)
        splits = load_splits(config)
        samples = CandidateSamples.from_dataset(splits.train, 1)
        yield SharedStages(config, splits, samples, RunFolder(folder))


class Refuses:
    def score(self, samples):
        raise AssertionError("scored")


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler:
    @pytest.fixture
    def make(self, name, stages, movies_path):
        """``make(**keys)``: the sampler with its own default keys and the shared scorers."""
        if name == "GORACS":
            pytest.importorskip("ot")

        def build(scorers=stages.scorers, **keys):
            fixed = {**KEYS, "data_path": str(movies_path), "sampler": name}
            return get_sampler(name)(Config("BIGRec", "movies", config_dict={**fixed, **keys}), scorers)

        return build

    def test_as_many_as_asked_for_sorted_and_unique(self, name, make, stages):
        selected = make().sample(stages.samples)
        assert selected.dtype == np.int64
        assert len(selected) == (len(stages.samples) if name == "Full" else 40)
        assert (np.diff(selected) > 0).all() and selected[0] >= 0 and selected[-1] < len(stages.samples)

    @pytest.mark.parametrize("n_fewshot", [1, 7, 120])
    def test_any_size(self, name, make, stages, n_fewshot):
        selected = make(n_fewshot=n_fewshot).sample(stages.samples)
        assert len(np.unique(selected)) == (len(stages.samples) if name == "Full" else n_fewshot)

    def test_all_that_is_usable_can_be_taken(self, name, make, stages):
        n = len(stages.samples)
        usable = make().usable(n)
        sampler = make(n_fewshot=usable)
        sampler.check(n)
        assert len(np.unique(sampler.sample(stages.samples))) == usable

    def test_more_is_refused_before_anything_is_computed(self, name, make, stages):
        n = len(stages.samples)
        sampler = make(scorers=dict.fromkeys(stages.scorers, Refuses()), n_fewshot=make().usable(n) + 1)
        if name == "Full":
            sampler.check(n)
        else:
            with pytest.raises(InputError, match=f"of {n} candidate samples can be chosen"):
                sampler.check(n)

    def test_the_seed_alone_decides(self, name, make, stages):
        selected = make(seed=5).sample(stages.samples)
        np.random.seed(0)  # no global state has a part in it
        np.testing.assert_array_equal(make(seed=5).sample(stages.samples), selected)
        others = [make(seed=seed).sample(stages.samples) for seed in (6, 7)]
        assert any(not np.array_equal(other, selected) for other in others) == (name in DRAWING)

    def test_samples_and_scores_are_left_as_they_were(self, name, make, stages):
        kept = {}

        class Once:
            def __init__(self, source, scorer):
                self.source, self.scorer = source, scorer

            def score(self, samples):
                kept[self.source] = self.scorer.score(samples)
                self.values = kept[self.source].copy()
                return self.values

        scorers = {source: Once(source, scorer) for source, scorer in stages.scorers.items()}
        history = stages.samples.item_id_list.copy()
        make(scorers=scorers).sample(stages.samples)
        assert set(kept) == SOURCES[name]  # what its rule asks for, and nothing more is computed
        for source, values in kept.items():
            np.testing.assert_array_equal(scorers[source].values, values)
        np.testing.assert_array_equal(stages.samples.item_id_list, history)

    def test_columns_are_one_value_a_candidate(self, name, make, stages):
        sampler = make()
        selected = sampler.sample(stages.samples)
        for values in sampler.columns.values():
            assert values.shape == (len(stages.samples),)
        if "group" in sampler.columns:
            assert (sampler.columns["group"][selected] >= 0).all()

    def test_its_rule_is_written_down(self, name):
        sampler = get_sampler(name)
        assert sampler.__doc__ and sampler.__doc__ != sampler.__mro__[1].__doc__
        table = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
        assert f"| `{name}` |" in table


def test_a_surrogate_that_is_watched_is_the_same_surrogate(stages):
    stages.scorers["el2n"].score(stages.samples)
    weights = stages.folder / "surrogate.safetensors"
    unwatched = weights.read_bytes()
    trajectory = stages.scorers["loss_trajectory"]
    weights.write_bytes(b"")
    stages.folder.discard("loss_trajectory.npy")
    losses = trajectory.score(stages.samples)
    assert losses.shape == (len(stages.samples), 2)
    assert weights.read_bytes() == unwatched
    np.testing.assert_array_equal(trajectory.score(stages.samples), losses)
