"""Datasets of a few lines, a part of ml-100k, and configurations that stay inside the test's folder."""

import json
import multiprocessing
import os
import queue
import runpy
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import recbole
import tokenizers
import tokenizers.decoders
import tokenizers.models
import tokenizers.pre_tokenizers
import tokenizers.processors
import tokenizers.trainers
import torch
import transformers

from recbole_dealrec.config import Config
from recbole_dealrec.data import load_splits
from recbole_dealrec.model.checkpoint import checkpoint_contents
from recbole_dealrec.store.names import Folders
from recbole_dealrec.training.llm_trainer import LLMTrainer

torch.set_num_threads(1)  # before any fixture: sums come out otherwise with two

# A leading quote, a word that pandas reads as missing, equal titles, braces, commas.
TEN_TITLES = {
    "i1": "Alpha",
    "i2": '"Beta" Returns',
    "i3": "NA",
    "i4": "Delta, The",
    "i5": "Twin",
    "i6": "Twin",
    "i7": "{history}",
    "i8": "Theta: Part 2",
    "i9": "Iota",
    "i10": "Kappa (1996)",
}
TEN_SEQUENCES = {
    "u1": ["i1", "i2", "i3", "i4", "i5"],
    "u2": ["i2", "i4", "i6", "i8"],
    "u3": ["i9", "i7", "i5"],
    "u4": ["i10", "i1", "i10", "i2", "i10", "i3", "i6", "i9"],
    "u5": ["i3", "i5", "i7", "i9", "i1", "i8"],
}
# One user and history stand on two lines of the validation part and on three of the test part.
SPLIT_ROWS = {
    "train": [
        ("u1", ["i1"], "i2"),
        ("u1", ["i1", "i2"], "i3"),
        ("u2", ["i4", "i5", "i6"], "i7"),
        ("u3", ["i8"], "i9"),
        ("u3", ["i8", "i9"], "i10"),
    ],
    "valid": [
        ("u1", ["i1", "i2", "i3"], "i4"),
        ("u2", ["i4", "i5", "i6", "i7"], "i1"),
        ("u1", ["i1", "i2", "i3"], "i6"),
    ],
    "test": [
        ("u1", ["i1", "i2", "i3", "i4"], "i5"),
        ("u2", ["i4", "i5", "i6", "i7", "i1"], "i2"),
        ("u1", ["i1", "i2", "i3", "i4"], "i9"),
        ("u3", ["i8", "i9", "i10"], "i2"),
        ("u1", ["i1", "i2", "i3", "i4"], "i10"),
    ],
}


def _write_lines(file: Path, lines) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_titles(folder: Path, name: str, titles) -> None:
    rows = [f"{item}\t{title}" for item, title in titles.items()]
    _write_lines(folder / name / f"{name}.item", ["item_id:token\ttitle:token_seq", *rows])


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """RecBole writes ./log."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.fixture
def write_dataset(tmp_path):
    """Writes ``<name>.inter`` and ``<name>.item`` for sequences by user, newest line first; returns the data path."""

    def write(name, sequences, titles=None):
        rows = [
            f"{user}\t{item}\t{1000 + 10 * place}"
            for user, items in sequences.items()
            for place, item in reversed(list(enumerate(items)))
        ]
        _write_lines(tmp_path / name / f"{name}.inter", ["user_id:token\titem_id:token\ttimestamp:float", *rows])
        used = {item: f"title of {item}" for items in sequences.values() for item in items}
        _write_titles(tmp_path, name, titles or used)
        return tmp_path

    return write


@pytest.fixture
def write_benchmark(tmp_path):
    """Writes ``<name>.<part>.inter`` for rows (user, history, target) by part; returns the data path."""

    def write(name, parts, titles=None):
        for part, rows in parts.items():
            lines = [f"{user}\t{' '.join(history)}\t{item}" for user, history, item in rows]
            header = "user_id:token\titem_id_list:token_seq\titem_id:token"
            _write_lines(tmp_path / name / f"{name}.{part}.inter", [header, *lines])
        _write_titles(tmp_path, name, titles or TEN_TITLES)
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def every_step_changes_weights(monkeypatch):
    """A step of fine-tuning that changes no weight is an error in every test."""
    original = LLMTrainer._step

    def watched(trainer, interaction):
        before = [parameter.detach().clone() for parameter in trainer._trained]
        loss = original(trainer, interaction)
        assert not all(map(torch.equal, before, trainer._trained)), "the step has changed no weight"
        return loss

    monkeypatch.setattr(LLMTrainer, "_step", watched)


BENCHMARK_KEYS = {
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    "alias_of_item_id": ["item_id_list"],
}


@pytest.fixture
def make_config(tmp_path):
    """``make_config(dataset, data_path, **keys)``: a BIGRec configuration on the CPU that writes under tmp_path."""

    def make(dataset, data_path, /, *, model="BIGRec", **keys):
        fixed = {
            "data_path": str(data_path),
            "checkpoint_dir": str(tmp_path / "saved"),
            "show_progress": False,
            "use_gpu": False,
        }
        return Config(model, dataset, config_dict={**fixed, **keys})

    return make


@pytest.fixture
def folders(tmp_path):
    """``folders(config)``: the folders of a run of this configuration on the data that it names."""

    def make(config):
        contents = {**load_splits(config).contents, **checkpoint_contents(config)}
        return Folders.of(config, contents, tmp_path)

    return make


@pytest.fixture
def ten(write_dataset, make_config):
    """``ten(**keys)``: configuration of the ten-item catalogue, whose files are written."""
    path = write_dataset("ten", TEN_SEQUENCES, TEN_TITLES)
    return lambda **keys: make_config("ten", path, **keys)


@pytest.fixture
def split(write_benchmark, make_config):
    """``split(**keys)``: configuration of the ten-item benchmark files, which are written."""
    path = write_benchmark("split", SPLIT_ROWS)
    return lambda **keys: make_config("split", path, **{**BENCHMARK_KEYS, **keys})


@pytest.fixture(scope="session")
def movies_path(tmp_path_factory):
    """Data path of ``movies``: the first 200 users of ml-100k, with the titles of the whole catalogue."""
    path = tmp_path_factory.mktemp("data")
    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    header, *rows = (source / "ml-100k.inter").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.split("\t")[0]) <= 200]
    _write_lines(path / "movies" / "movies.inter", [header, *kept])
    items = (source / "ml-100k.item").read_text(encoding="utf-8").splitlines()
    _write_lines(path / "movies" / "movies.item", items)
    return path


@pytest.fixture(scope="session")
def forkserver():
    """Starts processes with everything imported, and with one thread: sums come out otherwise with two."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recbole_dealrec.quick_start"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        process = context.Process()  # starts the server
        process.start()
        process.join()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1])  # what runs in them may stand in a module of tests
        yield context


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def free_port():
    """``free_port()``: a port of this machine that nothing listens at."""
    return _free_port


def _worker(number, count, port, results, work, arguments):
    variables = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    results.put((number, work(*arguments)))


@pytest.fixture(scope="session")
def together(forkserver):
    """``together(count, work, *arguments)``: what ``work`` returns in each of several processes of one run."""

    def run(count, work, *arguments):
        port, results = _free_port(), forkserver.Queue()
        started = [
            forkserver.Process(target=_worker, args=(number, count, port, results, work, arguments), daemon=True)
            for number in range(count)
        ]
        for process in started:
            process.start()
        returned = {}
        while len(returned) < count:
            with suppress(queue.Empty):
                returned.update([results.get(timeout=1)])
            assert not any(process.exitcode for process in started)
        for process in started:
            process.join()
            assert process.exitcode == 0
        return [returned[number] for number in range(count)]

    return run


@pytest.fixture
def movies(movies_path, make_config):
    """``movies(**keys)``: configuration of the part of ml-100k."""
    return lambda **keys: make_config("movies", movies_path, **{"title_field": "movie_title", **keys})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """``checkpoint(kind)``: folder of a small random causal LM with a tokenizer that has no padding token."""
    folders = {}

    def make(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("checkpoints") / kind
            _save_checkpoint(kind, folders[kind])
        return str(folders[kind])

    return make


# By what each does with the system's message; all end a turn with another token than <end>.
CHAT_TEMPLATES = {
    "system": """\
{{ bos_token }}{% for message in messages %}<|turn|>{{ message['role'] }}
{{ message['content'] }}<|stop|>
{% endfor %}{% if add_generation_prompt %}<|turn|>assistant
{% endif %}""",
    "no system": """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
<|turn|>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] | trim }}<|stop|>
{% endfor %}{% if add_generation_prompt %}<|turn|>model
{% endif %}""",
    "system left out": """\
{% for message in messages if message['role'] != 'system' %}<|turn|>{{ message['content'] }}<|stop|>{% endfor %}\
{% if add_generation_prompt %}<|turn|>{% endif %}""",
    "user left out": """\
{% for message in messages if message['role'] != 'user' %}<|turn|>{{ message['content'] }}<|stop|>{% endfor %}\
{% if add_generation_prompt %}<|turn|>{% endif %}""",
}


@pytest.fixture
def chat_checkpoint(checkpoint, tmp_path):
    """``chat_checkpoint(template)``: a small random Llama with a chat template, by its name or as it is."""

    def make(template):
        folder = shutil.copytree(checkpoint("chat llama"), tmp_path / "chat", dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATES.get(template, template), encoding="utf-8")
        return str(folder)

    return make


def _save_checkpoint(kind, folder):
    specials = ["<begin>", "<|turn|>", "<|stop|>"] if kind == "chat llama" else []
    texts = [f'"{title}"' for title in TEN_TITLES.values()] + ["A user has chosen the items below, the latest last."]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>", *specials], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    if specials:
        begin = ("<begin>", backend.token_to_id("<begin>"))
        backend.post_processor = tokenizers.processors.TemplateProcessing("<begin> $A", special_tokens=[begin])
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<end>", bos_token="<begin>"
        )
        tokenizer.chat_template = CHAT_TEMPLATES["system"]
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    gpt2 = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 0, "bos_token_id": 0}
    configuration = {
        "llama": lambda: transformers.LlamaConfig(**sizes),
        "chat llama": lambda: transformers.LlamaConfig(**sizes),
        "wide llama": lambda: transformers.LlamaConfig(**{**sizes, "hidden_size": 64}),  # blocks of 64 are quantised
        "qwen2": lambda: transformers.Qwen2Config(**sizes),
        "mistral": lambda: transformers.MistralConfig(**sizes),
        "gpt2": lambda: transformers.GPT2Config(**gpt2),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(configuration)
    # Random weights hardly prefer one token; larger ones make orders that rounding does not change.
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def write_gguf():
    """``write_gguf(folder, file)``: a checkpoint folder of a Llama as a GGUF file, by the package gguf's own writer."""
    return _write_gguf


def _permuted(weight, heads):
    """Rows in the order that llama.cpp keeps queries and keys in."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _write_gguf(folder, file, architecture="llama", left_out=()):
    """Write a checkpoint folder of a Llama as a GGUF file of 32-bit numbers; its path."""
    import gguf

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = json.loads((Path(folder) / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    tokenizer = json.loads((Path(folder) / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token == "<end>" else kinds.NORMAL for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, value in model.state_dict().items():
        weight = value.numpy()
        if ".q_proj." in name or ".k_proj." in name:
            weight = _permuted(weight, heads if ".q_proj." in name else kv_heads)
        if name not in left_out:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(file)


@pytest.fixture
def write_yaml(tmp_path):
    """``write_yaml(name, text)``: a file in the test's folder; its path."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def run_script(monkeypatch, capsys):
    """``run_script(*arguments)``: exit code and lines of error output of the script, run in this process."""
    script = Path(__file__).parents[1] / "run_recbole_dealrec.py"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


TARGETS = {"gpt2": ["c_attn"]}


@pytest.fixture
def bigrec(ten, checkpoint):
    """``bigrec(kind, **keys)``: BIGRec on the ten-item catalogue around a small random checkpoint, and its splits."""

    def make(kind="llama", **keys):
        from recbole_dealrec.data import load_splits
        from recbole_dealrec.model import BIGRec

        targets = TARGETS.get(kind, ["q_proj", "v_proj"])
        config = ten(**{"llm_path": checkpoint(kind), "lora_target_modules": targets, "num_beams": 20, **keys})
        splits = load_splits(config)
        torch.manual_seed(0)
        return BIGRec(config, splits.train), splits

    return make


TINY_T5 = {"t5_num_layers": 2, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 4, "t5_d_ff": 24}


@pytest.fixture
def tiger(ten):
    """``tiger(**keys)``: TIGER on the ten-item catalogue with a small random T5, and its splits."""

    def make(**keys):
        from recbole_dealrec.data import load_splits
        from recbole_dealrec.model import TIGER

        config = ten(model="TIGER", **{**TINY_T5, "num_beams": 20, **keys})
        splits = load_splits(config)
        torch.manual_seed(0)
        model = TIGER(config, splits.train)
        for parameter in model.network.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        return model, splits

    return make


@pytest.fixture
def randomise_adapter():
    """Gives LoRA's second matrices, which start at zero, values that make the adapter matter."""

    def randomise(network):
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)

    return randomise


RUN_KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "sampler": "Random", "n_fewshot": 64,
    "epochs": 2, "n_valid": 20, "MAX_ITEM_LIST_LENGTH": 20,
}  # fmt: skip
MODEL_KEYS = {
    "BIGRec": {"tiny_steps": 20, "num_beams": 4},
    "TIGER": {**TINY_T5, "max_history_items": 5},
}


@pytest.fixture(scope="session")
def finished_run(movies_path, tmp_path_factory):
    """``finished_run(model)``: result of a run on ``movies``, kept by itself in a folder; copy it to change it."""
    from recbole_dealrec import run_recbole_dealrec

    results = {}

    def run(model):
        if model not in results:
            paths = {"data_path": str(movies_path), "checkpoint_dir": str(tmp_path_factory.mktemp(model))}
            results[model] = run_recbole_dealrec(
                model, "movies", config_dict={**RUN_KEYS, **MODEL_KEYS[model], **paths}
            )
        return results[model]

    return run
