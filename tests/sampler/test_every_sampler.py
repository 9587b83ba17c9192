"""What holds for every registered sampler, on real scores of a tiny surrogate and a tiny language model."""

import re
from pathlib import Path

import pytest

from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.sampler import get_sampler
from recbole_dealrec.scorer.scorer import scorer_names
from recbole_dealrec.testing import SamplerTests

NAMES = sorted(SAMPLERS)
SOURCES = {
    "CCS": {"el2n"},
    "DEALRec": {"influence", "effort"},
    "EL2N": {"el2n"},
    "EffortOnly": {"effort"},
    "FacilityLocation": {"llm_representation"},
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
    "RDS+": {"valid_similarity"},
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
WHOLE_VALID = "training, validation histories, validation targets"
SEES = {
    "GORACS": WHOLE_VALID,
    "GradientDiverse": WHOLE_VALID,
    "LESS": WHOLE_VALID,
    "RDS+": "training, validation histories",
    "TargetFrequency": "training, validation targets",
}
DRAWING = {
    "Random", "TF-DCon", "S2L", "RecRanker", "CCS", "DEALRec", "InfluenceOnly", "EffortOnly", "TargetFrequency",
    "Longest", "Popular", "RecentWindow", "RDS+",
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


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler(SamplerTests):
    @pytest.fixture
    def samples(self, scored):
        return scored[0]

    @pytest.fixture
    def scores(self, name, scored):
        if name == "GORACS":
            pytest.importorskip("ot")
        return scored[1]

    @pytest.mark.slow
    @pytest.mark.parametrize("n_fewshot", [1, 7, 120])
    def test_any_size(self, make, samples, n_fewshot):
        super().test_any_size(make, samples, n_fewshot)

    def test_the_seed_decides_what_is_drawn(self, name, make, samples):
        chosen = {tuple(make(seed=seed).sample(samples)) for seed in (5, 6, 7)}
        assert (len(chosen) > 1) == (name in DRAWING)

    def test_what_it_needs_and_ranks_by_is_known(self, name):
        sampler = get_sampler(name)
        assert set(sampler.needs) == SOURCES[name]
        assert sampler.ranked_by == RANKED_BY.get(name)

    def test_its_rule_and_what_it_sees_are_in_the_table(self, name, make):
        page = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
        header, *rows = [re.split(r" *\| *", line) for line in page.splitlines() if line.startswith("|")]
        (row,) = (row for row in rows if row[1] == f"`{name}`")
        assert row[header.index("sees")] == ", ".join(make().sees) == SEES.get(name, "training")
