"""The language model's representations against the bare checkpoint, and distances against them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.scorer import LLMRepresentationScorer, ValidDistanceScorer, ValidSimilarityScorer, representation


def expected_states(model, samples, base, with_targets):
    """Last hidden states of the checkpoint itself, one sample at a time."""
    states = []
    for row in range(len(samples)):
        (prompt,) = model.encoder.prompts([samples.history(row)])
        title = model.tokenizer(f'"{samples.title(samples.item_id[row])}"', split_special_tokens=True)["input_ids"]
        ids = torch.tensor([prompt + title if with_targets else prompt])
        with torch.no_grad():
            states.append(base(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
    return torch.stack(states)


@pytest.fixture
def setting(bigrec, randomise_adapter, checkpoint):
    def make(kind="llama", **keys):
        model, splits = bigrec(kind, tokens_per_batch=500, **keys)
        randomise_adapter(model.network)
        base = AutoModelForCausalLM.from_pretrained(checkpoint(kind)).eval()
        return model, splits, base

    return make


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_history_is_the_last_hidden_state_of_its_prompt(setting, kind):
    model, splits, base = setting(kind)
    samples = CandidateSamples.from_dataset(splits.train)
    found = LLMRepresentationScorer(model).score(samples)
    assert found.dtype == np.float32 and found.shape == (12, 32)
    np.testing.assert_allclose(found, expected_states(model, samples, base, False), rtol=1e-3, atol=1e-3)


def test_distances_are_those_of_whole_samples(setting):
    model, splits, base = setting()
    samples, valid = CandidateSamples.from_dataset(splits.train), CandidateSamples.from_dataset(splits.valid)
    found = ValidDistanceScorer(model, valid, model.config).score(samples)
    assert found.dtype == np.float32 and found.shape == (12, len(valid))
    states = [expected_states(model, part, base, True).double() for part in (samples, valid)]
    expected = torch.cdist(*states).numpy()
    # The validation samples come in batches of similar length, in an order that says nothing.
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(np.sort(found.sum(axis=0)), np.sort(expected.sum(axis=0)), rtol=1e-2)


def test_similarities_are_cosines_of_prompts(setting):
    model, splits, base = setting()
    samples, valid = CandidateSamples.from_dataset(splits.train), CandidateSamples.from_dataset(splits.valid)
    found = ValidSimilarityScorer(model, valid, model.config).score(samples)
    assert found.dtype == np.float32 and found.shape == (12, len(valid))
    states = [expected_states(model, part, base, False).double() for part in (samples, valid)]
    expected = torch.nn.functional.cosine_similarity(states[0][:, None], states[1], dim=2).numpy()
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), atol=1e-3)
    np.testing.assert_allclose(np.sort(found.sum(axis=0)), np.sort(expected.sum(axis=0)), atol=1e-2)
    others = replace(valid, item_id=np.roll(valid.item_id, 1))  # other targets change nothing
    np.testing.assert_array_equal(ValidSimilarityScorer(model, others, model.config).score(samples), found)
    assert not np.array_equal(
        *(ValidDistanceScorer(model, part, model.config).score(samples) for part in (valid, others))
    )


def test_distances_by_another_recommender(tiger):
    model, splits = tiger(tokens_per_batch=40)
    samples, valid = CandidateSamples.from_dataset(splits.train), CandidateSamples.from_dataset(splits.valid)
    found = ValidDistanceScorer(model, valid, model.config).score(samples)
    states = [torch.empty(len(part), 16) for part in (samples, valid)]
    for part, state in zip((samples, valid), states, strict=True):
        for rows, batch in model.representation_batches(part, with_targets=True):
            state[rows] = model.represent(batch)
    expected = torch.cdist(*(state.double() for state in states)).numpy()
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), rtol=1e-3, atol=1e-4)
    assert LLMRepresentationScorer(model).score(samples).shape == (12, 16)


def test_the_validation_samples_are_drawn_by_the_seed_where_they_are_too_many(setting, monkeypatch):
    model, splits, _ = setting()
    samples, valid = CandidateSamples.from_dataset(splits.train), CandidateSamples.from_dataset(splits.valid)
    everything = ValidDistanceScorer(model, valid, model.config).score(samples)

    def columns(seed):
        return ValidDistanceScorer(model, valid, {"seed": seed}).score(samples)

    monkeypatch.setattr(representation, "_MOST_VALID", 2)
    assert columns(0).shape == (12, 2)
    np.testing.assert_array_equal(columns(0), columns(0))
    assert len({tuple(columns(seed).sum(axis=0).round(2)) for seed in range(6)}) > 1
    for column in columns(0).T:
        assert np.isclose(everything, column[:, None], rtol=1e-3).all(axis=0).any()
    monkeypatch.setattr(representation, "_MOST_DISTANCES", 12)
    assert columns(0).shape == (12, 1)


def test_representing_leaves_the_model_as_it_was(setting):
    model, splits, _ = setting()
    model.train()
    samples = CandidateSamples.from_dataset(splits.train)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    LLMRepresentationScorer(model).score(samples)
    with_adapter = model.eval().sample_losses(samples.interaction(model.config, np.arange(3)))
    model.train()
    model.represent(next(model.representation_batches(samples))[1])
    assert model.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    again = model.eval().sample_losses(samples.interaction(model.config, np.arange(3)))
    torch.testing.assert_close(again, with_adapter, rtol=0, atol=0)
