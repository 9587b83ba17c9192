"""What a run keeps of its dataset: items, counts, features and histories, against the files."""

import json

import numpy as np
import pytest
import torch

from recbole_dealrec.data import load_splits
from recbole_dealrec.data.catalogue import Catalogue, keep_catalogue, read_histories, save_histories
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.store.run_folder import RunFolder


def table(file):
    """Rows of an atomic file."""
    return [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def sequences(path):
    """Items of each user of the ten-item catalogue in time order, from its file."""
    rows = sorted(table(path / "ten" / "ten.inter"), key=lambda row: float(row[2]))
    return {user: [item for other, item, _ in rows if other == user] for user, *_ in rows}


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_kept_catalogue_is_that_of_the_training_part(ten, tmp_path):
    train = load_splits(ten()).train
    Catalogue.of(train).save(tmp_path)
    kept = Catalogue.load(train.config, tmp_path)
    assert kept.tokens.tolist() == train.field2id_token["item_id"].tolist() and kept.titles == train.titles
    assert kept.item_num == train.item_num and kept.user_num == train.user_num
    np.testing.assert_array_equal(kept.item_counts, train.item_counts)
    titles = {row["item"]: row["title"] for row in lines(tmp_path / "items.jsonl")[1:]}
    assert titles == dict(table(tmp_path / "ten" / "ten.item"))


@pytest.mark.parametrize("longest", [50, 3])
def test_a_history_has_all_items_of_its_user_the_latest_last(longest, ten, tmp_path):
    save_histories(load_splits(ten(MAX_ITEM_LIST_LENGTH=longest)), tmp_path)
    found = {row["user"]: row["history"] for row in lines(tmp_path / "histories.jsonl")}
    assert found == {user: items[-longest:] for user, items in sequences(tmp_path).items()}


@pytest.mark.parametrize("evaluation", [{"split": {"RS": [0.6, 0.2, 0.2]}}, {"split": {"LS": "valid_and_test"}}])
def test_histories_of_other_splits(evaluation, ten, tmp_path):
    given = {"order": "TO", "group_by": "user", "mode": {"valid": "full", "test": "full"}}
    save_histories(load_splits(ten(eval_args={**given, **evaluation})), tmp_path)
    found = {row["user"]: row["history"] for row in lines(tmp_path / "histories.jsonl")}
    assert found == sequences(tmp_path)


def test_the_targets_of_a_query_stand_behind_its_history(split, tmp_path):
    save_histories(load_splits(split()), tmp_path)
    test = table(tmp_path / "split" / "split.test.inter")
    users = sorted({user for user, *_ in test})
    rows = [[row for row in test if row[0] == user] for user in users]
    expected = [[*of_user[0][1].split(), *(target for *_, target in of_user)] for of_user in rows]
    assert read_histories(tmp_path, users) == expected
    with pytest.raises(InputError, match="no user 'u9' with two items or more in the data of this run"):
        read_histories(tmp_path, ["u1", "u9"])


def test_users_are_named_by_their_token_or_by_the_id_that_was_encoded(tmp_path):
    rows = [{"user": user, "history": [item]} for user, item in (("ann%20b", "i1"), ("ann", "i2"), ("50%25", "i3"))]
    (tmp_path / "histories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_histories(tmp_path, ["ann b", "ann", "ann%20b", "50%"]) == [["i1"], ["i2"], ["i1"], ["i3"]]
    with pytest.raises(InputError, match="no user 'b ann' with"):
        read_histories(tmp_path, ["ann b", "b ann"])


def test_a_catalogue_is_written_once(ten, tmp_path):
    folder, splits = RunFolder(tmp_path / "run"), load_splits(ten())
    keep_catalogue(folder, splits)
    before = (folder / "catalogue" / "items.jsonl").stat().st_mtime_ns
    keep_catalogue(folder, splits)
    assert folder.has("catalogue") and (folder / "catalogue" / "items.jsonl").stat().st_mtime_ns == before


def test_surrogates_find_the_features_of_items(movies, tmp_path):
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class", "release_year"]}
    config = movies(load_col=load_col, surrogate_model="SASRecF", surrogate_selected_features=["class"])
    splits = load_splits(config)
    torch.manual_seed(0)
    surrogate = build_surrogate(config.surrogate(), splits.train).eval()
    Reweighting(splits.train.item_counts, [surrogate], collaborative=1.0).save(tmp_path / "reweighting")
    Catalogue.of(splits.train).save(tmp_path)
    kept = Reweighting.restored(config, Catalogue.load(config, tmp_path), tmp_path / "reweighting")
    batch = splits.test.inter_feat[:3]
    with torch.no_grad():
        expected = surrogate.full_sort_predict(batch)
        torch.testing.assert_close(kept.surrogates[0].eval().full_sort_predict(batch), expected)
