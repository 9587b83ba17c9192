"""Packages of the distribution: the code, and the top-level properties as data of it; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["recbole_dealrec", "recbole_dealrec.*"]), "recbole_dealrec.properties"],
    package_dir={"recbole_dealrec": "recbole_dealrec", "recbole_dealrec.properties": "properties"},
    package_data={
        "recbole_dealrec.properties": ["*.yaml", "*/*.yaml"],
        "recbole_dealrec.report": ["templates/*"],
    },
)
