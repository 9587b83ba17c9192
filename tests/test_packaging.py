import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import recbole_dealrec

ROOT = Path(__file__).parents[1]
SITE = Path(np.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("recbole_dealrec", "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True, capture_output=True)
    return next(folder.glob("recbole_dealrec-*.whl"))


@pytest.fixture
def installed(wheel, tmp_path):
    """``installed(*hidden)``: run a command of a new environment that has the wheel, and all but what is hidden."""
    venv, folder = tmp_path / "venv", tmp_path / "elsewhere"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def install(*hidden):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        (site,) = venv.glob("lib/python*/site-packages")
        away = ("recbole_dealrec", "__editable__", "distutils-precedence", *hidden)
        for entry in SITE.iterdir():
            if not entry.name.startswith(away):
                (site / entry.name).symlink_to(entry)
        pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install"]
        subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", wheel], check=True, capture_output=True)

        def run(*words):
            command = [venv / "bin" / words[0], *words[1:]]
            return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

        return run

    return install


def test_the_wheel_holds_every_property_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"recbole_dealrec/{file.relative_to(ROOT)}" for file in ROOT.glob("properties/**/*.yaml")}
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("recbole_dealrec/**/*.py")}
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("recbole_dealrec/report/templates/*")}
    assert expected <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/"))}


def test_the_installed_command_runs_from_another_folder_without_ray(installed, movies_path):
    run = installed("ray")
    keys = ["--sampler=Random", "--n_fewshot=4", "--tiny_steps=1", "--title_field=movie_title", "--use_gpu=False"]
    done = run("recbole-dealrec", "select", "--dataset=movies", f"--data_path={movies_path}", *keys)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("fewshot.jsonl")
    assert run("python", "-c", "import ray").returncode == 1
    listed = run("python", "-m", "recbole_dealrec", "--list")
    assert listed.returncode == 0 and "comes with RecBole" in listed.stdout
    assert run("recbole-dealrec", "doctor").returncode == 0


def test_without_recbole_the_error_is_the_command_that_mends_it(installed):
    run = installed("recbole", "ray")
    told = "RecBole is not installed: pip install --no-deps recbole==1.2.1"
    for words in (["recbole-dealrec"], ["recbole-dealrec", "--help"], ["python", "-m", "recbole_dealrec", "--list"]):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"error: {told}", done.stderr
    for name in ("recbole_dealrec.run_recbole_dealrec", "recbole_dealrec.config.Config"):
        package, _, public = name.rpartition(".")
        done = run("python", "-c", f"from {package} import {public}")
        assert done.stderr.splitlines()[-1].endswith(f"InputError: {told}")
    done = run("recbole-dealrec", "doctor")
    assert done.returncode == 1 and told.partition(": ")[2] in done.stdout


def test_the_package_has_what_it_names_and_shows_it():
    assert all(callable(getattr(recbole_dealrec, name)) for name in recbole_dealrec.__all__)
    assert set(recbole_dealrec.__all__) <= set(dir(recbole_dealrec))


def test_nothing_is_asked_of_an_index_that_does_not_have_it():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.*")]
    texts = {file: file.read_text(encoding="utf-8") for file in [*pages, *ROOT.glob("recbole_dealrec/**/*.py")]}
    assert len(texts) > 100
    assert not [file for file, text in texts.items() if re.search(r"pip install (-\S+ )*['\"]?recbole-dealrec", text)]
