"""``doctor``: what is installed and what is missing, as text for a bug report."""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from recbole_dealrec.compat import RECBOLE_COMMAND

_NAME = "recbole-dealrec"
_RECBOLE = Requirement(RECBOLE_COMMAND.split()[-1])
EXTRAS = {
    "quant": "llm_quantization",
    "hyper": "tune",
    "gguf": "llm_path with a .gguf file",
    "goracs": "sampler GORACS",
    "rqvae": "semantic_id: rqvae",
    "parquet": "Parquet files",
    "tracking": "log_with",
    "text": "text_encoder_path with a sentence-transformers model",
    "test": "the tests",
    "docs": "the documentation site",
}


def main(arguments: list[str]) -> int:
    """Print versions, devices, memory and extras; return 1 if something that every run needs is missing, else 0."""
    argparse.ArgumentParser(
        prog="recbole-dealrec doctor", description="Print versions, devices, memory, extras and missing packages."
    ).parse_args(arguments)
    needed = _requirements()
    always = needed.pop("")
    for title, lines in (("machine", _machine()), ("packages", _packages(always)), ("extras", _extras(needed))):
        print("\n".join([title, *(f"  {line}" for line in lines)]))
    return 0 if all(map(_fits, always)) else 1


def _requirements() -> dict[str, list[Requirement]]:
    """Return the requirements on this Python by extra; those of every run have the empty name."""
    found: dict[str, list[Requirement]] = {"": [_RECBOLE], **{extra: [] for extra in EXTRAS}}
    try:
        listed = [Requirement(line) for line in requires(_NAME) or ()]
    except PackageNotFoundError:
        return found
    for requirement in listed:
        for extra in found:
            names = {_RECBOLE.name, _NAME}
            asked = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if requirement.name not in names and asked and (not extra or "extra" in str(requirement.marker)):
                found[extra].append(requirement)
    return found


def _fits(requirement: Requirement) -> bool:
    installed = _version(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> Iterator[str]:
    """Yield lines on Python, processors, memory, disk and accelerators."""
    gib = 2**30
    yield f"Python {platform.python_version()}, {platform.platform()}"
    if _version("psutil") is not None:
        memory = import_module("psutil").virtual_memory()
        yield f"{os.cpu_count()} processors, {memory.total / gib:.1f} GiB RAM ({memory.available / gib:.1f} free)"
    yield f"{shutil.disk_usage(Path.cwd()).free / gib:.1f} GiB of disk free in the current folder"
    try:
        torch = import_module("torch")
    except Exception as error:  # a broken CUDA library may raise any error
        yield f"PyTorch cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        return
    if not torch.cuda.is_available():
        yield "no GPU that PyTorch can use"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"GPU {number}: {device.name}, {device.total_memory / gib:.1f} GiB, CUDA {torch.version.cuda}"


def _packages(needed: list[Requirement]) -> Iterator[str]:
    """Yield lines on this package and those that every run needs, with the command that installs a missing one."""
    told = "is not installed, so its requirements are unknown: pip install -e . in the checkout"
    yield f"{_NAME} {_version(_NAME) or told} ({Path(__file__).parents[1]})"
    for requirement in sorted(needed, key=lambda each: each.name):
        installed = _version(requirement.name)
        command = RECBOLE_COMMAND if requirement.name == _RECBOLE.name else f'pip install "{_bare(requirement)}"'
        mended = "" if _fits(requirement) else f"; every run needs {_bare(requirement)}: {command}"
        yield f"{requirement.name} {installed or 'is missing'}{mended}"


def _extras(needed: dict[str, list[Requirement]]) -> Iterator[str]:
    """Yield a line on each extra: its packages, or the missing ones and the command that installs them."""
    for extra, requirements in needed.items():
        told = ", ".join(f"{requirement.name} {_version(requirement.name)}" for requirement in requirements)
        if missing := [_bare(requirement) for requirement in requirements if not _fits(requirement)]:
            told = f'{", ".join(missing)} is missing: pip install -e ".[{extra}]" in the checkout'
        yield f"{extra}, for {EXTRAS[extra]}: {told}"


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
