import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "run_recbole_dealrec.py"
HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Exit code and error output of the script, run in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


BAD_INPUT = {
    "no such dataset": (["-d", "absent"], "absent: no such dataset folder"),
    "a dataset outside": (["-d", "../ml-100k"], "dataset '../ml-100k': a dataset is named by its folder alone"),
    "a dataset above": (["-d", ".."], "dataset '..': a dataset is named by its folder alone"),
    "no title column": (["--title_field=name"], "no column 'name' (found item_id, movie_title, release_year, class)"),
    "too few candidates": (["--n_fewshot=9000"], "n_fewshot is 9000, but only 8487 of 9430 candidate samples"),
    "no such model": (["--llm_path=./nowhere/at/all"], "llm_path './nowhere/at/all': neither a folder nor"),
    "unknown key": (["--n_fewshots=5"], "unknown configuration key 'n_fewshots'; did you mean 'n_fewshot'?"),
    "ratio of one": (["--hard_prune_ratio=1"], "'hard_prune_ratio' has to be a number in [0, 1), not 1"),
    "negative ratio": (["--lora_dropout", "-0.1"], "'lora_dropout' has to be a number in [0, 1), not -0.1"),
    "no such sampler": (["-s", "Best"], "no sampler 'Best'; known are CCS, DEALRec, EL2N, "),
    "no such model class": (["-m", "BigRex"], "no model 'BigRex'; known are BIGRec"),
    "stray word": (["games"], "'games' is not an option"),
    "sampled evaluation": (["--eval_args={order: TO, mode: uni100}"], "mode has to be full"),
    "a sampler twice": (["--sampler=Random,Random"], "sampler: each value to compare has to be named once"),
    "no such sampler among several": (["--sampler=Random,Best"], "no sampler 'Best'; known are CCS, DEALRec"),
    "seeds that are none": (["--seeds=1,x"], "--seeds has to be whole numbers separated by commas, not '1,x'"),
    "a seed beside seeds": (["--seeds=1,2", "--seed=3"], "key 'seed' is given beside the values to compare"),
    "too few candidates for one of them": (
        ["-s", "Random,CCS", "--n_fewshot=9000"],
        "n_fewshot is 9000, but only 6601",
    ),
    "a model of RecBole": (["-m", "SASRec"], "no model 'SASRec'; known are BIGRec"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(run_script, tmp_path, case):
    arguments, message = BAD_INPUT[case]
    code, lines = run_script(*arguments, "--show_progress=False", f"--checkpoint_dir={tmp_path / 'saved'}")
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in "\n".join(lines)
    assert not list(tmp_path.glob("saved/*/*.safetensors"))


def test_an_empty_split_is_one_line_and_exit_code_2(run_script, write_dataset, tmp_path):
    path = write_dataset("short", {"u1": ["i1", "i2"], "u2": ["i2", "i3"]})
    code, lines = run_script("-d", "short", f"--data_path={path}")
    assert code == 2
    assert any(line.startswith("error: ") and "split is empty" in line for line in lines)


def test_the_process_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n_group", "50"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: unknown configuration key 'n_group'; did you mean 'n_groups'?"
    )
