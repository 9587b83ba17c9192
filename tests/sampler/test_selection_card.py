"""A selection taken from another run's card: another model trains on it, and nothing is scored."""

import json
from pathlib import Path

import pandas as pd
import pytest

import recbole_dealrec
from recbole_dealrec import compare_samplers, run_recbole_dealrec
from recbole_dealrec.cli.dry_run import dry_run_text
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.store.files import read_json

CHOICE = {"samples_per_user": 2, "n_fewshot": 4}  # come with a card
KEYS = {
    "n_groups": 2, "surrogate_epochs": 1, "surrogate_hidden_size": 8,
    "n_surrogates": 1, "surrogate_valid_metric": "NDCG@3", "epochs": 1, "topk": [3], "num_beams": 3, "n_valid": 2,
    "train_batch_size": 2, "warmup_steps": 0, "valid_metric": "loss",
}  # fmt: skip
TINY_T5 = {"t5_num_layers": 1, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 4, "t5_d_ff": 24}
CARD_FIELDS = [
    "dataset", "model", "sampler", "data", "indices", "users", "targets", "sees", "validation_seen", "keys", "versions",
    "steps",
]  # fmt: skip


@pytest.fixture
def keys_of(ten, checkpoint):
    """``keys_of(model)``: keys of a run on the ten-item catalogue, which is written."""
    shared = {name: ten()[name] for name in ("checkpoint_dir", "show_progress", "use_gpu")}
    shared |= KEYS | {"data_path": str(Path.cwd())}
    return {
        "BIGRec": {**shared, "llm_path": checkpoint("llama"), "max_new_tokens": 4},
        "TIGER": {**shared, **TINY_T5},
    }.get


@pytest.fixture
def run(keys_of):
    """``run(model, last_step, **keys)``: result of a run."""

    def result(model, last_step="evaluate", **keys):
        return run_recbole_dealrec(model, "ten", config_dict={**keys_of(model), **keys}, last_step=last_step)

    return result


@pytest.fixture
def card(run):
    """Path of a card that Longest, which needs no score, has made for BIGRec, and its content."""
    path = Path(run("BIGRec", last_step="select", sampler="Longest", **CHOICE)["run_dir"]) / "selection.json"
    return path, read_json(path)


@pytest.mark.parametrize(("first", "second"), [("BIGRec", "TIGER"), ("TIGER", "BIGRec")])
def test_what_one_model_selects_trains_the_other(first, second, run, monkeypatch):
    chosen = run(first, last_step="select", **CHOICE)
    folder = Path(chosen["run_dir"])
    card = read_json(folder / "selection.json")
    assert list(card) == CARD_FIELDS
    assert (card["dataset"], card["model"], card["sampler"]) == ("ten", first, "DEALRec")
    assert card["indices"] == chosen["selected"].tolist()
    table = pd.read_csv(folder / "scores.csv")
    selected = table[table["selected"] == 1]
    assert card["users"] == selected["user"].tolist() and card["targets"] == selected["target"].tolist()
    assert card["keys"]["n_fewshot"] == 4 and "epochs" not in card["keys"] and "checkpoint_dir" not in card["keys"]
    assert card["versions"]["recbole_dealrec"] == recbole_dealrec.__version__ and "torch" in card["versions"]
    assert set(card["steps"]) == {"surrogate", "influence", "effort", "selection"}

    def fail(*arguments):
        raise AssertionError("a score is computed")

    monkeypatch.setattr("recbole_dealrec.scorer.scoring.Scoring._score", fail)
    result = run(second, selection=folder / "selection.json")
    taken = Path(result["run_dir"])
    assert result["selected"].tolist() == card["indices"] and f"ten-{second}-DEALRec-" in taken.name
    assert card["sees"] == ["training"]
    assert result["selected_by"] == {"sampler": "DEALRec", "model": first, "sees": ["training"]}
    assert read_json(taken / "selection.json") == card
    assert {name: result["seconds"][name] for name in card["steps"]} == {
        name: record["seconds"] for name, record in card["steps"].items()
    }
    assert f"DEALRec for {first}, read from {folder / 'selection.json'}" in (taken / "report.html").read_text()
    outputs = [json.loads(line)["output"] for line in (taken / "fewshot.jsonl").read_text().splitlines()]
    assert len(outputs) == 4 and outputs[0].startswith("<a_" if second == "TIGER" else '"')

    again = run_recbole_dealrec(config_file_list=[taken / "config.yaml"])
    assert again["run_dir"] == result["run_dir"] and again["test_result"] == result["test_result"]


def test_the_files_content_is_part_of_the_runs_name(card, run):
    path, content = card
    copy = path.with_name("copy.json")
    step = {"seconds": 1, "memory": {"resident": 1}}
    copy.write_text(json.dumps({**content, "steps": {"selection": step}}, indent=1))
    names = [Path(run("TIGER", last_step="select", selection=file)["run_dir"]).name for file in (path, copy)]
    assert names[0] == names[1]
    copy.write_text(json.dumps({**content, **{name: content[name][:3] for name in ("indices", "users", "targets")}}))
    assert Path(run("TIGER", last_step="select", selection=copy)["run_dir"]).name != names[0]


def test_samples_of_a_card_train_like_those_that_are_selected(card, run):
    taken, own = run("TIGER", selection=card[0]), run("TIGER", sampler="Longest", **CHOICE)
    assert taken["run_dir"] != own["run_dir"] and taken["selected"].tolist() == own["selected"].tolist()
    for name in ("best_valid_result", "unrounded", "test_standard_error", "yardsticks"):
        assert taken[name] == own[name], name


def test_a_key_that_contradicts_the_card_is_refused(card, run):
    path, _ = card
    for key, value in {"sampler": "Random", "n_fewshot": 3, "samples_per_user": 1}.items():
        with pytest.raises(InputError, match=f"configuration key '{key}' is {value}, but selection '{path}' was"):
            run("TIGER", selection=path, **{key: value})


def test_other_data_are_refused(card, run):
    path, _ = card
    with pytest.raises(InputError, match=f"selection '{path}' was made on other data: ten there, ten here"):
        run("TIGER", selection=path, eval_args={"split": {"RS": [0.25, 0.25, 0.5]}, "order": "TO", "mode": "full"})


def changed(content, name, value):
    return json.dumps({**content, name: value})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (lambda card: "{", "not JSON"),
        (lambda card: "[" * 100_000, "not JSON"),
        (lambda card: "[]", "'data' is missing or malformed"),
        (lambda card: changed(card, "indices", "1, 2"), "'indices' is missing or malformed"),
        (lambda card: changed(card, "indices", []), "'indices' contains something other"),
        (lambda card: changed(card, "indices", [0, 1.5, 2, 3]), "'indices' contains something other"),
        (lambda card: changed(card, "indices", [-1, 0, 1, 2]), "'indices' contains something other"),
        (lambda card: changed(card, "indices", [3, 2, 1, 0]), "'indices' is not sorted"),
        (lambda card: changed(card, "indices", [0, 0, 1, 2]), "'indices' is not sorted"),
        (lambda card: changed(card, "users", ["u1"]), "'indices' is not sorted, or not as long"),
        (lambda card: changed(card, "users", ["u9", *card["users"][1:]]), "'users' has u9 for candidate"),
        (lambda card: changed(card, "targets", [*card["targets"][:-1], 7]), "'targets' has 7 for candidate"),
        (lambda card: changed(card, "indices", [0, 1, 2, 10**30]), "was made on other data"),
        (lambda card: changed(card, "data", "0" * 64), "was made on other data"),
        (lambda card: changed(card, "keys", {"n_fewshot": 4}), "'keys' has no samples_per_user"),
        (lambda card: changed(card, "keys", {**card["keys"], "n_fewshot": "all"}), "'n_fewshot' has to be auto"),
        (lambda card: changed(card, "steps", {"selection": {"seconds": "1"}}), "'steps' has a step without seconds"),
        (
            lambda card: changed(card, "steps", {"selection": {"seconds": 1, "memory": {"resident": "much"}}}),
            "'steps' has a step without seconds or memory",
        ),
    ],
)
def test_a_malformed_card_is_an_error_of_one_line(written, message, card, run, tmp_path):
    _, content = card
    path = tmp_path / "changed.json"
    path.write_text(written(content))
    with pytest.raises(InputError, match=message) as raised:
        run("TIGER", selection=path)
    assert "\n" not in str(raised.value)


def test_a_card_that_is_not_there(run, tmp_path):
    with pytest.raises(InputError, match="selection 'none.json': cannot be read .No such file"):
        run("TIGER", selection="none.json")
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        run("TIGER", selection=tmp_path)


def test_a_sampler_that_is_not_installed_here_may_have_selected(card, keys_of, tmp_path):
    _, content = card
    path = tmp_path / "theirs.json"
    path.write_text(changed(content, "sampler", "Theirs"))
    (job,) = prepare([configure("TIGER", "ten", None, {**keys_of("TIGER"), "selection": path})])
    assert job.config["sampler"] == "Theirs" and job.sampler.sample(job.samples).tolist() == content["indices"]


def test_a_dry_run_has_no_score_to_do(card, keys_of):
    path, _ = card
    text = dry_run_text(None, None, "TIGER", "ten", [], {**keys_of("TIGER"), "selection": path}, "finetune")
    steps = [line.split("  ")[1].strip() for line in text.splitlines() if line.rstrip().endswith("to do")]
    assert len(steps) == 3 and "influence  " not in text and "estimate  selection" in text


def test_samplers_are_not_compared_on_a_card(card, keys_of):
    keys = {**keys_of("TIGER"), "selection": card[0]}
    with pytest.raises(InputError, match="configuration key 'sampler' is Random, but selection"):
        compare_samplers(["Longest", "Random"], 1, "TIGER", "ten", config_dict=keys)
