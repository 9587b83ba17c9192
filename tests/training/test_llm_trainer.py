"""Fine-tuning in RecBole's loop, what it keeps, and how it goes on after an interruption."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.scorer import EffortScorer
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import records, step
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.training.safetensors_trainer import rate_share

FINE_TUNING = {
    "epochs": 2, "train_batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.01, "warmup_steps": 1,
    "lora_dropout": 0.0, "shuffle": False, "max_new_tokens": 4,
}  # fmt: skip


@pytest.fixture
def trainer(bigrec, tmp_path):
    def make(name="adapter", **keys):
        model, splits = bigrec(**{**FINE_TUNING, **keys})
        rows = np.arange(min(8, len(splits.train)))
        train_data = train_loader(model.config, splits.train, rows)
        valid_data = QueryDataLoader(model.config, splits.valid)
        return LLMTrainer(model.config, model, RunFolder(tmp_path), name), train_data, valid_data

    return make


def adapter_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.network.named_parameters() if p.requires_grad}


def test_only_lora_is_trained_and_saved(trainer, tmp_path):
    trainer, train_data, valid_data = trainer()
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    before = adapter_of(trainer)
    trainer.fit(train_data, valid_data)
    assert all(torch.equal(p, frozen[name]) for name, p in trainer.model.named_parameters() if not p.requires_grad)
    assert all(not torch.equal(p, before[name]) for name, p in adapter_of(trainer).items())
    files = sorted(file.name for file in tmp_path.glob("adapter/*"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files) <= {*files, "README.md"}
    assert all("lora_" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


def test_the_step_is_the_same_however_a_batch_is_cut(trainer):
    adapters = []
    for micro_batch_size in (1, 3, 4):
        run, train_data, valid_data = trainer(micro_batch_size=micro_batch_size, learner="sgd")
        run.fit(train_data, valid_data)
        adapters.append(adapter_of(run))
    for other in adapters[1:]:
        for name, value in adapters[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-4)


def test_each_run_of_a_process_has_its_own_precision(trainer):
    for precision in ("no", "bf16", "no"):
        run, *_ = trainer(mixed_precision=precision)
        assert run.accelerator.mixed_precision == precision


def test_mixed_precision_is_of_fine_tuning_and_evaluation(trainer):
    run, train_data, valid_data = trainer(mixed_precision="bf16", topk=[2])
    llm, seen = run.model, set()
    projection = next(module for name, module in llm.network.named_modules() if name.endswith("q_proj"))
    projection.register_forward_hook(lambda _module, _args, output: seen.add(output.dtype))
    run.fit(train_data, valid_data)
    assert seen == {torch.bfloat16}
    seen.clear()
    samples = CandidateSamples.from_dataset(valid_data._dataset)
    EffortScorer(llm, llm.config).score(samples)
    assert llm.embed_titles(["Alpha"]).dtype == torch.float32 and seen == {torch.float32}
    assert llm.item_embeddings.dtype == torch.float32
    run.evaluate(valid_data)
    assert seen == {torch.float32, torch.bfloat16}  # what is written is embedded as the titles are


@pytest.mark.parametrize("at", [1, 2])
def test_fine_tuning_goes_on_with_smaller_passes(trainer, monkeypatch, caplog, at):
    expected, train_data, valid_data = trainer("whole", learner="sgd")
    expected.fit(train_data, valid_data)
    run, train_data, valid_data = trainer("run", learner="sgd")
    calls, calculate = [], run.model.calculate_loss

    def limited(part):
        calls.append(len(part))
        if len(part) > 2 and len(calls) >= at:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return calculate(part)

    monkeypatch.setattr(run.model, "calculate_loss", limited)
    run.fit(train_data, valid_data)
    assert "micro_batch_size is 2 from now on" in caplog.text and max(calls[at:]) == 2
    for name, value in adapter_of(expected).items():
        torch.testing.assert_close(adapter_of(run)[name], value, atol=1e-6, rtol=1e-4)


def test_samples_of_similar_length_share_a_forward_pass(trainer, monkeypatch):
    run, train_data, _ = trainer(train_batch_size=8, micro_batch_size=2)
    (batch,) = train_data
    lengths = batch[run.model.ITEM_SEQ_LEN].tolist()
    assert lengths != sorted(lengths)
    seen, calculate = [], run.model.calculate_loss

    def watched(part):
        seen.extend(part[run.model.ITEM_SEQ_LEN].tolist())
        return calculate(part)

    monkeypatch.setattr(run.model, "calculate_loss", watched)
    run._step(batch)
    assert seen == sorted(lengths)


def test_the_rate_rises_to_the_peak_and_falls_and_is_never_zero(trainer):
    run, train_data, valid_data = trainer(epochs=3, warmup_steps=2)
    rates = []
    original = run._step

    def watched(interaction):
        rates.append(run.optimizer.param_groups[0]["lr"])
        return original(interaction)

    run._step = watched
    run.fit(train_data, valid_data)
    assert len(rates) == 6 and rates == pytest.approx([0.005, 0.01, 0.008, 0.006, 0.004, 0.002])


@pytest.mark.parametrize(
    ("warmup", "shares"),
    [(0, [1, 0.75, 0.5, 0.25]), (1, [1, 0.75, 0.5, 0.25]), (3, [1 / 3, 2 / 3, 1, 0.5]), (9, [0.25, 0.5, 0.75, 1])],
)
def test_the_rise_ends_at_the_peak(warmup, shares):
    assert [rate_share(step, warmup, 4) for step in range(4)] == pytest.approx(shares)
    assert rate_share(0, warmup, 1) == 1


def test_the_only_step_changes_the_weights(trainer):
    run, train_data, valid_data = trainer(epochs=1, train_batch_size=8, warmup_steps=20)
    before = adapter_of(run)
    run.fit(train_data, valid_data)
    assert len(train_data) == 1
    assert any(not torch.equal(value, before[name]) for name, value in adapter_of(run).items())


def test_validation_loss_is_the_mean_over_all_pairs(trainer):
    run, _, valid_data = trainer()
    samples = CandidateSamples.from_dataset(valid_data._dataset)
    losses = run.model.eval().sample_losses(samples.interaction(run.config, np.arange(len(samples))))
    score, result = run._valid_epoch(valid_data)
    assert score == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result == {"loss": score}


def test_the_best_adapter_by_loss_is_kept(trainer):
    run, train_data, valid_data = trainer(epochs=8, learning_rate=3.0, stopping_step=1)
    seen = []
    run.fit(train_data, valid_data, callback_fn=lambda epoch, score: seen.append(score))
    assert len(seen) < 8 or seen[-1] > min(seen)  # so large a rate overshoots
    assert run.best_valid_score == min(seen)
    run.load(run.saved_model_file)
    assert run._valid_epoch(valid_data)[0] == pytest.approx(min(seen), rel=1e-5)


def test_the_curve_holds_every_epoch_and_every_evaluation(trainer):
    run, train_data, valid_data = trainer(epochs=4, eval_step=2)
    seen = []
    run.fit(train_data, valid_data, callback_fn=lambda epoch, score: seen.append((epoch, score)))
    assert run.curve.train_loss == [run.train_loss_dict[epoch] for epoch in range(4)]
    assert list(zip(run.curve.valid_epoch, run.curve.valid_result["loss"], strict=True)) == seen and len(seen) == 2
    assert run.summary()["best_valid_result"] == {"loss": min(score for _, score in seen)}


def test_a_metric_can_stop_training(trainer):
    run, train_data, valid_data = trainer(valid_metric="NDCG@5", grounding="trie", topk=[5])
    score, result = run.fit(train_data, valid_data)
    assert score == result["ndcg@5"]
    assert set(result) == {"recall@5", "ndcg@5"}


def test_no_epoch_keeps_the_fresh_adapter(trainer):
    run, train_data, valid_data = trainer(epochs=0)
    before = adapter_of(run)
    run.fit(train_data, valid_data)
    run.load(run.saved_model_file)
    assert all(torch.equal(p, before[name]) for name, p in adapter_of(run).items())


def test_the_adapter_folder_names_its_base_model(trainer, checkpoint, tmp_path):
    run, train_data, valid_data = trainer(epochs=1)
    run.fit(train_data, valid_data)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == checkpoint("llama")
    assert saved["r"] == 8 and saved["lora_alpha"] == 16 and sorted(saved["target_modules"]) == ["q_proj", "v_proj"]


class Killed(BaseException):
    pass


def killed_in(run, method, call, monkeypatch):
    """Makes the given call of a method the one that never returns."""
    calls, original = [], getattr(run, method)

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(run, method, wrapped)


def test_fine_tuning_that_was_interrupted_ends_as_it_would_have(trainer, monkeypatch):
    keys = {"epochs": 5, "lora_dropout": 0.2, "shuffle": True, "stopping_step": 1, "learning_rate": 0.02}
    whole, train_data, valid_data = trainer("whole", **keys)
    torch.manual_seed(0)
    expected = whole.fit(train_data, valid_data)
    adapter = load_file(whole.folder / "whole" / "adapter_model.safetensors")
    for name, method, call in (
        ("in the first epoch", "_step", 2),
        ("in a later epoch", "_step", 5),
        ("in validation", "_valid_epoch", 3),
        ("while the best is saved", "_save_checkpoint", 2),
    ):
        run, train_data, valid_data = trainer(name, **keys)
        killed_in(run, method, call, monkeypatch)
        torch.manual_seed(0)
        with pytest.raises(Killed):
            run.fit(train_data, valid_data)
        again, train_data, valid_data = trainer(name, **keys)
        torch.manual_seed(99 if call > 2 else 0)  # what was drawn meanwhile does not matter
        assert again.fit(train_data, valid_data) == expected, name
        assert again.curve == whole.curve, name
        resumed = load_file(again.folder / name / "adapter_model.safetensors")
        assert all(torch.equal(resumed[key], value) for key, value in adapter.items()), name


def test_fine_tuning_that_was_interrupted_costs_what_it_would_have(trainer, monkeypatch):
    steps = []
    monkeypatch.setattr(step_module, "perf_counter", lambda: len(steps))

    def seconds(name, killed_at=None):
        run, train_data, valid_data = trainer(name, epochs=3)
        killed_in(run, "_valid_epoch", killed_at, monkeypatch)
        original = run._step
        monkeypatch.setattr(run, "_step", lambda interaction: steps.append(None) or original(interaction))
        with step(run.folder, name):
            run.fit(train_data, valid_data)
        return records(run.folder)[name]["seconds"]

    expected = seconds("whole")
    for killed_at in (1, 2, 3):
        with pytest.raises(Killed):
            seconds(str(killed_at), killed_at)
        assert seconds(str(killed_at)) == expected == 3 * (expected // 3) > 0


def test_a_watched_training_keeps_no_state(trainer):
    run, train_data, valid_data = trainer()
    run.fit(train_data, valid_data, callback_fn=lambda epoch, score: None)
    assert not list(run.folder.path.glob("*.state*"))


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_an_evaluation_that_was_interrupted_ends_as_it_would_have(trainer, monkeypatch, killed_at):
    keys = {"eval_batch_size": 1, "topk": [1, 2], "metrics": ["Recall", "MRR", "GAUC"]}
    keys |= {"valid_metric": "MRR@2", "epochs": 0}
    monkeypatch.setattr("recbole_dealrec.training.llm_trainer._SECONDS", -1)
    queries = []
    monkeypatch.setattr(step_module, "perf_counter", lambda: len(queries))

    def test(folder, kill=None, batch_size=1):
        run, train_data, valid_data = trainer(folder, **{**keys, "eval_batch_size": batch_size})
        run.fit(train_data, valid_data)
        predicted, predict = [], run.model.full_sort_predict

        def killed(interaction):
            predicted.append(len(interaction))
            if len(predicted) == kill:
                raise Killed
            queries.extend(range(len(interaction)))
            return predict(interaction)

        monkeypatch.setattr(run.model, "full_sort_predict", killed)
        if kill:
            with pytest.raises(Killed), step(run.folder, "evaluation"):
                run.test(valid_data)
            return None, predicted
        with step(run.folder, "evaluation"):
            result = run.test(valid_data)
        # One for each query, whoever answered it.
        assert records(run.folder)["evaluation"]["seconds"] == len(valid_data.positives)
        run.folder.discard_unfinished()
        return result, predicted

    whole, predicted = test("whole")
    assert len(predicted) >= 4
    test("run", kill=killed_at)
    resumed, rest = test("run")
    assert resumed == whole and len(rest) == len(predicted) - (killed_at - 1)
    # What was kept of batches of another size is of no use.
    test("other", kill=killed_at)
    resumed, rest = test("other", batch_size=3)
    assert resumed == pytest.approx(whole) and sum(rest) == len(predicted)


def test_an_altered_state_is_not_used(trainer, monkeypatch, caplog):
    whole, train_data, valid_data = trainer("whole", epochs=3)
    expected = whole.fit(train_data, valid_data)
    run, train_data, valid_data = trainer("run", epochs=3)
    killed_in(run, "_valid_epoch", 3, monkeypatch)
    with pytest.raises(Killed):
        run.fit(train_data, valid_data)
    state = run.folder / "run.state.unfinished"
    state.write_bytes(state.read_bytes()[:-1])
    again, train_data, valid_data = trainer("run", epochs=3)
    assert "run.state.unfinished: missing, or altered" in caplog.text
    assert again.fit(train_data, valid_data) == expected and again.start_epoch == 0


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_best(trainer, monkeypatch):
    run, train_data, valid_data = trainer(epochs=3)
    calls, calculate = [], run.model.calculate_loss

    def diverging(part):
        calls.append(part)
        return calculate(part) * (float("inf") if len(calls) == 4 else 1)

    monkeypatch.setattr(run.model, "calculate_loss", diverging)
    with pytest.raises(
        InputError, match=r"adapter: the loss is not finite in epoch 1, forward pass 2, .* lower"
    ) as error:
        run.fit(train_data, valid_data)
    users, items = calls[3]["user_id"].tolist(), calls[3]["item_id"].tolist()
    assert all(f"{user}/{item}" in str(error.value) for user, item in zip(users, items, strict=True))
    assert RunFolder(run.folder.path).has("adapter")
