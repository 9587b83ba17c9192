"""Malformed input: one line that names file and row or key, exit code 2, and nothing written but the log."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.model.bigrec.llm import load_network

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
TITLES = "item_id:token\ttitle:token_seq\n"
BENCHMARK = [
    "-d", "split", "--benchmark_filename=[train, valid, test]", "--alias_of_item_id=[item_id_list]",
    "--load_col={inter: [user_id, item_id_list, item_id]}",
]  # fmt: skip
PARTS = "user_id:token\titem_id_list:token_seq\titem_id:token\n"

# name -> (files, arguments, part of the message)
FILES = {
    "no interactions": ({"ten/ten.inter": None}, [], "ten.inter not exist"),
    "an empty file": ({"ten/ten.inter": ""}, [], "ten.inter: no column 'user_id:token' (found none)"),
    "a header alone": ({"ten/ten.inter": HEADER}, [], "ten.inter: holds no row"),
    "a header without types": (
        {"ten/ten.inter": "user_id\titem_id\ttimestamp\nu\ti1\t1\n"}, [],
        "ten.inter, row 1: the header has 'user_id'; write name:type",
    ),
    "a header of unknown types": (
        {"ten/ten.inter": HEADER.replace("float", "int") + "u\ti1\t1\n"}, [],
        "ten.inter, row 1: the header has 'timestamp:int'",
    ),
    "a header that names a column twice": (
        {"ten/ten.inter": "user_id:token\tuser_id:token\titem_id:token\ttimestamp:float\n"}, [],
        "ten.inter, row 1: the header has two columns 'user_id'",
    ),
    "no header": ({"ten/ten.inter": "u\ti1\t1\nu\ti2\t2\n"}, [], "ten.inter, row 1: the header has 'u'"),
    "commas for tabs": (
        {"ten/ten.inter": HEADER.replace("\t", ",")}, [],
        "ten.inter: no column 'user_id:token' (found user_id:token,item_id:token,timestamp:float)",
    ),
    "no column of times": (
        {"ten/ten.inter": "user_id:token\titem_id:token\nu\ti1\n"}, [],
        "ten.inter: no column 'timestamp:float' (found user_id:token, item_id:token)",
    ),
    "no column of items": ({"ten/ten.inter": "user_id:token\ttimestamp:float\n"}, [], "no column 'item_id:token'"),
    "times that are tokens": (
        {"ten/ten.inter": HEADER.replace("float", "token") + "u\ti1\t1\n"}, [], "no column 'timestamp:float'",
    ),
    "a row with a column less": (
        {"ten/ten.inter": HEADER + "u\ti1\t1\nu\ti2\n"}, [], "ten.inter, row 3: 2 columns where the header has 3",
    ),
    "a row with a column more": (
        {"ten/ten.inter": HEADER + "u\ti1\t1\n\nu\ti2\t2\t5\n"}, [],
        "ten.inter, row 4: 4 columns where the header has 3",
    ),
    "rows with a tab at the end": ({"ten/ten.inter": HEADER + "u\ti1\t1\t\n"}, [], "ten.inter, row 2: 4 columns where"),
    "bad UTF-8": ({"ten/ten.inter": HEADER.encode() + b"u\xff\ti1\t1\n"}, [], "ten.inter, row 2: not utf-8 text"),
    "UTF-16": ({"ten/ten.inter": (HEADER + "u\ti1\t1\n").encode("utf-16")}, [], "ten.inter, row 1: "),
    "a byte order mark": ({"ten/ten.inter": "\ufeff" + HEADER + "u\ti1\t1\n"}, [], "row 1: begins with a byte order"),
    "a NUL byte": ({"ten/ten.inter": HEADER + "u\ti1\t1\nu\ti\0\t2\n"}, [], "ten.inter, row 3: holds a NUL byte"),
    "a carriage return": ({"ten/ten.inter": HEADER + "u\ti1\r\t1\n"}, [], "ten.inter, row 2: contains a carriage"),
    "a quotation mark": ({"ten/ten.inter": HEADER + 'u\t"i1\t1\n'}, [], "ten.inter, row 2: a column begins with"),
    "a time that is no number": (
        {"ten/ten.inter": HEADER + "u\ti1\t1\nu\ti2\tnoon\n"}, [], "ten.inter, row 3: timestamp is 'noon', which is no",
    ),
    "a row without time": ({"ten/ten.inter": HEADER + "u\ti1\t\n"}, [], "ten.inter, row 2: timestamp is '', which is"),
    "an infinite time": ({"ten/ten.inter": HEADER + "u\ti1\tinf\n"}, [], "ten.inter, row 2: timestamp is 'inf', which"),
    "a row without user": ({"ten/ten.inter": HEADER + "u\ti1\t1\n\ti1\t2\n"}, [], "ten.inter, row 3: user_id is empty"),
    "an item called NA": ({"ten/ten.inter": HEADER + "u\tNA\t1\n"}, [], "ten.inter, row 2: item_id is empty, or"),
    "users with one interaction alone": (
        {"ten/ten.inter": HEADER + "u\ti1\t1\nv\ti2\t1\n"}, [], "ten: the training split is empty",
    ),
    "an unknown encoding": ({}, ["--encoding=utf-99"], "key 'encoding': Python has no encoding 'utf-99'"),
    "no titles": ({"ten/ten.item": None}, [], "ten.item: no such file; titles are needed"),
    "an empty file of titles": ({"ten/ten.item": ""}, [], "ten.item: no column 'item_id' (found none)"),
    "a header of titles without types": (
        {"ten/ten.item": "item_id\ttitle\ni1\tOne\n"}, [], "ten.item, row 1: the header has 'item_id'",
    ),
    "no column of titles": ({"ten/ten.item": "item_id:token\tname:token\n"}, [], "ten.item: no column 'title' (found"),
    "a title without its item": ({"ten/ten.item": TITLES + "i1\tOne\nTwo\n"}, [], "ten.item, row 3: 1 columns where"),
    "titles in Latin-1": ({"ten/ten.item": TITLES.encode() + b"i1\tCaf\xe9\n"}, [], "ten.item, row 2: not utf-8 text"),
    "a NUL byte in a title": ({"ten/ten.item": TITLES + "i1\tO\0ne\n"}, [], "ten.item, row 2: holds a NUL byte"),
    "an item with two titles": (
        {"ten/ten.item": TITLES + "i1\tOne\ni2\tTwo\ni1\tUno\n"}, [], "ten.item, row 4: item 'i1' has a different",
    ),
    "titles of other items": ({"ten/ten.item": TITLES + "x\tOne\n"}, [], "ten.item: none of the 10 items of the inter"),
    "a part that is absent": ({"split/split.valid.inter": None}, BENCHMARK, "split.valid.inter not exist"),
    "an empty part": ({"split/split.test.inter": PARTS}, BENCHMARK, "split.test.inter: holds no row"),
    "a part without histories": (
        {"split/split.train.inter": HEADER + "u\ti1\t1\n"}, BENCHMARK,
        "split.train.inter: no column 'item_id_list:token_seq'",
    ),
    "an empty history": (
        {"split/split.valid.inter": PARTS + "u1\ti1 i2\ti3\nu1\t\ti3\n"}, BENCHMARK,
        "split.valid.inter, row 3: item_id_list is empty",
    ),
    "a ragged row of a part": (
        {"split/split.test.inter": PARTS + "u1\ti1 i2 i3\n"}, BENCHMARK, "split.test.inter, row 2: 2 columns where",
    ),
}  # fmt: skip
YAML = {
    "an unknown key": ("n_fewshots: 5", "unknown configuration key 'n_fewshots'; did you mean 'n_fewshot'?"),
    "a key that is no text": ("5: 5", "unknown configuration key '5'"),
    "a key twice": ("seed: 1\nseed: 2", "keys.yaml: not YAML: key 'seed' is given twice"),
    "an alias inside itself": ("topk: &a [*a]", "'topk' has to be a whole number of at least 1 or a list of them"),
    "a key inside itself": ("? &a [*a]\n: 1", "keys.yaml: not YAML: "),
    "a Python tag": ("seed: !!python/object/apply:os.mkdir ['made']", "keys.yaml: not YAML: could not determine a"),
    "a tag that does not fit": ("seed: !!int many", "keys.yaml: not YAML: 'many' is not tag:yaml.org,2002:int"),
    "deep nesting": ("topk: " + "[" * 3000, "keys.yaml: not YAML: nested too deeply"),
    "no mapping": ("- seed\n- 1", "keys.yaml: expected 'key: value' lines, found list"),
    "an open bracket": ("topk: [1, 2", "keys.yaml: not YAML: "),
    "no text": (b"seed: \xff", "keys.yaml: not YAML: "),
    "a NUL byte": (b"seed: 1\0", "keys.yaml: not YAML: "),
    "two documents": ("seed: 1\n---\nseed: 2", "keys.yaml: not YAML: "),
    "topk of a word": ("topk: abc", "configuration key 'topk' has to be a whole number of at least 1 or a list"),
    "metrics of a number": ("metrics: 3", "configuration key 'metrics' has to be the name of a metric or a list"),
    "an unknown metric": ("metrics: [Recal]", "There is no metric named 'Recal'"),
    "a metric that is not measured": ("valid_metric: NDCG@7", "valid_metric 'NDCG@7' is not measured; metrics and"),
    "evaluation of a number": ("eval_args: 5", "configuration key 'eval_args' has to be a mapping with the keys"),
    "columns of a number": ("load_col: 7", "configuration key 'load_col' has to be ~ or a mapping from suffixes"),
    "columns that leave out the time": ("load_col: {inter: [user_id, item_id]}", "'load_col' has no column 'time"),
    "epochs of a word": ("epochs: many", "configuration key 'epochs' has to be a whole number of at least 0"),
    "epochs of the surrogate of a word": ("surrogate_epochs: many", "configuration key 'surrogate_epochs' has to be"),
    "a GPU of a mapping": ("gpu_id: {}", "configuration key 'gpu_id' has to be a number, or several separated by"),
    "a seed that is too large": ("seed: 4294967296", "configuration key 'seed' has to be a whole number from 0 to"),
    "no learning rate": ("learning_rate: .nan", "configuration key 'learning_rate' has to be a number above 0"),
    "half a character": ('prompt_noun: "\\ud800"', "configuration key 'prompt_noun' has to be a string"),
    "a prompt with an unknown field": ('prompt_input: "{titles}"', "key 'prompt_input': unknown field {titles}"),
    "more items than there are": ("topk: [20]", "topk asks for 20 items, but ten has 10; lower it"),
    "a surrogate that does not fit": ("surrogate_hidden_size: 5", "surrogate_model 'SASRec' cannot be built as con"),
    "a surrogate that is not sequential": ("surrogate_model: BPR", "'BPR' is not a sequential model with a softmax"),
    "a surrogate that is no model": ("surrogate_model: Sasrek", "no model 'Sasrek'"),
    "a folder that is a file": ("checkpoint_dir: keys.yaml", "checkpoint_dir 'keys.yaml': no folder can be made in it"),
}
COMMAND_LINES = {
    "no such dataset": (["-d", "absent"], "absent: no such dataset folder"),
    "a dataset outside": (["-d", "../ml-100k"], "dataset '../ml-100k': give only the name of its folder"),
    "a dataset above": (["-d", ".."], "dataset '..': give only the name of its folder"),
    "no title column": (["--title_field=name"], "no column 'name' (found item_id, movie_title, release_year, class)"),
    "too few candidates": (
        ["--hard_prune_ratio=0.1", "--n_fewshot=9000"],
        "n_fewshot is 9000, but only 8487 of 9430 candidate samples",
    ),
    "no such model": (["--llm_path=./nowhere/at/all"], "llm_path './nowhere/at/all': no such file or folder"),
    "unknown key": (["--n_fewshots=5"], "unknown configuration key 'n_fewshots'; did you mean 'n_fewshot'?"),
    "ratio of one": (["--hard_prune_ratio=1"], "'hard_prune_ratio' has to be a number in [0, 1), not 1"),
    "negative ratio": (["--lora_dropout", "-0.1"], "'lora_dropout' has to be a number in [0, 1), not -0.1"),
    "no such sampler": (["-s", "Best"], "no sampler 'Best'; choose one of CCS, DEALRec, EL2N, "),
    "no such model class": (["-m", "BigRex"], "no model 'BigRex'; choose one of BIGRec"),
    "stray word": (["games"], "no subcommand 'games'"),
    "sampled evaluation": (["--eval_args={order: TO, mode: uni100}"], "mode has to be full"),
    "a sampler twice": (["--sampler=Random,Random"], "sampler: name each value to compare exactly once"),
    "no such sampler among several": (["--sampler=Random,Best"], "no sampler 'Best'; choose one of CCS, DEALRec"),
    "seeds that are none": (["--seeds=1,x"], "--seeds has to be whole numbers separated by commas, not '1,x'"),
    "a seed beside seeds": (["--seeds=1,2", "--seed=3"], "key 'seed' is given in addition to the values to compare"),
    "too few candidates for one of them": (
        ["-s", "Random,CCS", "--n_fewshot=9000"],
        "n_fewshot is 9000, but only 6601",
    ),
    "a model of RecBole": (["-m", "SASRec"], "no model 'SASRec'; choose one of BIGRec"),
}




def alter(file, **keys):
    """Changes keys of a JSON file of a checkpoint."""

    def change(folder):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps({**content, **keys}), encoding="utf-8")

    return change


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def other_tokenizer(folder):
    words = [f"word{number}" for number in range(100)]
    AutoTokenizer.from_pretrained(folder).train_new_from_iterator(words, 400).save_pretrained(folder)


# name -> (what is done to a copy of the Llama checkpoint, arguments, part of the message)
LLAMA = ["--llm_path=llama"]
TEXT_ENCODER = ["-m", "TIGER", "--text_encoder_path=llama", "--valid_metric=loss"]
CHECKPOINTS = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), LLAMA, "Error no file named model.safetens"),
    "weights cut short": (cut_weights, LLAMA, "llm_path 'llama': folder; cannot be loaded: "),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), LLAMA, "llm_path 'llama': folder; cannot"),
    "weights of another width": (
        alter("config.json", hidden_size=64), LLAMA,
        "llm_path 'llama': its weights do not match the LlamaForCausalLM that config.json describes",
    ),
    "weights of another model": (
        alter("config.json", model_type="gpt2"), LLAMA, "its weights do not match the GPT2LMHeadModel",
    ),
    "a model nobody knows": (alter("config.json", model_type="x"), LLAMA, "llm_path 'llama': folder; cannot be"),
    "an adapter that names no model": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"), LLAMA,
        "llm_path 'llama': is a PEFT adapter, not a model",
    ),
    "a tokenizer of another model": (other_tokenizer, LLAMA, "tokens, the model 334; use the tokenizer of the model"),
    "a tokenizer without end token": (
        alter("tokenizer_config.json", eos_token=None), LLAMA, "llm_path 'llama': the tokenizer has no end token; set",
    ),
    "a tokenizer that is broken": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"), LLAMA, "llm_path 'llama': folder; cannot be",
    ),
    "modules that are not there": (
        lambda folder: None, [*LLAMA, "--lora_target_modules=[c_attn]"], "LlamaForCausalLM has no module 'c_attn'",
    ),
    "no room for the prompt": (
        lambda folder: None, [*LLAMA, "--max_prompt_length=20"], "max_prompt_length is 20, a prompt without titles has",
    ),
    "a text encoder of another width": (
        alter("config.json", hidden_size=64), TEXT_ENCODER,
        "text_encoder_path 'llama': its weights do not match the LlamaModel",
    ),
    "a text encoder with a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"), TEXT_ENCODER,
        "text_encoder_path 'llama': folder; cannot be loaded: ",
    ),
}  # fmt: skip


@pytest.fixture
def refusal(run_script, ten, split, tmp_path):
    """``refusal(files, *arguments)``: the error line of a run on ``ten`` after these files were written or removed."""
    ten(), split()

    def run(files, *arguments):
        for name, content in files.items():
            (tmp_path / name).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        before = written()
        code, lines = run_script(*arguments)
        assert code == 2
        assert "Traceback" not in "\n".join(lines)
        assert written() == before
        (error,) = [line for line in lines if line.startswith("error: ")]
        return error

    def written():
        files = (path for path in tmp_path.rglob("*") if tmp_path / "log" not in (path, *path.parents))
        return {path: path.stat().st_mtime_ns for path in files}

    return run


ON_TEN = ["-d", "ten", "--data_path=.", "--topk=[5]", "--n_fewshot=1", "--show_progress=False", "--use_gpu=False"]


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file(case, refusal):
    files, arguments, message = FILES[case]
    assert message in refusal(files, *ON_TEN, *arguments)


@pytest.mark.parametrize("case", YAML)
def test_a_malformed_configuration(case, refusal):
    text, message = YAML[case]
    arguments = [word for word in ON_TEN if not word.startswith("--topk")] if "topk" in str(text) else ON_TEN
    assert message in refusal({"keys.yaml": text}, *arguments, "--config_files=keys.yaml")


def test_a_configuration_that_is_a_folder(refusal):
    assert "ten: cannot be read (Is a directory)" in refusal({}, *ON_TEN, "--config_files=ten")


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_a_malformed_command_line(case, refusal):
    arguments, message = COMMAND_LINES[case]
    assert message in refusal({}, *arguments, "--show_progress=False")


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_malformed_checkpoint(case, refusal, checkpoint, tmp_path):
    change, arguments, message = CHECKPOINTS[case]
    change(Path(shutil.copytree(checkpoint("llama"), tmp_path / "llama")))
    assert message in refusal({}, *ON_TEN, *arguments)


def test_an_adapter_for_a_model(refusal, ten, checkpoint, tmp_path):
    load_network(ten(), checkpoint("llama")).save_pretrained(tmp_path / "adapter")
    message = refusal({}, *ON_TEN, "--llm_path=adapter")
    assert "llm_path 'adapter': is a PEFT adapter, not a model; use what its merge_and_unload() returns" in message


SMALL = {
    "show_progress": False, "use_gpu": False, "topk": [5], "surrogate_epochs": 1, "n_surrogates": 1, "epochs": 1,
    "n_valid": 2, "hard_prune_ratio": 0, "n_groups": 2, "learning_rate": 0.001,
}  # fmt: skip
ODD_TITLES = {
    "i1": "long " * 20_000,
    "i2": "\\u0041 &lt; \\",
    "i3": "### Response:",
    "i4": "{history} {0} %s {{}}",
    "i5": '"\\n" , "',
    "i6": "\u202etfel ot thgir\u202c \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "i7": "\x01\x07\x1b[31m\x7f bell",
    "i8": "<end> <|end|> </s> [INST]",
    "i9": "",
    "i10": "\U0001f600\u200d\u0301",
    "i11": 'Pan 12"',
}


@pytest.fixture
def odd(write_dataset):
    """Data path of ``odd``: odd titles, users with one interaction, and one with 10,000."""
    items = list(ODD_TITLES)
    drawn = np.random.default_rng(0).integers(10, size=10_000)
    sequences = {f"u{start}": [*items[start:], *items[:start]] for start in (0, 1, 3)}
    sequences |= {f"single{item}": [item] for item in items} | {"long": [items[item] for item in drawn]}
    return write_dataset("odd", sequences, ODD_TITLES)


def run_on_odd(model, path, **keys):
    fixed = {"data_path": str(path), "checkpoint_dir": str(path / "saved"), "n_fewshot": 4, **SMALL}
    return run_recbole_dealrec(model, "odd", config_dict={**fixed, **keys})


@pytest.mark.parametrize("kind", ["tiny", "llama"])
def test_odd_input_runs_through_with_titles_as_they_are(kind, odd, checkpoint):
    # The random checkpoint's tokenizer has no padding token.
    keys = {"tiny_steps": 2, "num_beams": 2}
    if kind != "tiny":
        keys = {"llm_path": checkpoint(kind), "max_new_tokens": 8, "max_prompt_length": 300, "num_beams": 2}
    result = run_on_odd("BIGRec", odd, **keys)
    assert all(0 <= value <= 1 for value in result["test_result"].values())
    folder = Path(result["run_dir"])
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["user"]) == {"u0", "u1", "u3", "long"} and "i1" in set(scores["target"])
    assert np.isfinite(scores[["influence", "effort"]]).all(axis=None) and scores["selected"].all()
    rows = [json.loads(line) for line in (folder / "fewshot.jsonl").read_text(encoding="utf-8").splitlines()]
    titles = {item: " ".join(title.split()) for item, title in ODD_TITLES.items()}
    assert [row["output"] for row in rows] == [f'"{titles[target]}"' for target in scores["target"]]
    assert all(row["input"] for row in rows) and any('"long long' in row["input"] for row in rows)
    assert all(len(row["input"]) < 2000 and '"i9"' not in row["input"] for row in rows)
    assert any('"### Response:"' in row["input"] for row in rows)


def test_odd_input_runs_through_with_semantic_ids(odd):
    result = run_on_odd("TIGER", odd, valid_metric="loss", t5_num_layers=1, t5_num_heads=1, t5_d_model=8, t5_d_ff=8)
    assert len(result["selected"]) == 4 and all(0 <= value <= 1 for value in result["test_result"].values())


def test_histories_of_ten_thousand_items_in_benchmark_files(write_benchmark, make_config):
    from recbole_dealrec.data import CandidateSamples, load_splits

    items = [f"i{number % 10 + 1}" for number in range(10_000)]
    path = write_benchmark("deep", {part: [("u", items, "i3")] for part in ("train", "valid", "test")})
    keys = {
        "benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    }  # fmt: skip
    train = load_splits(make_config("deep", path, **keys)).train
    samples = CandidateSamples.from_dataset(train)
    assert train.field2id_token["item_id"][samples.history(0)].tolist() == items[-50:]


def test_a_log_that_cannot_be_written(run_script, movies_path):
    Path("log").write_text("a file where RecBole's folder goes")
    code, lines = run_script("--dataset=movies", f"--data_path={movies_path}", "--title_field=movie_title")
    assert code == 2 and len(lines) == 1 and str(Path("log").absolute()) in lines[0]
