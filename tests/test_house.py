"""The house: what imports what, how large a piece is, and what loads PyTorch."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import recbole_dealrec

PACKAGE = Path(recbole_dealrec.__file__).parent
# Imports run down this list only; what stands on one line does not import the others of the line.
ORDER = [
    {"__main__"}, {"cli"}, {"recommend", "tuning"}, {"quick_start"}, {"pipeline"}, {"yardstick"},
    {"training", "report", "testing"}, {"sampler"}, {"scorer"}, {"model"}, {"data"}, {"store"}, {"config"},
    {"distributed"}, {"compat"}, {"errors"},
]  # fmt: skip
FILES = {
    ".".join(("recbole_dealrec", *file.relative_to(PACKAGE).with_suffix("").parts)): file
    for file in PACKAGE.rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}


def imported(file):
    """Names of the modules of the package that a file imports, wherever in it but where it is run as a program."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        else:
            continue
        yield from (name for name in names if name in MODULES)


IMPORTS = {name: sorted(set(imported(file)) - {name}) for name, file in MODULES.items()}


def part(module):
    """The folder or the module at the top that a module belongs to."""
    return [*module.split("."), ""][1]


def test_no_files_import_each_other_in_a_circle():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_run_down_the_house_only():
    floor = {name: number for number, names in enumerate(ORDER) for name in names}
    assert {part(module) for module in MODULES} - {""} == floor.keys()
    upwards = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if part(module) != part(other) and part(module) and floor[part(other)] <= floor[part(module)]
    ]
    assert not upwards


def test_few_modules_stand_beside_the_folders():
    beside = [file.stem for file in PACKAGE.glob("*.py") if not file.stem.startswith("__")]
    assert len(beside) <= 6, beside


def test_no_two_modules_share_a_name():
    names = [file.stem for file in FILES.values() if not file.stem.startswith("__")]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module):
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("command", ["-c import recbole_dealrec", "run_recbole_dealrec.py --help"])
def test_torch_is_loaded_by_those_who_need_it(command):
    words = command.split(maxsplit=1) if command.startswith("-c") else command.split()
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "recbole_dealrec" in loaded and not {"torch", "transformers", "pandas", "pytest"} & loaded
