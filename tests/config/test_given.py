"""The first check of keys accepts what a run accepts, and its names are those that are registered."""

from importlib import import_module

import pytest

from recbole_dealrec.config.declared import declared, first_line
from recbole_dealrec.config.given import check_given
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.registry import REGISTRIES, SCORERS
from recbole_dealrec.pipeline import configure

DATASETS = sorted(file.stem for file in properties_folder().glob("dataset/*.yaml"))


@pytest.mark.parametrize("model", ["BIGRec", "TIGER"])
@pytest.mark.parametrize("dataset", [*DATASETS, "2020"])
def test_the_keys_of_a_run_are_accepted(model, dataset):
    keys = configure(model, dataset, None, {}).resolved()
    chosen = check_given(None, keys)
    assert {name: chosen[name] for name in keys} == keys


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_the_names_read_from_the_source_are_those_that_are_registered(registry):
    import_module(registry.module)
    own = {name: entry for name, entry in registry.entries.items() if _is_own(entry.registered_class)}
    named = {name: first_line(entry.registered_class.__doc__) for name, entry in own.items()}
    assert declared(registry.module) == named and len(named) > (1 if registry is not SCORERS else 5)
    # A key of this package has a row, which is known before its classes are.
    assert not [name for name, entry in own.items() if entry.keys]


def _is_own(registered_class):
    return registered_class.__module__.startswith("recbole_dealrec.")
