"""The registry of samplers, its entry points, and the Random baseline."""

import sys

import numpy as np
import pytest

from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import FewShotSampler, RandomSampler, get_sampler, register_sampler
from recbole_dealrec.sampler.few_shot import settle_n_fewshot


class First(FewShotSampler):
    """Takes the first ones."""

    def sample(self, samples):
        return np.arange(self.config["n_fewshot"])


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(SAMPLERS, "entries", dict(SAMPLERS.entries))


def test_a_registered_class_is_found_by_its_name():
    assert register_sampler("First")(First) is First
    assert get_sampler("First") is First
    assert get_sampler("First")({"n_fewshot": 2}).sample(range(9)).tolist() == [0, 1]


def test_a_name_belongs_to_one_class():
    register_sampler("First")(First)
    register_sampler("First")(First)  # an import again does no harm
    with pytest.raises(ValueError, match="'First' is registered already, as First"):
        register_sampler("First")(type("Other", (First,), {}))
    with pytest.raises(ValueError, match="'DEALRec'.*DEALRecSampler"):
        register_sampler("DEALRec")(First)
    assert get_sampler("First") is First


@pytest.mark.parametrize("thing", [int, First({"n_fewshot": 1}), lambda samples: samples, "First"])
def test_only_samplers_are_registered(thing):
    with pytest.raises(TypeError, match="'Odd' has to be a subclass of FewShotSampler"):
        register_sampler("Odd")(thing)
    with pytest.raises(InputError):
        get_sampler("Odd")


def test_an_unknown_name_lists_the_known_ones():
    register_sampler("First")(First)
    with pytest.raises(InputError, match=r"no sampler 'Dealrec'; choose one of CCS, DEALRec, .*, First, .*, Random"):
        get_sampler("Dealrec")


def test_sample_has_to_be_written():
    with pytest.raises(TypeError, match="abstract"):
        FewShotSampler({})


def test_a_small_pool_is_refused_before_there_are_scores():
    sampler = First({"n_fewshot": 5})
    assert not sampler.scores and not sampler.columns and sampler.ranked_by is None
    sampler.check(range(5))
    with pytest.raises(InputError, match="n_fewshot is 5, but only 4 of 4 candidate samples.*raise samples_per_user"):
        sampler.check(range(4))


def test_samplers_do_not_share_what_they_are_given():
    one, other = First({"n_fewshot": 1}), First({"n_fewshot": 1})
    assert one.scores is not other.scores and one.columns is not other.columns


def test_what_is_usable_counts():
    class Half(First):
        def usable(self, n_candidates):
            return n_candidates // 2

    Half({"n_fewshot": 5}).check(range(10))
    with pytest.raises(InputError, match="only 4 of 9"):
        Half({"n_fewshot": 5}).check(range(9))


@pytest.mark.parametrize(("n_candidates", "number"), [(45_774, 915), (9_430, 189), (3_240, 65), (3_200, 64), (10, 64)])
def test_auto_is_two_percent_of_the_candidates_and_at_least_64(ten, n_candidates, number):
    configs = [ten(n_fewshot="auto"), ten(n_fewshot=7), ten(n_fewshot="auto", sampler="Random")]
    settle_n_fewshot(configs, n_candidates)
    assert [config["n_fewshot"] for config in configs] == [number, 7, number]
    assert configs[0].resolved()["n_fewshot"] == number


@pytest.mark.parametrize(("given", "sampler", "warned"), [(21, "Random", 1), (20, "Random", 0), (21, "Full", 0)])
def test_more_than_a_fifth_of_the_candidates_is_warned_of(ten, caplog, given, sampler, warned):
    settle_n_fewshot([ten(n_fewshot=given, sampler=sampler)], 100)
    assert len(caplog.records) == warned
    assert not warned or "n_fewshot is 21, 21% of 100 candidate samples" in caplog.text


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package on sys.path whose metadata names a sampler, a class that is none, and one of a taken name."""
    site = tmp_path / "site"
    (site / "shop_samplers").mkdir(parents=True)
    (site / "shop_samplers" / "__init__.py").write_text(
        "import numpy as np\n"
        "from recbole_dealrec.sampler import FewShotSampler\n"
        "class Latest(FewShotSampler):\n"
        "    def sample(self, samples):\n"
        "        return np.arange(len(samples))[-self.config['n_fewshot']:]\n"
        "class NoSampler:\n"
        "    pass\n"
    )
    info = site / "shop_samplers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-samplers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[recbole_dealrec.samplers]\n"
        "Latest = shop_samplers:Latest\n"
        "Broken = shop_samplers:NoSampler\n"
        "Random = shop_samplers:Latest\n"
    )
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("shop_samplers", None)


def test_an_entry_point_is_a_sampler(third_party):
    assert "shop_samplers" not in sys.modules
    sampler = get_sampler("Latest")
    assert sampler.__module__ == "shop_samplers" and get_sampler("Latest") is sampler
    assert sampler({"n_fewshot": 2}).sample(range(5)).tolist() == [3, 4]


def test_entry_points_are_loaded_when_asked_for_only(third_party):
    with pytest.raises(InputError, match="choose one of Broken, CCS, DEALRec, .*, Latest, .*, Random"):
        get_sampler("Nothing")
    assert get_sampler("Random") is RandomSampler  # the package's own names are not taken over
    assert "shop_samplers" not in sys.modules


def test_an_entry_point_to_something_else_is_refused(third_party):
    with pytest.raises(TypeError, match="'Broken' has to be a subclass of FewShotSampler"):
        get_sampler("Broken")


def test_random_draws_uniformly_without_replacement():
    assert get_sampler("Random") is RandomSampler
    counts = np.zeros(10)
    for seed in range(1000):
        chosen = RandomSampler({"n_fewshot": 4, "seed": seed}).sample(range(10))
        assert chosen.dtype == np.int64 and len(set(chosen.tolist())) == 4 and (np.diff(chosen) > 0).all()
        counts[chosen] += 1
    np.testing.assert_allclose(counts / 1000, 0.4, atol=5 * np.sqrt(0.4 * 0.6 / 1000))


def test_random_is_that_of_the_seed():
    def draw(seed):
        return RandomSampler({"n_fewshot": 20, "seed": seed}).sample(range(100)).tolist()

    assert draw(3) == draw(3) != draw(4)
    assert RandomSampler({"n_fewshot": 5, "seed": 0}).sample(range(5)).tolist() == [0, 1, 2, 3, 4]
