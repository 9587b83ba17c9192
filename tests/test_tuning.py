import subprocess
import sys
from pathlib import Path

import pytest
from recbole.trainer import HyperTuning

from recbole_dealrec.config import Config  # noqa: F401  (makes RecBole importable)
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import read_json
from recbole_dealrec.tuning import objective_function, parameter_space, tune

EXAMPLE = Path(__file__).parents[1] / "examples" / "tuning.hyper"
LINES = """
# what is tried
effort_weight choice [0.1, 2.0]
sampler choice ['DEALRec', 'Random']
learning_rate loguniform -8,0
n_groups quniform 10,50,10
lora_dropout uniform 0.0,0.5
"""


@pytest.fixture
def keys(ten, checkpoint):
    """Keys of a cheap run on the ten-item catalogue around a small random checkpoint."""
    config = ten(llm_path=checkpoint("llama"))
    paths = {"data_path": str(Path(config["data_path"]).parent), "checkpoint_dir": config["checkpoint_dir"]}
    return {
        **paths, "dataset": "ten", "llm_path": checkpoint("llama"), "samples_per_user": 0, "n_fewshot": 6, "epochs": 2,
        "n_groups": 2, "surrogate_epochs": 2, "n_surrogates": 1, "topk": [5], "num_beams": 2, "max_new_tokens": 8,
        "surrogate_valid_metric": "NDCG@5", "show_progress": False, "use_gpu": False, "n_valid": 0,
    }  # fmt: skip


def write(text):
    Path("space.hyper").write_text(text, encoding="utf-8")
    return "space.hyper"


def test_the_space_is_what_recbole_reads_from_the_same_file():
    pytest.importorskip("hyperopt")
    file = write(LINES)
    ours = HyperTuning._build_space_from_dict(parameter_space(file))
    theirs = HyperTuning._build_space_from_file(write(LINES.replace("# what is tried\n", "")))
    assert {key: str(value) for key, value in ours.items()} == {key: str(value) for key, value in theirs.items()}


@pytest.mark.parametrize(
    "line",
    [
        "a choice",
        "a choice []",
        "a choice __import__('os').getcwd()",
        "a uniform 1",
        "a normal 0,1",
        "a",
        "a uniform x,y",
    ],
)
def test_a_line_that_is_no_range_is_named(line):
    with pytest.raises(InputError, match="space.hyper, line 2: "):
        parameter_space(write(f"b choice [1]\n{line}\n"))


def test_the_best_by_validation_is_evaluated_and_scores_are_shared(keys, capsys):
    file = write("effort_weight choice [0.0, 1.0]\nlearning_rate choice [0.0000001, 0.05]\n")
    result = tune(file, config_dict=keys)
    assert len(result["trials"]) == 4
    assert result["best_valid_score"] == min(trial["loss"] for trial in result["trials"].values())
    assert result["best_params"]["learning_rate"] == 0.05  # the other one learns nothing
    saved = Path(keys["checkpoint_dir"])
    tested = {path.parent for path in saved.glob("ten-*/test_result.json")}
    assert tested == {Path(result["run_dir"])}
    assert len(list(saved.glob("ten-*/surrogate.safetensors"))) == len(list(saved.glob("ten-*/effort.npy"))) == 1
    assert len(list(saved.glob("ten-*/fine_tuning.json"))) == 4
    assert read_json(Path(result["run_dir"]) / "result.json")["test_result"] == result["test_result"]
    objective_function({**keys, "lora_r": 2})
    for name in ("surrogate.safetensors", "influence.npy"):
        assert len(list(saved.glob(f"ten-*/{name}"))) == 1
    again = tune(file, config_dict=keys)
    assert again["trials"] == result["trials"]


def test_a_drawn_whole_number_is_one(keys):
    result = objective_function({**keys, "n_groups": 3.0, "effort_weight": 0.25})
    assert set(result) == {"model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert result["model"] == "BIGRec" and not result["valid_score_bigger"] and result["test_result"] == {}


def test_the_same_seed_draws_the_same_trials(keys, monkeypatch):
    drawn = []

    def objective(config_dict, files=None):
        drawn.append(config_dict["learning_rate"])
        return {
            "model": "M",
            "best_valid_score": 1.0,
            "valid_score_bigger": True,
            "best_valid_result": {},
            "test_result": {},
        }

    monkeypatch.setattr("recbole_dealrec.tuning.objective_function", objective)
    monkeypatch.setattr("recbole_dealrec.tuning.run_recbole_dealrec", lambda **_: {})
    for seed in (1, 1, 2):
        tune(write("learning_rate loguniform -8,0"), config_dict={"seed": seed}, algo="random", max_evals=3)
    assert drawn[:3] == drawn[3:6] != drawn[6:]


@pytest.mark.parametrize(
    "text, options, told",
    [
        ("learning_rate loguniform -8,0", {}, "only choices"),
        ("effort_weight choice [1]", {"algo": "grid"}, "no algo 'grid'"),
        ("n_fewshot choice [6]", {}, "'n_fewshot' is also given for all trials"),
        ("", {}, "names no key"),
        ("no_such_key choice [6]", {}, "unknown configuration key 'no_such_key'"),
    ],
)
def test_what_cannot_be_tuned(keys, text, options, told):
    with pytest.raises(InputError, match=told):
        tune(write(text), config_dict=keys, **options)


def test_the_example_file_and_the_command():
    assert parameter_space(str(EXAMPLE)) == {
        "choice": {"effort_weight": [0.1, 0.5, 2.0], "hard_prune_ratio": [0.0, 0.1]}
    }
    command = [sys.executable, "-m", "recbole_dealrec.tuning", "--params_file=nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "params_file 'nowhere'" in ended.stderr
