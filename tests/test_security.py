import ast
from pathlib import Path

import numpy as np
import pytest

import recbole_dealrec
from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.pipeline import _no_formulas

SOURCES = sorted(Path(recbole_dealrec.__file__).parent.rglob("*.py"))
FORBIDDEN = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load", "full_load"}


def calls(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
            yield name, owner, {keyword.arg: keyword.value for keyword in node.keywords}, node.args


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_that_is_read_can_run(source):
    text = source.read_text(encoding="utf-8")
    assert "import pickle" not in text and "allow_pickle=True" not in text
    for name, owner, keywords, args in calls(source):
        # model.eval() has no argument.
        assert name not in FORBIDDEN or (name == "eval" and not args) or owner == "re", name
        if (owner, name) == ("torch", "load"):
            assert keywords["weights_only"].value is True
        if (owner, name) == ("yaml", "load"):
            assert keywords["Loader"].id == "YamlLoader"


@pytest.mark.parametrize("token", ["=1+1", "@SUM(A1)", "+cmd", "-2+3", "\t=1", "\r=1", "=", "-"])
def test_a_formula_is_no_formula_in_a_cell(token):
    assert _no_formulas(np.array([token])) == [f"'{token}"]


@pytest.mark.parametrize("token", ["196", "-5", "+5.5", "u=1", "A-1", "a@b", ""])
def test_other_tokens_stay(token):
    assert _no_formulas(np.array([token])) == [token]


def test_hostile_names_are_text_in_everything_that_is_written(write_dataset, tmp_path):
    users, items = ["=1+1", "<b>u</b>", "../u", "{u}"], ["@x", "<script>i</script>", "%s", "/etc/i", "i5", "i6"]
    sequences = {user: items[place:] + items[:place] for place, user in enumerate(users)}
    titles = {item: f"<img src=x> {{history}} {item} =1+1" for item in items}
    path = write_dataset("hostile", sequences, titles)
    keys = {
        "data_path": str(path), "checkpoint_dir": str(tmp_path / "saved"), "show_progress": False, "use_gpu": False,
        "n_fewshot": 2, "tiny_steps": 5, "epochs": 1, "topk": [2], "num_beams": 2,
    }  # fmt: skip
    result = run_recbole_dealrec(dataset="hostile", sampler="Random", config_dict=keys)
    folder = Path(result["run_dir"])
    assert "'=1+1," in (folder / "scores.csv").read_text(encoding="utf-8")
    report = (folder / "report.html").read_text(encoding="utf-8")
    shown = report.split("<body>")[1]  # plotly's script stands before it
    assert "<img" not in shown and "<script>i" not in shown and "&lt;img" in shown and "&lt;b&gt;u" in shown
    assert "{history}" in (folder / "fewshot.jsonl").read_text(encoding="utf-8")
    assert {path.name.split("-")[0] for path in (tmp_path / "saved").iterdir()} <= {"hostile", "tiny"}
