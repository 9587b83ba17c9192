import platform
from importlib.metadata import version

import psutil

from recbole_dealrec.cli import doctor
from recbole_dealrec.cli.command import main


def test_versions_memory_and_extras_are_told(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("recbole", "torch", "transformers", "peft"):
        assert f"  {name} {version(name)}" in lines
    text = "\n".join(lines)
    assert f"Python {platform.python_version()}" in text
    assert f"{psutil.virtual_memory().total / 2**30:.1f} GiB RAM" in text
    assert f"  goracs, for sampler GORACS: POT {version('POT')}" in lines


def test_what_is_missing_is_told_with_its_purpose_and_command(monkeypatch, capsys):
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("recbole", "hyperopt") else there(name))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  recbole is missing; every run needs recbole==1.2.1: pip install --no-deps recbole==1.2.1" in lines
    assert '  hyper, for tune: hyperopt>=0.3 is missing: pip install -e ".[hyper]" in the checkout' in lines


def test_every_extra_has_a_purpose():
    from importlib.metadata import metadata

    assert set(metadata("recbole-dealrec").get_all("Provides-Extra")) <= doctor.EXTRAS.keys()
