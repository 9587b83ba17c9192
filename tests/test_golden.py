"""What comes out of a small run of every sampler and model, bit for bit, so that moving code about changes nothing.

Sums come out otherwise on other processors and versions, so the values hold where they were written. To write them
anew, delete ``golden.json`` and run this test once, before the change that is not to alter them.
"""

import hashlib
import json
import platform
import re
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from threadpoolctl import threadpool_limits

from recbole_dealrec import compare_samplers
from recbole_dealrec.config.registry import SAMPLERS as REGISTRY
from recbole_dealrec.store.files import read_json

pytestmark = pytest.mark.slow

FILE = Path(__file__).with_name("golden.json")
SAMPLERS = sorted(REGISTRY)
KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 2, "n_fewshot": 32,
    "n_groups": 8, "surrogate_epochs": 2, "surrogate_eval_step": 1, "surrogate_train_batch_size": 64,
    "surrogate_hidden_size": 16, "surrogate_inner_size": 32, "hessian_samples": 32, "MAX_ITEM_LIST_LENGTH": 20,
    "n_surrogates": 2, "train_batch_size": 8, "warmup_steps": 1, "epochs": 1, "n_valid": 20, "n_test": 100,
    "topk": [10, 50], "valid_metric": "loss",
}  # fmt: skip
MODELS = {
    "BIGRec": {"tiny_steps": 20, "num_beams": 10},
    "TIGER": {"t5_d_model": 16, "t5_d_ff": 32, "t5_num_layers": 1, "num_beams": 50, "eval_step": 1},
}


def machine():
    """What bits may depend on."""
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, numpy, transformers))
    cpu = Path("/proc/cpuinfo")
    about = dict(re.findall(r"^(.+?)\s*: (.*)$", cpu.read_text(), re.MULTILINE)) if cpu.is_file() else {}
    processor = [about.get(name, "") for name in ("model name", "cpu family", "model", "stepping")]
    return f"{platform.machine()}, {' '.join(processor)}, {torch.backends.cpu.get_cpu_capability()}, {versions}"


def outcome(run_dir):
    """Checksums of the selection and of the samples as text, and the metrics."""
    result = read_json(Path(run_dir) / "result.json")
    return {
        "selected": hashlib.sha256(json.dumps(result["selected"]).encode()).hexdigest(),
        "fewshot.jsonl": hashlib.sha256((Path(run_dir) / "fewshot.jsonl").read_bytes()).hexdigest(),
        "best_valid_result": result["best_valid_result"],
        "test_result": result["test_result"],
    }


@pytest.mark.parametrize("model", MODELS)
def test_every_sampler_gives_what_it_gave(model, movies_path, tmp_path, monkeypatch):
    known = read_json(FILE) if FILE.is_file() else {}
    if known.get("machine", machine()) != machine():
        pytest.skip(f"{FILE.name} was written on {known['machine']}, this is {machine()}")
    monkeypatch.chdir(tmp_path)
    keys = {**KEYS, **MODELS[model], "data_path": str(movies_path), "checkpoint_dir": str(tmp_path / "saved")}
    with threadpool_limits(1):  # k-means sums in another order with two
        runs = compare_samplers(SAMPLERS, [2020], model=model, dataset="movies", config_dict=keys)["runs"]
    found = {row.sampler: outcome(row.run_dir) for row in runs.itertuples()}
    if model not in known:
        known = {**known, "machine": machine(), model: found}
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        pytest.fail(f"{FILE.name} had nothing of {model}; it has been written")
    assert found == known[model]
