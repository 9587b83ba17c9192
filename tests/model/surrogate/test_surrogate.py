"""The surrogate: its loss on every position against RecBole's row per prefix, its data, its training."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from safetensors.torch import load_file

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import surrogate as surrogate_module
from recbole_dealrec.model.surrogate.surrogate import (
    EveryPosition,
    build_surrogate,
    settle_epochs,
    surrogate_labels,
    surrogate_loader,
)
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import SafetensorsTrainer

SIZES = {
    "SASRec": {"surrogate_hidden_size": 8, "surrogate_inner_size": 16},
    "GRU4Rec": {"surrogate_hidden_size": 8, "surrogate_embedding_size": 12},
    "BERT4Rec": {"surrogate_hidden_size": 8, "surrogate_inner_size": 16},
    "NARM": {"surrogate_hidden_size": 8, "surrogate_embedding_size": 8},
    "STAMP": {"surrogate_embedding_size": 8},
    "SRGNN": {"surrogate_embedding_size": 8},
    "Caser": {"surrogate_embedding_size": 8},
    "NextItNet": {"surrogate_embedding_size": 8},
}


@pytest.fixture
def setting(ten):
    """``setting(model, **keys)``: the surrogate's configuration and the training part of the ten-item catalogue."""

    def make(model, **keys):
        config = ten(surrogate_model=model, **{"MAX_ITEM_LIST_LENGTH": 8, **SIZES.get(model, {}), **keys})
        return config.surrogate(), load_splits(config).train

    return make


def randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.item_embedding.weight[0] = 0
    return model.eval()


def prefix_losses(model, windows, width):
    """RecBole's own loss of each prefix of each (history, target), one row at a time."""
    own_class = next(base for base in type(model).__mro__ if base.__module__.startswith("recbole."))
    losses = []
    for history, target in windows:
        items = [*history, target]
        for end in range(1, len(items)):
            columns = {
                "item_id_list": torch.tensor([items[:end] + [0] * (width - end)]),
                "item_length": torch.tensor([end]),
                "item_id": torch.tensor([items[end]]),
            }
            with torch.no_grad():
                losses.append(float(own_class.calculate_loss(model, Interaction(columns))))
    return losses


def windows_of(batch):
    return [
        (items[:length].tolist(), int(target))
        for items, length, target in zip(batch["item_id_list"], batch["item_length"], batch["item_id"], strict=True)
    ]


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_loss_is_the_mean_over_all_prefixes(model, setting):
    config, train = setting(model)
    surrogate = randomise(build_surrogate(config, train))
    assert isinstance(surrogate, EveryPosition)
    (batch,) = surrogate_loader(config, train, surrogate)
    assert len(batch) == 5  # one row a user
    samples = CandidateSamples.from_dataset(train)
    rows = [(samples.history(row).tolist(), int(samples.item_id[row])) for row in range(len(samples))]
    expected = prefix_losses(surrogate, windows_of(batch), 8)
    assert len(expected) == len(rows) == 12
    with torch.no_grad():
        found = float(surrogate.calculate_loss(batch))
        whole = surrogate.full_sort_predict(samples.interaction(config, np.arange(12)))
    assert found == pytest.approx(np.mean(expected), rel=1e-5)
    # The same objective as RecBole's on a row per prefix.
    per_row = torch.nn.functional.cross_entropy(whole, torch.from_numpy(samples.item_id))
    assert found == pytest.approx(float(per_row), rel=1e-5)
    assert np.std(expected) > 0.05


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_loss_on_sequences_longer_than_a_history(model, setting):
    config, train = setting(model, MAX_ITEM_LIST_LENGTH=3)
    surrogate = randomise(build_surrogate(config, train))
    (batch,) = surrogate_loader(config, train, surrogate)
    # u4 has five targets: the last three are in the row of the last, the first two in that of the second.
    assert len(batch) == 6 and sorted(batch["item_length"].tolist()) == [1, 1, 2, 2, 3, 3]
    expected = prefix_losses(surrogate, windows_of(batch), 3)
    assert len(expected) == 12
    with torch.no_grad():
        assert float(surrogate.calculate_loss(batch)) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_padding_has_no_part_in_the_loss(model, setting):
    config, train = setting(model)
    surrogate = randomise(build_surrogate(config, train))
    (batch,) = surrogate_loader(config, train, surrogate)
    loss = surrogate.calculate_loss(batch)
    width = int(batch["item_length"].max())
    trimmed = Interaction({**batch.interaction, "item_id_list": batch["item_id_list"][:, :width]})
    torch.testing.assert_close(surrogate.calculate_loss(trimmed), loss, rtol=1e-6, atol=0)
    loss.backward()
    assert float(surrogate.item_embedding.weight.grad.abs().sum()) > 0
    scores = surrogate.full_sort_predict(batch)
    assert scores.shape == (5, train.item_num)  # prediction is of the last position again


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "NARM", "STAMP", "SRGNN", "Caser", "NextItNet"])
def test_which_models_predict_every_position(model, setting):
    config, train = setting(model)
    surrogate = build_surrogate(config, train)
    assert isinstance(surrogate, EveryPosition) == (model in ("SASRec", "GRU4Rec"))
    assert type(surrogate).__name__ == model and isinstance(surrogate, config.model_class)


def test_the_probe_draws_no_random_numbers(setting):
    config, train = setting("SASRec")
    torch.manual_seed(3)
    plain = config.model_class(config, train)
    after_plain = torch.rand(1)
    torch.manual_seed(3)
    surrogate = build_surrogate(config, train)
    assert torch.equal(torch.rand(1), after_plain)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, surrogate.state_dict()[name]), name


def tokens_of(loader, train):
    """(history, target) of each row of a loader's data."""
    feat, names = loader._dataset.inter_feat, train.field2id_token["item_id"]
    rows = zip(feat["item_id_list"], feat["item_length"], feat["item_id"].tolist(), strict=True)
    return sorted((" ".join(names[items[:length].numpy()]), str(names[target])) for items, length, target in rows)


def test_a_masked_model_is_trained_on_rows_with_their_target(setting):
    config, train = setting("BERT4Rec", MAX_ITEM_LIST_LENGTH=3, surrogate_mask_ratio=0.7)
    before = train.inter_feat["item_id_list"].clone()
    surrogate = build_surrogate(config, train)
    loader = surrogate_loader(config, train, surrogate)
    assert tokens_of(loader, train) == [
        ("i1 i2 i3", "i3"),
        ("i10 i1 i10", "i10"),
        ("i2 i10 i3", "i3"),  # a full history loses its oldest item
        ("i2 i4", "i4"),
        ("i5 i7 i9", "i9"),
        ("i9 i7", "i7"),
    ]
    assert torch.equal(train.inter_feat["item_id_list"], before)
    (batch,) = loader
    assert torch.isfinite(surrogate.calculate_loss(batch))


def test_any_other_model_is_trained_on_a_row_per_prefix(setting, caplog):
    caplog.set_level("INFO")
    config, train = setting("NARM")
    loader = surrogate_loader(config, train, build_surrogate(config, train))
    assert len(loader._dataset) == len(train) == 12
    assert "NARM is trained on a row per prefix" in caplog.text


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("BPR", {}),
        ("SASRec", {"surrogate_loss_type": "BPR"}),
        ("GRU4Rec", {"surrogate_loss_type": "BPR"}),
        ("FPMC", {}),
        ("TransRec", {}),
    ],
)
def test_a_model_without_softmax_over_items_is_refused(model, keys, setting):
    config, train = setting(model, **keys)
    with pytest.raises(InputError, match=f"surrogate_model '{model}' is not a sequential model with a softmax loss"):
        build_surrogate(config, train)


def test_a_model_that_ranks_by_probabilities_is_refused(setting, movies):
    with pytest.raises(InputError, match="surrogate_model 'RepeatNet' ranks by probabilities; influence needs logits"):
        build_surrogate(*setting("RepeatNet"))
    with pytest.raises(
        InputError, match="surrogate_model 'SASRecCPR' cannot rank this dataset's items: .*out of range"
    ):
        build_surrogate(*setting("SASRecCPR"))  # it looks at the hundred best of twelve items
    config = movies(surrogate_model="SASRecCPR")
    with pytest.raises(InputError, match="surrogate_model 'SASRecCPR' ranks by probabilities"):
        build_surrogate(config.surrogate(), load_splits(config).train)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_training_lowers_the_loss_and_loading_restores_the_scores(model, movies, tmp_path):
    config = movies(
        surrogate_model=model, surrogate_epochs=2, surrogate_eval_step=1, surrogate_train_batch_size=32,
        surrogate_learning_rate=0.01, MAX_ITEM_LIST_LENGTH=20, **SIZES[model],
    )  # fmt: skip
    splits = load_splits(config)
    own = config.surrogate()
    surrogate = build_surrogate(own, splits.train)
    folder = RunFolder(tmp_path / "run")
    checkpoint = folder / "surrogate.safetensors"
    trainer = SafetensorsTrainer(own, surrogate, folder, checkpoint.name)
    score, result = trainer.fit(surrogate_loader(own, splits.train, surrogate), QueryDataLoader(own, splits.valid))
    assert trainer.train_loss_dict[1] < trainer.train_loss_dict[0]
    assert 0 < score == result["ndcg@10"] <= 1
    folder.discard_unfinished()
    assert {file.name for file in folder.path.iterdir()} == {"surrogate.safetensors", "checksums.json"}
    assert set(load_file(checkpoint)) == set(surrogate.state_dict())

    trainer.load(checkpoint)
    batch = CandidateSamples.from_dataset(splits.valid).interaction(own, np.arange(20))
    surrogate.eval()
    with torch.no_grad():
        best = surrogate.full_sort_predict(batch)
    again = build_surrogate(own, splits.train)
    fresh = SafetensorsTrainer(own, again, folder, checkpoint.name)
    again.eval()
    with torch.no_grad():
        assert not torch.equal(again.full_sort_predict(batch), best)
        fresh.load(checkpoint)
        assert torch.equal(again.full_sort_predict(batch), best)
    assert fresh.evaluate(QueryDataLoader(own, splits.valid)) == result


def test_a_surrogates_loss_that_is_not_finite_is_said(movies, tmp_path):
    config = movies(surrogate_learning_rate=1e30, surrogate_epochs=2, surrogate_hidden_size=8)
    splits, own = load_splits(config), config.surrogate()
    surrogate = build_surrogate(own, splits.train)
    trainer = SafetensorsTrainer(own, surrogate, RunFolder(tmp_path), "surrogate.safetensors")
    with pytest.raises(InputError, match="surrogate.safetensors: the loss is not finite in epoch [01], forward pass"):
        trainer.fit(surrogate_loader(own, splits.train, surrogate), QueryDataLoader(own, splits.valid))


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec", "NARM"])
@pytest.mark.parametrize("steps", [1, 60, 10_000])
def test_epochs_that_are_left_to_the_package_stay_within_its_steps(ten, monkeypatch, name, steps):
    keys = {"surrogate_train_batch_size": 1, "MAX_ITEM_LIST_LENGTH": 8, **SIZES[name]}
    configs = [ten(surrogate_model=name, surrogate_epochs=epochs, **keys) for epochs in ("auto", 3, "auto")]
    surrogate, train = configs[0].surrogate(), load_splits(configs[0]).train
    model = build_surrogate(surrogate, train)
    monkeypatch.setattr(surrogate_module, "_STEPS", steps)
    settle_epochs(configs, surrogate, train, model)
    epochs, given, other = (config["surrogate_epochs"] for config in configs)
    n_batches = len(surrogate_loader(surrogate, train, model))
    assert given == 3 and other == epochs == configs[0].surrogate()["epochs"]
    assert surrogate["eval_step"] == 2 and epochs % 2 == 0  # the last epoch is evaluated
    assert epochs in (4, 200) or epochs * n_batches <= steps < (epochs + 2) * n_batches
    assert (steps, epochs) in ((1, 4), (10_000, 200)) or 4 <= epochs < 200


@pytest.mark.parametrize(("eval_step", "epochs"), [(0, 4), (3, 3), (5, 5), (300, 300)])
def test_the_last_of_the_epochs_that_are_left_to_the_package_is_evaluated(ten, monkeypatch, eval_step, epochs):
    config = ten(surrogate_eval_step=eval_step, MAX_ITEM_LIST_LENGTH=8, **SIZES["SASRec"])
    surrogate, train = config.surrogate(), load_splits(config).train
    monkeypatch.setattr(surrogate_module, "_STEPS", 1)
    settle_epochs([config], surrogate, train, build_surrogate(surrogate, train))
    assert config["surrogate_epochs"] == epochs


def test_surrogates_are_counted_for_people():
    names = ["surrogate", "surrogate 1", "surrogate 2", "influence", "mean of the surrogates"]
    shown = ["surrogate 1 of 3", "surrogate 2 of 3", "surrogate 3 of 3", "influence", "mean of the surrogates"]
    assert surrogate_labels(names) == dict(zip(names, shown, strict=True))
    assert surrogate_labels(["effort", "surrogate"]) == {"effort": "effort", "surrogate": "surrogate"}
