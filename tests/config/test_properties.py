"""The property files: found, and commented."""

import re
from pathlib import Path

import pytest

from recbole_dealrec.config.properties import properties_folder, property_files
from recbole_dealrec.config.yaml_file import read_yaml


@pytest.mark.parametrize("file", property_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_default_is_commented_with_its_type(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    starts = {found.group(1): line for line in lines if (found := re.match(r"([A-Za-z_0-9]+):", line))}
    assert set(starts) == set(read_yaml(file))
    comment = r"# \((str|int|float|bool|list|dict)( or \w+)*\) \S"
    assert [key for key, line in starts.items() if not re.search(comment, line)] == []


def test_the_properties_are_found_beside_the_package():
    assert (Path(properties_folder()) / "overall.yaml").is_file()
