"""All sequential models of RecBole as surrogates: each is right end to end, or refused before it is trained."""

import numpy as np
import pytest
import torch

from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import restored_surrogate
from recbole_dealrec.pipeline import prepare
from recbole_dealrec.scorer.curvature import Curvature
from recbole_dealrec.scorer.influence import tried_problem
from recbole_dealrec.scorer.surrogate_loss import chosen_parameters
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.surrogate_training import SurrogateTraining

REFUSED = {
    "DIEN": "is not a sequential model with a softmax loss",
    "DIN": "is not a sequential model with a softmax loss",
    "FPMC": "is not a sequential model with a softmax loss",
    "TransRec": "is not a sequential model with a softmax loss",
    "FDSA": "cannot be built as configured: 'class'",
    "GRU4RecF": "cannot be built as configured: 'class'",
    "SASRecF": "cannot be built as configured: 'class'",
    "S3Rec": "cannot be built as configured: Field",
    "GRU4RecKG": "cannot be built as configured: Field",
    "KSR": "cannot be built as configured: Field",
    "GRU4RecCPR": "cannot rank this dataset's items",
    "SASRecCPR": "cannot rank this dataset's items",
    "RepeatNet": "ranks by probabilities",
    "HRM": r"influence_parameters \(all but embeddings\) match no parameter",
    "NPE": r"influence_parameters \(all but embeddings\) match no parameter",
}
NAMES = [
    "BERT4Rec", "CORE", "Caser", "FEARec", "FOSSIL", "GCSAN", "GRU4Rec", "HGN", "LightSANs", "NARM", "NextItNet",
    "SASRec", "SHAN", "SINE", "SRGNN", "STAMP", *REFUSED,
]  # fmt: skip


@pytest.fixture
def configured(ten):
    """``configured(model, **keys)``: configuration of DEALRec with a model of RecBole as surrogate."""
    keys = {"MAX_ITEM_LIST_LENGTH": 8, "surrogate_epochs": 1, "topk": [1, 5], "valid_metric": "NDCG@5", "n_fewshot": 2}
    keys |= {"surrogate_valid_metric": "NDCG@5", "n_groups": 1}
    return lambda model, **others: ten(surrogate_model=model, **keys, **others)


def test_every_model_is_named(ten):
    ten()
    from recbole.model import sequential_recommender  # imported by Config, see compat.py

    assert set(NAMES) == {name for name in vars(sequential_recommender) if name[0].isupper()}


def gradients(surrogate, samples, config, parameters):
    """Gradient of each sample's full-softmax loss by double backward's graph, [n, P]."""
    for row in range(len(samples)):
        batch = samples.interaction(config, np.array([row]), trim=False)
        loss = torch.nn.functional.cross_entropy(surrogate.full_sort_predict(batch), batch[surrogate.POS_ITEM_ID])
        found = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        yield torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("name", NAMES)
def test_a_surrogate_is_right_or_refused_at_the_start(name, configured, tmp_path):
    config = configured(name, curvature="hessian")
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]) as raised:
            prepare([config])
        assert "\n" not in str(raised.value)
        return
    (job,) = prepare([config])
    training = SurrogateTraining(config, job.splits, RunFolder(tmp_path), 0)
    training.fit()
    again = SurrogateTraining(config, job.splits, RunFolder(tmp_path), 0)
    again.load()
    Catalogue.of(job.splits.train).save(tmp_path)
    catalogue = Catalogue.load(config, tmp_path)
    kept = restored_surrogate(config.surrogate(), catalogue, tmp_path / "surrogate.safetensors")
    samples = job.samples[:3]
    surrogate = training.model.eval()
    batch = samples.interaction(config, np.arange(3), trim=False)
    with torch.no_grad():
        for model in (again.model, kept):
            torch.testing.assert_close(model.eval().full_sort_predict(batch), surrogate.full_sort_predict(batch))
    parameters = dict(surrogate.named_parameters())
    chosen = [parameters[name] for name in chosen_parameters(surrogate, None)]
    x = torch.randn(sum(each.numel() for each in chosen), generator=torch.Generator().manual_seed(0))
    single = torch.stack([*gradients(surrogate, samples, config, chosen)])
    second = torch.autograd.grad(single.mean(0) @ x, chosen, materialize_grads=True)
    second = torch.cat([each.flatten() for each in second])
    with torch.no_grad():
        problem = tried_problem(surrogate, config, samples)
        along, curved = problem.directional_derivatives(samples, x), Curvature(problem, samples).product(x)
    np.testing.assert_allclose(along, (single @ x).detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(curved, second, rtol=1e-3, atol=1e-4 * float(second.abs().max()) + 1e-9)
