"""Models, scorers and samplers of other packages, and the configuration keys that they declare."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import recbole_dealrec.config
from recbole_dealrec.cli.help import help_text
from recbole_dealrec.cli.listing import list_text
from recbole_dealrec.config import COUNT, NOTHING, POSITIVE, RATIO, TEXT, Config, Key, registry
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.registry import MODELS, REGISTRIES, SAMPLERS, SCORERS
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import BIGRec
from recbole_dealrec.sampler import FewShotSampler, register_sampler
from recbole_dealrec.scorer.scorer import Scorer, get_scorer, register_scorer, scorer_names
from recbole_dealrec.store.names import Folders

HALF_LIFE = Key("half_life", POSITIVE, default=30.0, comment="Days after which a sample counts half.")


def different(one, other):
    return [field.name for field in fields(Folders) if getattr(one, field.name) != getattr(other, field.name)]


class Sampler(FewShotSampler):
    """Takes the first ones."""

    def sample(self, samples):
        return np.arange(self.config["n_fewshot"])


class Counting(Scorer):
    """Counts."""

    @classmethod
    def from_inputs(cls, inputs):
        return cls()

    def score(self, samples):
        return np.arange(len(samples))


@pytest.fixture(autouse=True)
def own_entries(monkeypatch):
    for one in REGISTRIES:
        monkeypatch.setattr(one, "entries", {name: one.entries[name] for name in one})


@pytest.fixture
def declare():
    """``declare(*keys)``: a sampler of this name that declares them."""

    def declare(*keys, name="Newest"):
        return register_sampler(name, keys=keys)(type(name, (Sampler,), {"__doc__": Sampler.__doc__}))

    return declare


def test_a_sampler_finds_its_own_key_in_the_configuration(declare, ten):
    declare(HALF_LIFE)
    assert ten(sampler="Newest")["half_life"] == 30.0
    assert ten(sampler="Newest", half_life=7)["half_life"] == 7
    assert ten(sampler="Newest", half_life="1e1")["half_life"] == 10.0
    assert ten(sampler="Newest").resolved()["half_life"] == 30.0


def test_a_default_is_each_configurations_own(declare, ten):
    declare(Key("weights", default=[1]))
    ten(sampler="Newest")["weights"].append(2)
    assert ten(sampler="Newest")["weights"] == [1]


def test_files_win_over_a_declared_default(declare, tmp_path):
    declare(HALF_LIFE)
    (tmp_path / "run.yaml").write_text("half_life: 5\nsampler: Newest\n")
    assert Config("BIGRec", "ten", [str(tmp_path / "run.yaml")])["half_life"] == 5


def test_another_samplers_key_is_known_and_has_no_value(declare, ten):
    declare(HALF_LIFE)
    assert ten(half_life=3)["half_life"] == 3  # samplers are compared under one set of keys
    config = ten()
    assert "half_life" not in config
    with pytest.raises(InputError, match="'half_life' does not exist"):
        config["half_life"]


def test_values_of_a_declared_key_are_checked(declare, ten):
    declare(HALF_LIFE)
    with pytest.raises(InputError, match="'half_life' has to be a number above 0, not -1"):
        ten(sampler="Newest", half_life=-1)
    with pytest.raises(InputError, match="unknown configuration key 'half_lif'; did you mean 'half_life'"):
        ten(sampler="Newest", half_lif=1)


def test_a_declared_text_is_kept_as_written(declare):
    declare(Key("pattern", TEXT, default="x"))
    assert parse_command_line(["--pattern=no"]) == {"pattern": "no"}


@pytest.mark.parametrize(("step", "changed"), [(None, ["run"]), ("selection", ["run"]), (NOTHING, [])])
def test_a_samplers_key_changes_the_selection_alone(declare, ten, folders, step, changed):
    declare(Key("half_life", POSITIVE, step, default=30.0))
    before, after = ten(sampler="Newest"), ten(sampler="Newest", half_life=7)
    assert different(folders(before), folders(after)) == changed


def test_what_is_registered_changes_no_name_of_others(declare, ten, folders):
    before = folders(ten())
    declare(HALF_LIFE)
    assert folders(ten()) == before


def test_help_and_list_show_declared_keys(declare, tmp_path):
    declare(HALF_LIFE)
    text = " ".join(help_text(90).split())
    assert "sampler 'Newest'" in text
    assert "--half_life (float) Days after which a sample counts half. [default: 30.0]" in text
    assert "  Newest          Takes the first ones. (--half_life)" in list_text(str(tmp_path), 120)


def test_a_key_has_one_owner(declare):
    declare(HALF_LIFE)
    with pytest.raises(ValueError, match="'half_life' of sampler 'Older' is declared already, by sampler 'Newest'"):
        declare(Key("half_life", POSITIVE, default=1.0), name="Older")
    with pytest.raises(ValueError, match="'n_groups' of sampler 'Older' is declared already, by recbole_dealrec"):
        declare(Key("n_groups", COUNT, default=1), name="Older")
    with pytest.raises(ValueError, match="'surrogate_n' of sampler 'Older' is declared already, by recbole_dealrec"):
        declare(Key("surrogate_n", COUNT, default=1), name="Older")
    assert "Older" not in SAMPLERS
    declare(HALF_LIFE, name="Twin")  # the same row, as samplers of one package may share it


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (Key("x", COUNT, "influence", default=1), "'x' of sampler 'Newest': its step has to be one of selection, noth"),
        (Key("x", RATIO, default=1), r"'x' of sampler 'Newest': its default has to be a number in \[0, 1\), not 1"),
        (Key("x", COUNT), "its default has to be a whole number of at least 1, not None"),
    ],
)
def test_a_key_that_cannot_be_declared(declare, key, told):
    with pytest.raises(ValueError, match=told):
        declare(key)


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Packages on sys.path: one with a sampler that declares a key and a scorer, and one that fails."""
    site = tmp_path / "site"
    info = site / "shop-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shop.py").write_text(
        "import numpy as np\n"
        "from recbole_dealrec.config import COUNT, Key\n"
        "from recbole_dealrec.sampler import FewShotSampler, register_sampler\n"
        "@register_sampler('Stock', keys=[Key('in_stock', COUNT, default=3)])\n"
        "class Stock(FewShotSampler):\n"
        "    needs = ('sales',)\n"
        "    def sample(self, samples):\n"
        "        return np.arange(self.config['n_fewshot'])\n"
        "from recbole_dealrec.scorer import Scorer\n"
        "class Sales(Scorer):\n"
        "    @classmethod\n"
        "    def from_inputs(cls, inputs):\n"
        "        return cls()\n"
        "    def score(self, samples):\n"
        "        return np.ones(len(samples))\n"
    )
    (site / "broken.py").write_text("import no_such_module\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[recbole_dealrec.samplers]\nStock = shop:Stock\nFails = broken:Fails\n"
        "[recbole_dealrec.scorers]\nsales = shop:Sales\n"
    )
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("shop", None)


def test_the_key_of_an_entry_point_is_known(third_party, ten):
    assert ten(sampler="Stock")["in_stock"] == 3
    assert "shop" in sys.modules


def test_an_entry_point_is_loaded_when_a_key_is_unknown_without_it(third_party, ten):
    ten(sampler="Random")
    assert "shop" not in sys.modules
    assert ten(sampler="Random", in_stock=2)["in_stock"] == 2
    with pytest.raises(InputError, match="did you mean 'in_stock'"):
        ten(sampler="Random", in_stocks=2)


def test_a_package_that_fails_breaks_the_runs_that_name_it(third_party, ten, tmp_path):
    assert ten(sampler="Random", in_stock=2)["in_stock"] == 2
    told = r"sampler 'Fails' \(broken:Fails\) cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"
    with pytest.raises(InputError, match=told):
        ten(sampler="Fails")
    assert "--in_stock" in help_text(100)
    assert "no_such_module" in list_text(str(tmp_path), 200)


def test_scorers_are_registered_with_keys_and_a_step(ten):
    key = Key("window", COUNT, "effort", default=2)
    assert register_scorer("counting", keys=[key])(Counting) is Counting
    assert get_scorer("counting") is Counting and "counting" in scorer_names()
    with pytest.raises(TypeError, match="scorer 'odd' has to be a subclass of Scorer"):
        register_scorer("odd")(int)
    with pytest.raises(ValueError, match="'x' of scorer 'other': its step has to be one of surrogate, influence, lang"):
        register_scorer("other", keys=[Key("x", COUNT, default=1)])(type("Other", (Counting,), {}))
    with pytest.raises(InputError, match="no scorer 'nothing'; choose one of counting"):
        get_scorer("nothing")


def test_a_scorers_keys_come_with_a_sampler_that_needs_it(ten, folders):
    register_scorer("counting", keys=[Key("window", COUNT, "effort", default=2)])(Counting)
    register_sampler("Counted")(type("Counted", (Sampler,), {"needs": ("counting", "influence")}))
    before, after = ten(sampler="Counted"), ten(sampler="Counted", window=3)
    assert before["window"] == 2 and "window" not in ten(sampler="Random")
    assert different(folders(before), folders(after)) == ["run", "llm_scores"]


def test_an_entry_point_is_a_scorer(third_party):
    assert get_scorer("sales").__module__ == "shop"


def test_a_model_of_another_package_is_known_by_its_name(ten):
    class Mine(BIGRec):
        """A recommender."""

    MODELS.register("Mine", keys=[Key("depth", COUNT, "fine-tuning", default=4)])(Mine)
    config = ten(model="Mine")
    assert config.model_class is Mine and config["depth"] == 4 and config.is_llm_recommender
    assert "depth" not in ten()


def test_a_model_class_is_handed_in_from_outside(ten):
    class Unregistered(BIGRec):
        """A recommender that no registry knows."""

    config = ten(model=Unregistered)
    assert config.model_class is Unregistered and config["n_fewshot"] == "auto" and config.is_llm_recommender
    assert not ten().surrogate().is_llm_recommender


def test_config_imports_little_of_the_package():
    taken = set()
    for file in Path(recbole_dealrec.config.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "recbole_dealrec":
                names = [alias.name for alias in node.names] if node.module == "recbole_dealrec" else [""]
                taken |= {f"{node.module}.{name}".rstrip(".").split(".")[1] for name in names}
    assert taken == {"config", "errors", "compat", "distributed"}


def test_a_model_is_imported_when_it_is_named():
    code = (
        "import sys; from recbole_dealrec.config import Config\n"
        "assert 'recbole_dealrec.model' not in sys.modules and 'recbole_dealrec.data' not in sys.modules\n"
        "assert Config('BIGRec', 'ml-100k').model_class is sys.modules['recbole_dealrec.model'].BIGRec"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_registry_is_searched_for_keys():
    assert set(registry.REGISTRIES) == {MODELS, SCORERS, SAMPLERS}
