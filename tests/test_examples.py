import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def datasets_are_kept_here(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def run_example(monkeypatch):
    """Runs an example in this process, in the test's folder."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")

    return run


def test_the_samples_train_in_trl(finished_run, run_example, tmp_path):
    run_dir = Path(finished_run("BIGRec")["run_dir"])
    (llm,) = run_dir.parent.glob("tiny-llm-*")
    options = ["--model", llm, "--output", "adapter", "--epochs", 3, "--learning_rate", 0.02]
    run_example("sft_trainer.py", run_dir / "fewshot.jsonl", *options)

    rows = load_dataset("json", data_files=str(run_dir / "fewshot.jsonl"), split="train", cache_dir=str(tmp_path))
    assert rows.column_names == ["instruction", "input", "output", "prompt", "completion"] and len(rows) == 64
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llm), "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)

    def mean_loss():
        losses = []
        for row in rows.select(range(16)):
            prompt = tokenizer(row["prompt"], return_tensors="pt").input_ids
            answer = tokenizer(row["completion"], return_tensors="pt").input_ids
            labels = torch.cat([torch.full_like(prompt, -100), answer], dim=1)
            losses.append(model(torch.cat([prompt, answer], dim=1), labels=labels).loss.item())
        return sum(losses) / len(losses)

    with torch.no_grad(), model.disable_adapter():
        before = mean_loss()
    with torch.no_grad():
        assert mean_loss() < 0.98 * before


@pytest.fixture
def fewshot(checkpoint, ten):
    """``fewshot(kind, **keys)``: recommender and selected samples of a run on a checkpoint, and its fewshot.jsonl."""

    def make(kind, **keys):
        base = {"sampler": "Random", "n_fewshot": 4, "surrogate_valid_metric": "NDCG@3", "topk": [3]}
        config = ten(llm_path=checkpoint(kind), **base, **keys)
        result = run_recbole_dealrec(dataset="ten", config_dict=config.resolved(), last_step="select")
        dataset = load_splits(config).train
        samples = CandidateSamples.from_dataset(dataset, config["samples_per_user"])[result["selected"]]
        return BIGRec(config, dataset), samples, Path(result["run_dir"]) / "fewshot.jsonl"

    return make


KINDS = [("llama", False), ("chat llama", False), ("chat llama", True)]
PAGE = ROOT / "docs" / "how-to" / "train-elsewhere.md"


@pytest.fixture(params=KINDS, ids=["no beginning token", "beginning token", "chat template"])
def learnt(request, fewshot, checkpoint):
    """Folder of a checkpoint, a fewshot.jsonl made with it, and token ids and labels of its samples in a run."""
    kind, chat_template = request.param
    recommender, samples, file = fewshot(kind, chat_template=chat_template)
    batch = recommender.batch([samples.history(row) for row in range(len(samples))], samples.item_id)
    mask = batch["attention_mask"].bool()
    rows = [tuple(batch[name][row, mask[row]].tolist() for name in ("input_ids", "labels")) for row in range(len(mask))]
    assert all(-100 in labels and labels[-1] >= 0 for _, labels in rows)
    return checkpoint(kind), shutil.copy(file, "fewshot.jsonl"), rows


def test_trl_trains_on_the_tokens_of_the_run(learnt):
    llm, file, rows = learnt
    example = runpy.run_path(str(ROOT / "examples" / "sft_trainer.py"))
    trainer = example["make_trainer"](file, llm, "adapter", 1, 1e-4)
    batch = trainer.data_collator(list(trainer.train_dataset))
    mask = batch["attention_mask"].bool()
    names = "input_ids", "labels"
    assert rows == [tuple(batch[name][row, mask[row]].tolist() for name in names) for row in range(len(mask))]


def shown(title, page=PAGE):
    """The text of a block of a page, by its title or first line."""
    return page.read_text(encoding="utf-8").split(f"{title}\n", 1)[1].split("```", 1)[0]


def test_llama_factory_trains_on_the_tokens_of_the_run(learnt):
    data = pytest.importorskip("llamafactory.data")
    arguments = pytest.importorskip("llamafactory.hparams.data_args")
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.data.processor import SupervisedDatasetProcessor

    llm, file, rows = learnt
    Path("dataset_info.json").write_text(shown('json title="dataset_info.json"'))
    keys = yaml.safe_load(shown('yaml title="llamafactory.yaml"'))
    data_args = arguments.DataArguments(**{name: keys[name] for name in ("dataset_dir", "template", "cutoff_len")})
    (attributes,) = get_dataset_list([keys["dataset"]], data_args.dataset_dir)
    samples = load_dataset("json", data_files=attributes.dataset_name, split="train", cache_dir="cache")
    training = SimpleNamespace(local_process_index=0)
    tokenizer = AutoTokenizer.from_pretrained(llm)
    template = data.get_template_and_fix_tokenizer(tokenizer, data_args)
    processor = SupervisedDatasetProcessor(template, tokenizer, None, data_args)
    found = processor.preprocess_dataset(align_dataset(samples, attributes, data_args, training)[:])
    assert rows == list(zip(found["input_ids"], found["labels"], strict=True))


def test_axolotl_trains_on_the_tokens_of_the_run(learnt):
    strategy = pytest.importorskip("axolotl.prompt_strategies.input_output")
    schema = pytest.importorskip("axolotl.utils.schemas.config")
    keys = schema.AxolotlInputConfig(**yaml.safe_load(shown('yaml title="axolotl.yaml"')))
    assert (keys.datasets[0].type, keys.train_on_inputs) == ("input_output", False)
    llm, _, rows = learnt
    exec(shown("```python"), {})
    tokenize = strategy.load(AutoTokenizer.from_pretrained(llm), keys).tokenize_prompt
    found = [tokenize(json.loads(line)) for line in Path(keys.datasets[0].path).read_text().splitlines()]
    assert rows == [(row["input_ids"], row["labels"]) for row in found]


def test_the_messages_are_the_prompt_and_completion(fewshot, checkpoint, run_example, tmp_path):
    llm = checkpoint("chat llama")
    _, _, file = fewshot("chat llama", chat_template=True)
    run_example("sft_trainer.py", file, "--model", llm, "--output", "adapter", "--epochs", 1)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()

    tokenizer = AutoTokenizer.from_pretrained(llm)
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        assert list(row) == ["instruction", "input", "output", "messages", "prompt", "completion"]
        assert tokenizer.apply_chat_template(row["messages"], tokenize=False) == f"{row['prompt']}{row['completion']}\n"
        assert tokenizer.apply_chat_template(row["messages"], tokenize=False) == (
            f"<begin><|turn|>system\n{row['instruction']}<|stop|>\n<|turn|>user\n{row['input']}<|stop|>\n"
            f"<|turn|>assistant\n{row['output']}<|stop|>\n"
        )


def test_the_adapter_in_peft_gives_the_logits_of_the_run(finished_run):
    run_dir = Path(finished_run("BIGRec")["run_dir"])
    config = Config(config_file_list=[run_dir / "config.yaml"])
    dataset = load_splits(config).train
    recommender = BIGRec.restored(config, dataset, run_dir / "adapter")
    recommender.network.eval()
    samples = CandidateSamples.from_dataset(dataset)
    batch = recommender.batch([samples.history(row) for row in range(4)], samples.item_id[:4])

    config = json.loads((run_dir / "adapter" / "adapter_config.json").read_text())
    base = run_dir / "adapter" / config["base_model_name_or_path"]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run_dir / "adapter").eval()
    with torch.no_grad():
        expected, logits = recommender.network(**batch).logits, loaded(**batch).logits
        with loaded.disable_adapter():
            untuned = loaded(**batch).logits
    torch.testing.assert_close(logits, expected)
    assert (untuned - expected).abs().max() > 1e-3


def test_a_package_of_samplers_is_used_by_name(checkpoint, write_dataset, tmp_path):
    source = shutil.copytree(ROOT / "examples" / "sampler_package", tmp_path / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)

    # Training targets of each user: i1, i2 and one of the user's own.
    sequences = {f"u{user}": [f"i{user}", "i1", "i2", f"i{user + 1}", "i1", "i2"] for user in range(3, 9)}
    keys = {
        "dataset": "shop", "data_path": write_dataset("shop", sequences), "sampler": "TargetBalanced", "n_fewshot": 8,
        "samples_per_user": 0, "llm_path": checkpoint("llama"), "epochs": 0, "topk": "[5]", "use_gpu": False,
        "max_new_tokens": 4, "show_progress": False, "surrogate_valid_metric": "NDCG@5",
    }  # fmt: skip
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])

    def run(*options):
        command = [sys.executable, str(ROOT / "run_recbole_dealrec.py"), *options]
        variables = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)

    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(source / "test_target_balanced.py")]
    tested = subprocess.run(tests, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert tested.returncode == 0, tested.stdout

    options = [f"--{key}={keys[key]}" for key in keys]
    assert "--samples_per_turn (int) Samples that a target gives" in " ".join(run("--help", "all").stdout.split())
    refused = run(*options, "--samples_per_turn=0")
    assert refused.returncode == 2 and "'samples_per_turn' has to be a whole number of at least 1" in refused.stderr
    done = run(*options)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("saved/shop-BIGRec-TargetBalanced-*/scores.csv")
    assert "samples_per_turn: 1" in file.with_name("config.yaml").read_text(encoding="utf-8")
    scores = pd.read_csv(file)
    chosen = scores[scores["selected"] == 1]
    assert len(scores) == 18 and len(chosen) == 8
    assert set(chosen["target"]) == {"i1", "i2", *(f"i{user + 1}" for user in range(3, 9))}
    assert chosen["turn"].eq(0).all()
    assert scores.groupby("target")["turn"].apply(lambda turns: sorted(turns) == list(range(len(turns)))).all()


def test_own_data_and_an_own_model(run_example, checkpoint, movies_path, capsys):
    frames = {}
    for name in ("inter", "item"):
        frame = pd.read_csv(movies_path / "movies" / f"movies.{name}", sep="\t", dtype=str, quoting=csv.QUOTE_NONE)
        frames[name] = frame.rename(columns=lambda head: head.partition(":")[0].replace("movie_title", "title"))
    users = frames["inter"]["user_id"]
    frames["inter"] = frames["inter"][users.isin(users.value_counts().index[-24:])]  # with the shortest histories
    for name, frame in frames.items():
        frame.to_csv(f"{name}.csv", index=False)
    run_example("own_data.py", "inter.csv", "item.csv", checkpoint("llama"))
    assert "influence" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("fewshot.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 64 and all(set(row) == {"prompt", "completion"} for row in rows)
    assert all("movie" in row["prompt"] and row["completion"].startswith('"') for row in rows)
