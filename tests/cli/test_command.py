import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_dealrec.cli.command import main
from recbole_dealrec.cli.help import help_text
from recbole_dealrec.cli.listing import list_text
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.properties import Group, Option, property_files, read_section
from recbole_dealrec.config.registry import SAMPLERS, key_of
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import FewShotSampler, RandomSampler, register_sampler

CHEAP = {
    "n_fewshot": 4, "tiny_steps": 1, "epochs": 1, "n_valid": 4, "n_test": 4, "yardsticks": False, "use_gpu": False,
    "n_surrogates": 1, "surrogate_epochs": 1, "grounding_popularity": 0, "grounding_collaborative": 0,
}  # fmt: skip
SCRIPT = Path(__file__).parents[2] / "run_recbole_dealrec.py"


def test_the_process_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n_group", "50"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: unknown configuration key 'n_group'; did you mean 'n_groups'?"
    )


def test_help_lists_every_key_with_its_type_and_default(run_help):
    text = " ".join(run_help(90, "all").split())
    for file in property_files():
        for key in read_yaml(file):
            assert f"--{key} (" in text, key
    assert "--n_fewshot (str or int) Samples the LLM is fine-tuned on;" in text and "64. [default: auto]" in text
    assert "--t5_dropout_rate (float) Dropout. [default: 0.1]" in text
    assert "--weight_decay (float) The weight decay" in text and "--eval_step (int)" in text  # RecBole's


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("topic", [[], ["all"]])
def test_help_fits_the_terminal(run_help, width, topic):
    assert max(map(len, run_help(width, *topic).splitlines())) <= width


def test_help_shows_ten_common_keys_by_example(run_help):
    common = run_help(100).split("common configuration keys, by example\n")[1].split("\n\n")[0]
    examples = re.findall(r"^  --(\S+)", common, re.M)
    assert len(examples) == 10 and "title_field=movie_title" in examples
    for name, value in parse_command_line([f"--{example}" for example in examples]).items():
        assert key_of(name).kind.accepts(value)
    assert "--title_field=movie_title Column of <dataset>.item that holds the titles. [default: title]" in " ".join(
        common.split()
    )


@pytest.mark.parametrize("topic", ["influence", "effort", "selection"])
def test_help_on_a_step_shows_its_keys(run_help, topic):
    shown = set(re.findall(r"^    --(\w+)", run_help(100, topic), re.M))
    assert {name for name, key in KEYS.items() if key.step == topic and key.place == "overall"} <= shown
    assert not {name for name, key in KEYS.items() if key.step == "language model"} & shown


def test_help_on_a_model_and_on_a_word(run_help):
    assert "--t5_d_model" in run_help(100, "tiger") and "--lora_r" not in run_help(100, "tiger")
    assert set(re.findall(r"^    --(\w+)", run_help(100, "n_test"), re.M)) == {"n_test"}
    with pytest.raises(InputError, match="--help: no key has the topic 'influense'; did you mean 'influence'"):
        help_text(100, "influense")


@pytest.fixture
def run_help(monkeypatch, capsys):
    def run(width, *topic):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help", *topic])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


def test_options_are_read_from_property_files(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text(
        "# What it is.\n\n# First group\na: 3   # (int) Sentence with # and (brackets).\n\n"
        'b: >-  # (str) Text.\n  two\n  lines\n\n# Second\nc:  # (dict) Mapping.\n  d: ~\ne: "x\\n"  # (str) Line.\n'
    )
    section = read_section(file, "some")
    assert (section.name, section.title) == ("some", "What it is.")
    assert section.groups == (
        Group(
            "First group",
            (Option("a", "int", 3, "Sentence with # and (brackets)."), Option("b", "str", "two lines", "Text.")),
        ),
        Group("Second", (Option("c", "dict", {"d": None}, "Mapping."), Option("e", "str", "x\n", "Line."))),
    )
    shown = [option.shown_default() for group in section.groups for option in group.options]
    assert shown == ["3", "two lines", "{d: null}", '"x\\n"']


def test_list_names_datasets_models_and_samplers(write_dataset, monkeypatch):
    path = write_dataset("mine", {"u": ["a", "b", "c"]})
    monkeypatch.setattr(SAMPLERS, "entries", dict(SAMPLERS.entries))

    @register_sampler("Plugin")
    class Plugin(FewShotSampler):
        """Rule of another package, with ``n_fewshot``.

        More on it.
        """

    lines = list_text(str(path), 200).splitlines()
    assert "  mine            no property file (present)" in lines
    text = "\n".join(lines)
    assert re.search(r"  games  .*downloaded on first use", text)
    assert re.search(r"  microlens-50k  .*put its files into data_path", text)
    assert any(line.startswith("  ml-100k ") and "comes with RecBole" in line for line in lines)
    assert any(line.startswith("  games ") and "absent" in line for line in lines)
    assert any(line.startswith("  TIGER ") for line in lines)
    assert "  Plugin          Rule of another package, with n_fewshot." in lines
    assert not any("More on it" in line for line in lines)


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_one_line(run_script, movies_path, monkeypatch, debug):
    monkeypatch.setattr(SAMPLERS, "entries", dict(SAMPLERS.entries))

    @register_sampler("Failing")
    class Failing(RandomSampler):
        def check(self, samples):
            raise ZeroDivisionError("two\nlines")

    code, lines = run_script(
        "--dataset=movies", f"--data_path={movies_path}", "--title_field=movie_title", "--sampler=Failing",
        *["--debug"] * debug,
    )  # fmt: skip
    told = [line for line in lines if line.startswith("error: ")]
    assert code == 1 and len(told) == 1
    assert told[0].startswith("error: ZeroDivisionError: two lines (") and __file__ in told[0] and "--debug" in told[0]
    assert ("Traceback (most recent call last):" in lines) == debug


def test_where_memory_does_not_suffice_the_error_says_what_to_lower(run_script, movies_path, monkeypatch):
    monkeypatch.setattr(SAMPLERS, "entries", dict(SAMPLERS.entries))

    @register_sampler("Huge")
    class Huge(RandomSampler):
        def check(self, samples):
            torch.empty(2**55, dtype=torch.uint8)

    options = f"--data_path={movies_path}", "--title_field=movie_title", "--sampler=Huge"
    code, lines = run_script("--dataset=movies", *options)
    assert code == 1 and lines[-1].startswith("error: RuntimeError: ")
    assert lines[-1].endswith(
        "; lower tokens_per_batch, micro_batch_size or eval_batch_size; --debug shows the traceback"
    )


def test_the_last_step_is_checked(run_script):
    code, lines = run_script("--last_step=train")
    assert code == 2
    assert lines[-1] == "error: no last_step 'train'; choose one of score, select, finetune, evaluate"


def test_select_prints_the_file_of_the_selection(movies_path, tmp_path, capsys):
    keys = {"data_path": movies_path, "checkpoint_dir": tmp_path, "title_field": "movie_title", "tiny_steps": 1}
    options = [f"--{key}={value}" for key, value in {**keys, "n_fewshot": 4, "use_gpu": False}.items()]
    assert main(["select", "--dataset=movies", "--sampler=Random", "--seeds=1,2", *options]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith("fewshot.jsonl")]
    assert len(files) == 2 and all(len(file.read_text(encoding="utf-8").splitlines()) == 4 for file in files)


def test_a_single_sampler_is_compared_if_asked(movies_path, tmp_path):
    keys = {"data_path": movies_path, "checkpoint_dir": tmp_path, "title_field": "movie_title", **CHEAP}
    assert main(["compare", "--dataset=movies", "--sampler=Random", *(f"--{k}={v}" for k, v in keys.items())]) == 0
    assert len([*tmp_path.glob("*-comparison-*/runs.csv")]) == 1
