"""What names and files tell is answered without PyTorch, by every form of the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_dealrec.cli.command import SUBCOMMANDS

ROOT = Path(__file__).parents[2]
SCRIPT, PACKAGE = [str(ROOT / "run_recbole_dealrec.py")], ["-m", "recbole_dealrec"]
PARAMETERS = "n_groups choice [5, -1]\n"
# words -> exit code, part of the last line
ANSWERS = {
    "--help": (0, "or a word"),
    "--help all": (0, "[default: 4]"),
    "--list": (0, ""),
    "compare --help": (0, "or a word"),
    "select --help": (0, "or a word"),
    "tune --help": (0, "trials"),
    "convert --help": (0, ""),
    "--n_fewshto=3": (2, "error: unknown configuration key 'n_fewshto'; did you mean 'n_fewshot'?"),
    "run --n_fewshot=0": (2, "error: configuration key 'n_fewshot' has to be auto or a whole number of at least 1, "),
    "recommend --help": (0, ""),
    "recommend absent --history 1": (2, "error: absent: not a run folder"),
    "runs --checkpoint_dir absent": (2, "error: checkpoint_dir 'absent': no such folder"),
    "--t5_d_kv=3": (2, "error: configuration key 't5_d_kv' belongs to TIGER; BIGRec does not read it"),
    "--model=BigRex": (2, "error: no model 'BigRex'; choose one of BIGRec, TIGER (others can be the surrogate_model)"),
    "--surrogate_model=Sasrek": (2, "error: no model 'Sasrek'; give the name of its class"),
    "--sampler=DEALRec,Best": (2, "error: no sampler 'Best'; choose one of CCS, DEALRec, EL2N, "),
    "compare --seeds=1,a": (2, "error: --seeds has to be whole numbers separated by commas, not '1,a'"),
    "--last_step=train": (2, "error: no last_step 'train'; choose one of score, select, finetune, evaluate"),
    "--preset=peper": (2, "error: no preset 'peper'; choose one of paper, released"),
    "--dataset=absent": (2, "error: dataset/absent: no such dataset folder; put absent.inter and .item there"),
    "select --dataset=../up": (2, "error: dataset '../up': give only the name of its folder"),
    "--dry_run --llm_path=./no/model/here": (2, "error: llm_path './no/model/here': no such file or folder"),
    "--model=TIGER --text_encoder_path=/no/encoder": (2, "error: text_encoder_path '/no/encoder': no such file or fo"),
    "--config_files=absent.yaml": (2, "error: absent.yaml: cannot be read (No such file or directory)"),
    "compaer": (2, "error: no subcommand 'compaer'; choose one of run, compare, select, "),
    "tune --params_file=absent.hyper": (2, "error: params_file 'absent.hyper': cannot be read"),
    "tune --params_file=some.hyper": (2, "error: configuration key 'n_groups' has to be a whole number of at least 1"),
    "convert absent new": (2, "error: absent: no such file or folder"),
}


@pytest.mark.parametrize("words", ANSWERS)
def test_the_answer_comes_without_pytorch(words, tmp_path):
    (tmp_path / "some.hyper").write_text(PARAMETERS)
    command = [sys.executable, "-X", "importtime", *SCRIPT, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    timed = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    told = [line for line in done.stderr.splitlines() if line not in timed]
    code, last = ANSWERS[words]
    assert done.returncode == code and last in [*done.stdout.splitlines(), *told][-1]
    assert len(told) == (code > 0)
    assert not {"torch", "transformers"} & {line.rpartition("|")[2].strip() for line in timed}
    assert [file.name for file in tmp_path.iterdir()] == ["some.hyper"]


@pytest.mark.parametrize(
    "form",
    [
        ["recbole_dealrec", "recommend", "absent", "--history", "1"],
        ["recbole_dealrec.recommend", "absent", "--history", "1"],
        ["recbole_dealrec.tuning", "--params_file=absent"],
        ["recbole_dealrec.data.convert", "absent", "new"],
    ],
    ids=" ".join,
)
def test_a_module_of_its_own_is_a_subcommand_too(form, tmp_path):
    done = subprocess.run([sys.executable, "-m", *form], cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "absent" in line


def test_help_names_every_subcommand():
    done = subprocess.run([sys.executable, *PACKAGE, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, (_, purpose) in SUBCOMMANDS.items():
        assert f"{name} {purpose}" in " ".join(done.stdout.split())
