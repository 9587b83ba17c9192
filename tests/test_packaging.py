import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import recbole_dealrec

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_property_file(tmp_path):
    source = tmp_path / "source"
    for name in ("recbole_dealrec", "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("recbole_dealrec-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"recbole_dealrec/{file.relative_to(ROOT)}" for file in ROOT.glob("properties/**/*.yaml")}
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("recbole_dealrec/**/*.py")}
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("recbole_dealrec/report/templates/*")}
    assert expected <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/"))}


def test_the_package_has_what_it_names():
    assert all(callable(getattr(recbole_dealrec, name)) for name in recbole_dealrec.__all__)
