import numpy as np
import pytest
import torch

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.scorer import EffortScorer


def one_by_one(model, samples, wanted):
    """Norm of each sample's gradient by a backward pass of its own."""
    parameters = [p for name, p in model.network.named_parameters() if p.requires_grad and wanted(name)]
    norms = []
    for row in range(len(samples)):
        loss = model.calculate_loss(samples.interaction(model.config, np.array([row])))
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).norm().item())
    return np.array(norms)


@pytest.mark.parametrize(
    "choice, wanted",
    [
        ("all", lambda name: True),
        ("last", lambda name: ".1." in name),
        (["*.1.self_attn.v_proj.lora_B.*"], lambda name: ".1.self_attn.v_proj.lora_B" in name),
    ],
)
def test_effort_is_the_norm_of_each_samples_gradient(bigrec, randomise_adapter, choice, wanted):
    model, splits = bigrec(effort_parameters=choice, tokens_per_batch=500)
    randomise_adapter(model.network)
    model.eval()
    samples = CandidateSamples.from_dataset(splits.train)
    scores = EffortScorer(model, model.config).score(samples)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, one_by_one(model, samples, wanted), rtol=1e-4)


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_effort_on_quantised_weights(bigrec, randomise_adapter, kind):
    model, splits = bigrec("wide llama", llm_quantization=kind, tokens_per_batch=500)
    base = {type(module).__name__ for name, module in model.network.named_modules() if name.endswith("base_layer")}
    assert base == {{"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[kind]}
    randomise_adapter(model.network)
    model.eval()
    samples = CandidateSamples.from_dataset(splits.train)
    scores = EffortScorer(model, model.config).score(samples)
    # The quantised products depend a little on what else is in the batch.
    np.testing.assert_allclose(scores, one_by_one(model, samples, lambda name: True), rtol=0.02)


def test_scoring_leaves_the_model_as_it_was(bigrec):
    model, splits = bigrec()
    model.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.network.parameters()]
    EffortScorer(model, model.config).score(CandidateSamples.from_dataset(splits.train))
    assert model.network.training
    assert flags == [parameter.requires_grad for parameter in model.network.parameters()]
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_patterns_that_match_nothing_are_an_error(bigrec):
    model, splits = bigrec(effort_parameters=["*.31.*"])
    with pytest.raises(InputError, match="match no trained parameter"):
        EffortScorer(model, model.config).score(CandidateSamples.from_dataset(splits.train))
