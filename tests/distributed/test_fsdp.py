"""A sharded language model gives what a whole one does, whatever is asked of it, and leaves each process its share."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from recbole.utils import init_seed

from recbole_dealrec import compare_samplers
from recbole_dealrec.config import Config
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, SpareBatch, load_splits, train_loader
from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import TIGER, BIGRec
from recbole_dealrec.model.memory import smaller_helps
from recbole_dealrec.scorer import EffortScorer, LESSScorer, LLMGradientScorer, LLMRepresentationScorer
from recbole_dealrec.store import score_checkpoint
from recbole_dealrec.store.files import read_json
from recbole_dealrec.store.opening import opened, process_folder, synchronize
from recbole_dealrec.store.run_folder import UNFINISHED
from recbole_dealrec.store.score_checkpoint import ScoreCheckpoint
from recbole_dealrec.training.llm_trainer import LLMTrainer

pytestmark = pytest.mark.slow

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 1, "n_fewshot": 13,
    "surrogate_epochs": 1, "hessian_samples": 64, "tiny_steps": 20, "epochs": 3, "train_batch_size": 5,
    "micro_batch_size": 2, "n_valid": 20, "num_beams": 4, "max_new_tokens": 8, "MAX_ITEM_LIST_LENGTH": 20,
    "n_surrogates": 1, "lora_dropout": 0, "tokens_per_batch": 2048, "learning_rate": 0.01, "warmup_steps": 1,
    "topk": [4],
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    """``keys(name, **keys)``: configuration keys of a run with a folder of its own."""
    fixed = {**KEYS, "data_path": str(movies_path)}
    return lambda name, **own: {**fixed, "checkpoint_dir": str(tmp_path / name), **own}


def _sharded(work, *arguments):
    os.environ.update(FSDP)
    return work(*arguments)


def _built(config, splits):
    torch.manual_seed(0)
    llm = BIGRec(config, splits.train)
    for name, parameter in llm.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # zeros would hide lora_A
    fsdp.shard(llm.network, "cpu", config["mixed_precision"])
    return llm


def _asked(keys):
    """What a recommender gives when it is asked for one thing after another, and how much of it this process keeps."""
    config = Config("BIGRec", "movies", config_dict=keys)
    splits = load_splits(config)
    samples = CandidateSamples.from_dataset(splits.train, 1)[np.arange(41)]
    with processes.process_group(cpu=True):
        llm = _built(config, splits)
        parameters = list(llm.network.parameters())
        kept = sum(getattr(value, "_local_tensor", value).numel() for value in parameters)
        answers = {"kept": kept / sum(value.numel() for value in parameters)}
        # An adapter that is switched off before any gradient is asked for still gets its gradients afterwards.
        answers["representations"] = LLMRepresentationScorer(llm).score(samples)
        answers["effort"] = EffortScorer(llm, config).score(samples)
        answers["gradients"] = LLMGradientScorer(llm).score(samples)
        valid = CandidateSamples.from_dataset(splits.valid)[np.arange(9)]
        answers["less"] = LESSScorer(llm, valid).score(samples)
        answers["fingerprint"] = llm.fingerprint()
        llm.eval()
        batches = list(QueryDataLoader(config, splits.test, 30))
        scores = [(batch, llm.full_sort_predict(batch[0]).numpy()) for batch in batches]
        answers["scores"] = [found for batch, found in scores if not isinstance(batch, SpareBatch)]
        return answers


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "tiny"])
@pytest.mark.parametrize("grounding", ["trie", "embedding"])
def test_all_that_a_recommender_is_asked_for(together, keys, checkpoint, kind, grounding):
    targets = {"gpt2": ["c_attn", "lm_head"], "tiny": ["q_proj"]}.get(kind, ["q_proj", "v_proj"])
    own = {
        "llm_path": kind if kind == "tiny" else checkpoint(kind), "lora_target_modules": targets,
        "grounding": grounding, "eval_batch_size": 4, "effort_parameters": "last" if grounding == "trie" else "all",
    }  # fmt: skip
    (whole,) = together(1, _asked, keys("whole", **own))
    sharded = together(2, _sharded, _asked, keys("sharded", **own))
    assert whole["kept"] == 1
    for number, answers in enumerate(sharded):
        assert 0.4 < answers["kept"] < 0.6
        np.testing.assert_allclose(answers["representations"], whole["representations"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answers["effort"], whole["effort"], rtol=1e-5)
        np.testing.assert_allclose(answers["gradients"], whole["gradients"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(answers["less"], whole["less"], atol=1e-2)
        assert answers["fingerprint"] == whole["fingerprint"]
        expected = whole["scores"][number::2]
        assert len(answers["scores"]) == len(expected) == 4
        for found, scores in zip(answers["scores"], expected, strict=True):
            np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)


class Interrupted(Exception):
    pass


def _adapter(llm):
    trained = [(name, value) for name, value in llm.network.named_parameters() if value.requires_grad]
    return {name: fsdp.full_tensor(value.detach()).numpy().copy() for name, value in trained}


def _trained(keys):
    """Adapters: after training, as saved and loaded, and after training that went on from its last epoch."""
    config = Config("BIGRec", "movies", config_dict=keys)
    splits = load_splits(config)
    valid_data = QueryDataLoader(config, splits.valid, 3)

    def fit(llm, name, interrupted=False):
        init_seed(0, True)
        trainer, step = LLMTrainer(config, llm, folder, name), LLMTrainer._step

        def until_the_last_epoch(interaction):
            if trainer._place[0] == 2:
                raise Interrupted
            return step(trainer, interaction)

        if interrupted:
            trainer._step = until_the_last_epoch
        trainer.fit(train_loader(config, splits.train, np.arange(13)), valid_data)
        return trainer

    with processes.process_group(cpu=True), opened(Path(keys["checkpoint_dir"])) as folder:
        whole = _built(config, splits)
        curve = fit(whole, "whole").curve
        adapters = [_adapter(whole)]
        synchronize(folder)
        whole.load(folder / "whole")
        adapters.append(_adapter(whole))
        with pytest.raises(Interrupted):
            fit(_built(config, splits), "interrupted", interrupted=True)
        synchronize(folder)
        going_on = _built(config, splits)
        assert fit(going_on, "interrupted").start_epoch == 2
        return curve, [*adapters, _adapter(going_on)]


@pytest.mark.parametrize("count", [2, 3])
def test_training_goes_on_and_ends_as_with_one_process(together, keys, checkpoint, count):
    own = {"llm_path": checkpoint("llama"), "eval_batch_size": 2, "clip_grad_norm": {"max_norm": 0.5}}
    ((expected, (whole, best, resumed)),) = together(1, _trained, keys("whole", **own))
    for curve, adapters in together(count, _sharded, _trained, keys("sharded", **own)):
        np.testing.assert_allclose(curve.train_loss, expected.train_loss, rtol=1e-5)
        np.testing.assert_allclose(curve.valid_result["loss"], expected.valid_result["loss"], rtol=1e-5)
        for found, reference in zip(adapters, (whole, best, resumed), strict=True):
            for name, value in reference.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)


def _compared(keys):
    samplers = ["TF-DCon", "GORACS", "EffortOnly"]
    return compare_samplers(samplers, dataset="movies", config_dict={**keys, "yardsticks": False})["runs"]


def test_a_comparison_with_a_sharded_model(together, keys):
    own = {"epochs": 1, "eval_batch_size": 7, "valid_metric": "NDCG@4"}
    (whole,) = together(1, _compared, keys("whole", **own))
    sharded, _ = together(2, _sharded, _compared, keys("sharded", **own))
    for found, expected in zip(sharded["run_dir"], whole["run_dir"], strict=True):
        found, expected = (read_json(Path(folder) / "result.json") for folder in (found, expected))
        assert found["selected"] == expected["selected"]
        assert found["best_valid_result"] == pytest.approx(expected["best_valid_result"], abs=0.051)  # 1 of 20 queries
        assert found["test_result"] == pytest.approx(expected["test_result"], abs=0.011)  # 1 of 100 and rounding


@pytest.mark.parametrize(
    "variables, key, message",
    [
        ({"FSDP_VERSION": "1"}, {}, "write fsdp_version: 2"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, {}, "write fsdp_reshard_after_forward: true"),
        ({}, {"llm_quantization": "4bit"}, "use either llm_quantization or FSDP"),
    ],
)
def test_what_cannot_be_sharded(ten, monkeypatch, variables, key, message):
    for name, value in {**FSDP, **variables, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        BIGRec.check(ten(llm_path="tiny", **key))
    with pytest.raises(InputError, match="leave out FSDP"):
        TIGER.check(ten(model="TIGER"))


@pytest.mark.parametrize("file", sorted(properties_folder().glob("accelerate/*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_configurations(file):
    read = load_config_from_file(str(file))
    assert read.num_processes >= 2 and read.mixed_precision == "no"
    sharded = file.stem.startswith("fsdp")
    assert read.distributed_type == ("FSDP" if sharded else "MULTI_GPU")
    if sharded:
        assert (read.fsdp_config["fsdp_version"], read.fsdp_config["fsdp_reshard_after_forward"]) == (2, True)


def _a_smaller_batch_helps():
    with processes.process_group(cpu=True):
        return smaller_helps(MemoryError()), processes.on_main(lambda: smaller_helps(MemoryError()))


def test_a_pass_that_others_wait_in_is_not_tried_again(together):
    assert smaller_helps(MemoryError())
    assert together(2, _sharded, _a_smaller_batch_helps) == [(False, True)] * 2


def _filled(path, samples):
    """Scores twice, where the second time one process has kept all of its share and the other nothing."""
    batches = [(rows, rows) for rows in np.array_split(np.arange(len(samples)), 7)]
    computed = []

    def compute(rows):
        processes.gather(None)  # as a sharded model would
        computed.append(len(rows))
        return rows * 2.0

    with processes.process_group(cpu=True), opened(path) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_checkpoint, "_SECONDS", -1)  # every batch is written
        patch.setattr(score_checkpoint, "_WRITING_SHARE", np.inf)
        for again in (False, True):
            if again and not processes.is_main():
                process_folder(folder).discard(f"x.npz{UNFINISHED}")
            scores = ScoreCheckpoint(folder).score("x", samples.rows, iter(batches), compute)
            np.testing.assert_array_equal(scores, np.arange(len(samples)) * 2.0)
        return len(computed)


def test_scoring_goes_on_from_what_each_process_kept(together, ten, tmp_path):
    samples = CandidateSamples.from_dataset(load_splits(ten()).train)
    # Of 7 batches the first process has 4; the second time it repeats one for each of the other's 3.
    assert together(2, _sharded, _filled, tmp_path / "run", samples) == [4 + 3, 4 + 3]


def _in_step(counts):
    with processes.process_group(cpu=True):
        items = [(processes.rank(), place) for place in range(counts[processes.rank()])]
        return list(fsdp.in_lockstep(iter(items), lambda: "spare"))


def test_processes_take_as_many_steps_as_the_one_with_most(together):
    counts = [2, 0, 3]
    own = [[((number, place), True) for place in range(count)] for number, count in enumerate(counts)]
    assert together(3, _in_step, counts) == own
    assert together(3, _sharded, _in_step, counts) == [
        [((0, 0), True), ((0, 1), True), ((0, 1), False)],
        [("spare", False)] * 3,
        [((2, 0), True), ((2, 1), True), ((2, 2), True)],
    ]
