"""Presets hold keys that exist, and lose to what is given beside them."""

import pytest

from recbole_dealrec.config import Config
from recbole_dealrec.config.properties import preset_file, properties_folder
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError

NAMES = sorted(file.stem for file in properties_folder().glob("preset/*.yaml"))


def test_the_presets_are_the_paper_and_the_released_code():
    assert NAMES == ["paper", "released"]


@pytest.mark.parametrize("model, name", [("BIGRec", "paper"), ("TIGER", "paper"), ("BIGRec", "released")])
def test_every_key_of_a_preset_is_in_the_configuration(name, model):
    values = read_yaml(preset_file(name))
    assert values and set(values) <= set(KEYS)
    config = Config(model, "ml-100k", [str(preset_file(name))], {"n_groups": 7})
    assert {key: config[key] for key in values} == {**values, "n_groups": 7}


def test_the_paper_prunes_nothing_and_the_released_code_does():
    pruned = {name: read_yaml(preset_file(name))["hard_prune_ratio"] for name in NAMES}
    assert pruned == {"paper": 0.0, "released": 0.1}


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no preset 'author'; choose one of paper, released"):
        preset_file("author")
