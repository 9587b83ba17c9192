"""TIGER against teacher forcing of every ID, and against a plain beam search over a dictionary of prefixes."""

import json

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import TIGER
from recbole_dealrec.model.tiger import tiger as tiger_module
from recbole_dealrec.scorer import EffortScorer
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import LLMTrainer

# Prefixes that items share, and IDs that differ in the last code alone.
IDS = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 2, 0], [1, 0, 1, 0],
       [1, 0, 1, 1], [1, 0, 1, 2], [2, 2, 1, 0], [2, 0, 0, 0], [3, 1, 2, 0]]  # fmt: skip


@pytest.fixture
def planted(tiger, monkeypatch):
    """``planted(**keys)``: TIGER whose ten items have the IDs above, in evaluation mode, and its splits."""

    def make(**keys):
        monkeypatch.setattr(tiger_module, "catalogue_ids", lambda config, titles: np.array(IDS))
        model, splits = tiger(**keys)
        return model.eval(), splits

    return make


def queries(model, splits):
    interaction, *_ = next(iter(QueryDataLoader(model.config, splits.test)))
    return interaction


def tokens_of(model, item):
    """Tokens of an item's ID: 0 pads, and the levels' codes follow one another."""
    sizes = model.codes.max(0) + 1
    return [1 + int(sizes[:level].sum()) + int(code) for level, code in enumerate(model.codes[item - 1])]


def source_of(model, history):
    kept = history[-model.config["max_history_items"] :]
    return torch.tensor([[token for item in kept for token in tokens_of(model, item)]])


@torch.no_grad()
def log_likelihoods(model, history):
    """Log-likelihood of the codes of every ID by teacher forcing; [n, levels]."""
    labels = torch.tensor([tokens_of(model, item) for item in range(1, model.n_items)])
    logits = model.network(input_ids=source_of(model, history).expand(len(labels), -1), labels=labels).logits
    return logits.log_softmax(-1).gather(2, labels.unsqueeze(-1)).squeeze(-1)


def histories_of(model, interaction):
    return [history.tolist() for history in model._histories(interaction)]


@pytest.mark.parametrize("keys", [{}, {"max_history_items": 2}, {"tokens_per_batch": 8, "eval_batch_size": 8}])
def test_exact_scores_are_the_ids_log_likelihoods(planted, keys):
    model, splits = planted(scoring="exact", **keys)
    interaction = queries(model, splits)
    scores = model.full_sort_predict(interaction)
    assert scores.shape == (5, 11) and scores.dtype == torch.float32
    assert scores[:, 0].isneginf().all()
    for row, history in zip(scores, histories_of(model, interaction), strict=True):
        torch.testing.assert_close(row[1:], log_likelihoods(model, history).sum(1), atol=1e-4, rtol=1e-4)


def test_a_beam_of_all_items_scores_them_exactly(planted):
    model, splits = planted(num_beams=10)
    interaction = queries(model, splits)
    beam = model.full_sort_predict(interaction)
    model.config["scoring"] = "exact"
    torch.testing.assert_close(beam, model.full_sort_predict(interaction), atol=1e-4, rtol=1e-4)


def best_ids(model, history, num_beams):
    """Items a beam search ends with, by sorting all prefixes of each length."""
    likelihoods = log_likelihoods(model, history).cumsum(1)
    kept = {()}
    for level in range(1, 5):
        prefixes = {tuple(ids[:level]): float(likelihoods[row, level - 1]) for row, ids in enumerate(IDS)}
        known = {prefix: score for prefix, score in prefixes.items() if prefix[:-1] in kept}
        kept = set(sorted(known, key=known.get)[-num_beams:])
    return {1 + IDS.index(list(ids)) for ids in kept}


@pytest.mark.parametrize("num_beams", [1, 2, 3, 6])
def test_a_narrow_beam_leaves_the_other_items_out(planted, num_beams):
    model, splits = planted(num_beams=num_beams)
    interaction = queries(model, splits)
    for row, history in zip(model.full_sort_predict(interaction), histories_of(model, interaction), strict=True):
        found = set(row.isfinite().nonzero().flatten().tolist())
        assert found == best_ids(model, history, num_beams) and len(found) == num_beams
        expected = log_likelihoods(model, history).sum(1)
        for item in found:
            assert row[item].item() == pytest.approx(expected[item - 1].item(), abs=1e-3)


@pytest.mark.parametrize("scoring", ["beam", "exact"])
def test_scores_do_not_depend_on_the_batch_or_its_order(tiger, scoring):
    model, splits = tiger(scoring=scoring, num_beams=4)
    model.eval()
    interaction = queries(model, splits)
    together = model.full_sort_predict(interaction)
    alone = torch.cat([model.full_sort_predict(interaction[torch.tensor([row])]) for row in range(len(interaction))])
    backwards = model.full_sort_predict(interaction[torch.arange(len(interaction) - 1, -1, -1)]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, backwards, atol=1e-4, rtol=1e-4)


def test_items_of_one_title_are_parted(tiger):
    model, splits = tiger(scoring="exact")
    titles = splits.train.titles
    first, second = (item for item in range(1, 11) if titles[item] == "Twin")
    assert (model.codes[first - 1, :3] == model.codes[second - 1, :3]).all()
    assert model.codes[first - 1, 3] != model.codes[second - 1, 3]
    scores = model.eval().full_sort_predict(queries(model, splits))
    assert (scores[:, first] != scores[:, second]).all()


def test_the_target_is_not_read(planted):
    model, splits = planted(num_beams=5)
    interaction = queries(model, splits)
    assert "item_id" not in interaction
    scores = model.full_sort_predict(interaction)
    interaction.interaction["item_id"] = torch.full((len(interaction),), 3)
    torch.testing.assert_close(model.full_sort_predict(interaction), scores, rtol=0, atol=0)


@pytest.mark.parametrize("most", [2, 20])
def test_loss_is_the_mean_of_each_samples_own_loss(planted, most):
    model, splits = planted(max_history_items=most)
    samples = CandidateSamples.from_dataset(splits.train)
    found = model.calculate_loss(samples.interaction(model.config, np.arange(len(samples))))
    losses = []
    for row in range(len(samples)):
        labels = torch.tensor([tokens_of(model, samples.item_id[row])])
        losses.append(model.network(input_ids=source_of(model, samples.history(row)), labels=labels).loss.item())
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_scoring_batches_hold_each_sample_once_under_the_budget(planted):
    model, splits = planted(tokens_per_batch=40, max_history_items=3)
    samples = CandidateSamples.from_dataset(splits.train)
    indices = []
    for index, batch in model.batches(samples):
        indices.extend(index)
        assert (batch["input_ids"].shape[1] + 4) * len(index) <= 40 or len(index) == 1
        for row, ids, mask, labels in zip(index, *batch.values(), strict=True):
            assert ids[mask.bool()].tolist() == source_of(model, samples.history(row))[0].tolist()
            assert labels.tolist() == tokens_of(model, samples.item_id[row])
    assert sorted(indices) == list(range(len(samples)))


@pytest.mark.parametrize("with_targets", [False, True])
def test_a_sample_is_the_mean_hidden_state_of_its_codes(planted, with_targets):
    model, splits = planted(tokens_per_batch=40, max_history_items=3)
    model.train()
    samples = CandidateSamples.from_dataset(splits.train)
    batches = [(rows, model.represent(batch)) for rows, batch in model.representation_batches(samples, with_targets)]
    assert model.network.training and len(batches) > 1
    rows, states = np.concatenate([rows for rows, _ in batches]), torch.cat([states for _, states in batches])
    assert sorted(rows) == list(range(len(samples))) and not states.requires_grad and states.dtype == torch.float32
    model.eval()
    for row, state in zip(rows, states, strict=True):
        tokens = source_of(model, samples.history(row))
        if with_targets:
            tokens = torch.cat([tokens, torch.tensor([tokens_of(model, samples.item_id[row])])], dim=1)
        expected = model.network.encoder(input_ids=tokens).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)


def test_a_target_is_as_long_as_an_id(planted):
    model, splits = planted()
    samples = CandidateSamples.from_dataset(splits.train)
    read = [
        int(batch["attention_mask"].sum())
        for batch in (model.batch([samples.history(i)], [1]) for i in range(len(samples)))
    ]
    assert model.token_lengths(samples).tolist() == [[tokens, 4] for tokens in read]


def test_effort_is_the_norm_of_each_samples_gradient_over_all_parameters(planted):
    model, splits = planted(tokens_per_batch=60)
    model.double()
    samples = CandidateSamples.from_dataset(splits.train)
    found = EffortScorer(model, model.config).score(samples)
    parameters = list(model.network.parameters())
    for row, effort in enumerate(found):
        loss = model.calculate_loss(samples.interaction(model.config, np.array([row])))
        gradients = torch.autograd.grad(loss, parameters)
        assert effort == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-6)


def test_samples_as_text(planted):
    model, splits = planted(max_history_items=2)
    samples = CandidateSamples.from_dataset(splits.train)
    rows = list(model.instructions(samples))
    assert len(rows) == len(samples) and {row["instruction"] for row in rows} == {""}
    as_text = ["".join(f"<{level}_{code}>" for level, code in zip("abcd", ids, strict=True)) for ids in IDS]
    for number, row in enumerate(rows):
        assert row["input"] == "".join(as_text[item - 1] for item in samples.history(number)[-2:])
        assert row["output"] == as_text[samples.item_id[number] - 1]
        assert (row["prompt"], row["completion"]) == (row["input"], row["output"])


def test_a_saved_model_loads_here_and_in_transformers(planted, tmp_path):
    model, splits = planted(num_beams=10)
    interaction = queries(model, splits)
    scores = model.full_sort_predict(interaction)
    model.save(tmp_path / "model")
    ids = json.loads((tmp_path / "model" / "semantic_ids.json").read_text(encoding="utf-8"))
    tokens = splits.train.field2id_token["item_id"]
    assert ids == {tokens[item]: IDS[item - 1] for item in range(1, 11)}
    assert not list(tmp_path.glob("model/*.bin")) and list(tmp_path.glob("model/*.safetensors"))
    other, _ = planted(num_beams=10)
    for parameter in other.network.parameters():
        parameter.data.zero_()
    other.load(tmp_path / "model")
    torch.testing.assert_close(other.full_sort_predict(interaction), scores, rtol=0, atol=0)
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[1, 5]])}
    torch.testing.assert_close(loaded(**inputs).logits, model.network(**inputs).logits)


def test_a_saved_model_is_restored_with_its_own_ids(planted, tmp_path, monkeypatch):
    model, splits = planted(num_beams=10)
    model.save(tmp_path / "model")
    monkeypatch.setattr(tiger_module, "catalogue_ids", None)  # none are made
    restored = TIGER.restored(model.config, splits.train, tmp_path / "model").eval()
    assert restored.codes.tolist() == [list(ids) for ids in IDS]
    interaction = queries(model, splits)
    torch.testing.assert_close(restored.full_sort_predict(interaction), model.full_sort_predict(interaction))
    (tmp_path / "model" / "semantic_ids.json").write_text('{"i1": [0, 0]}')
    with pytest.raises(InputError, match="model: trained on other items than ten has; run the same command again"):
        TIGER.restored(model.config, splits.train, tmp_path / "model")


def test_weights_of_other_ids_are_refused(planted, tmp_path):
    model, _ = planted()
    model.save(tmp_path / "model")
    model.codes = model.codes[::-1]
    with pytest.raises(InputError, match="semantic IDs the items no longer have; delete the run folder"):
        model.load(tmp_path / "model")


def test_all_weights_train_and_the_best_are_kept(tiger, tmp_path):
    keys = {"epochs": 3, "train_batch_size": 4, "micro_batch_size": 2, "warmup_steps": 1, "eval_step": 1}
    model, splits = tiger(**keys, valid_metric="loss")
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    trainer = LLMTrainer(model.config, model, RunFolder(tmp_path), "model")
    seen = []
    trainer.fit(
        train_loader(model.config, splits.train, np.arange(8)),
        QueryDataLoader(model.config, splits.valid),
        callback_fn=lambda epoch, score: seen.append(score),
    )
    assert all(not torch.equal(p, before[name]) for name, p in model.network.named_parameters())
    assert trainer.best_valid_score == min(seen)
    trainer.load(tmp_path / "model")
    assert trainer._valid_epoch(QueryDataLoader(model.config, splits.valid))[0] == pytest.approx(min(seen), rel=1e-5)


def test_an_item_outside_the_beam_is_a_miss(planted, tmp_path):
    metrics = ["Recall", "NDCG", "MRR", "GAUC"]
    model, splits = planted(num_beams=2, topk=[2], metrics=metrics, valid_metric="NDCG@2")
    trainer = LLMTrainer(model.config, model, RunFolder(tmp_path), "model")
    loader = QueryDataLoader(model.config, splits.test)
    result = trainer.evaluate(loader, load_best_model=False)
    interaction, _, rows, items = next(iter(loader))
    scores = model.full_sort_predict(interaction)
    positives = [set(items[rows == row].tolist()) for row in range(len(interaction))]
    found = [len(set(row.topk(2).indices.tolist()) & wanted) for row, wanted in zip(scores, positives, strict=True)]
    expected = np.mean([count / len(wanted) for count, wanted in zip(found, positives, strict=True)])
    assert result["recall@2"] == pytest.approx(expected, abs=1e-4)
    assert all(np.isfinite(value) for value in result.values())


def test_too_few_beams_for_topk_are_refused_early(ten):
    with pytest.raises(InputError, match="num_beams is 10, but topk asks for 20 items; set num_beams to 20 or more"):
        TIGER.check(ten(model="TIGER", num_beams=10, topk=[5, 20]))
    TIGER.check(ten(model="TIGER", num_beams=20, topk=[5, 20]))
    TIGER.check(ten(model="TIGER", num_beams=10, topk=[5, 20], scoring="exact"))


@pytest.mark.parametrize(("most", "expected"), [(1, [1, 1, 1, 1]), (5, [2, 1, 1]), (9, [3, 1]), (99, [4])])
def test_parts_of_the_first_codes_are_as_large_as_allowed(most, expected):
    counts = np.array([2, 3, 4, 7])
    slices = list(tiger_module._slices(counts, most))
    assert [len(counts[part]) for part in slices] == expected
    assert np.concatenate([counts[part] for part in slices]).tolist() == counts.tolist()
