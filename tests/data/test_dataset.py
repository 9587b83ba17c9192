"""Splits, queries, and the metrics that RecBole computes of them, against results worked out by hand."""

from math import log2

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_dealrec.data import CandidateSamples, QueryDataLoader, load_splits, loader, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import SafetensorsTrainer


def rows_of(part):
    """(user, history, target) of each row, in order."""
    samples = CandidateSamples.from_dataset(part)
    users, items = part.field2id_token["user_id"], part.field2id_token["item_id"]
    return [
        (users[samples.user_id[row]], " ".join(items[samples.history(row)]), items[samples.item_id[row]])
        for row in range(len(samples))
    ]


def queries_of(loader, part):
    """(user, history, positives) of each query, in order."""
    users, items = part.field2id_token["user_id"], part.field2id_token["item_id"]
    found = []
    for interaction, history_index, positive_u, positive_i in loader:
        assert history_index is None
        for row in range(len(interaction)):
            history = interaction["item_id_list"][row, : interaction["item_length"][row]].numpy()
            positives = positive_i[positive_u == row].numpy()
            found.append((users[interaction["user_id"][row]], " ".join(items[history]), " ".join(items[positives])))
    return found


def test_leave_one_out(ten):
    splits = load_splits(ten())
    assert sorted(rows_of(splits.train)) == [
        ("u1", "i1", "i2"),
        ("u1", "i1 i2", "i3"),
        ("u2", "i2", "i4"),
        ("u3", "i9", "i7"),
        ("u4", "i10", "i1"),
        ("u4", "i10 i1", "i10"),
        ("u4", "i10 i1 i10", "i2"),
        ("u4", "i10 i1 i10 i2", "i10"),
        ("u4", "i10 i1 i10 i2 i10", "i3"),
        ("u5", "i3", "i5"),
        ("u5", "i3 i5", "i7"),
        ("u5", "i3 i5 i7", "i9"),
    ]
    assert sorted(rows_of(splits.valid)) == [
        ("u1", "i1 i2 i3", "i4"),
        ("u2", "i2 i4", "i6"),
        ("u4", "i10 i1 i10 i2 i10 i3", "i6"),
        ("u5", "i3 i5 i7 i9", "i1"),
    ]
    assert sorted(rows_of(splits.test)) == [
        ("u1", "i1 i2 i3 i4", "i5"),
        ("u2", "i2 i4 i6", "i8"),
        ("u3", "i9 i7", "i5"),
        ("u4", "i10 i1 i10 i2 i10 i3 i6", "i9"),
        ("u5", "i3 i5 i7 i9 i1", "i8"),
    ]
    assert {part.item_num for part in (splits.train, splits.valid, splits.test)} == {11}


def test_leave_one_out_cuts_long_histories_at_the_old_end(ten):
    splits = load_splits(ten(MAX_ITEM_LIST_LENGTH=3))
    assert ("u4", "i1 i10 i2", "i10") in rows_of(splits.train)
    assert ("u4", "i2 i10 i3", "i6") in rows_of(splits.valid)
    assert sorted(rows_of(splits.test)) == [
        ("u1", "i2 i3 i4", "i5"),
        ("u2", "i2 i4 i6", "i8"),
        ("u3", "i9 i7", "i5"),
        ("u4", "i10 i3 i6", "i9"),
        ("u5", "i7 i9 i1", "i8"),
    ]


def test_benchmark_files(split):
    splits = load_splits(split())
    assert rows_of(splits.train) == [
        ("u1", "i1", "i2"),
        ("u1", "i1 i2", "i3"),
        ("u2", "i4 i5 i6", "i7"),
        ("u3", "i8", "i9"),
        ("u3", "i8 i9", "i10"),
    ]
    assert rows_of(splits.valid) == [("u1", "i1 i2 i3", "i4"), ("u2", "i4 i5 i6 i7", "i1"), ("u1", "i1 i2 i3", "i6")]
    assert [row[2] for row in rows_of(splits.test)] == ["i5", "i2", "i9", "i2", "i10"]


def test_benchmark_files_cut_long_histories_at_the_old_end(split):
    splits = load_splits(split(MAX_ITEM_LIST_LENGTH=2))
    assert rows_of(splits.train)[2] == ("u2", "i5 i6", "i7")
    assert rows_of(splits.test)[1] == ("u2", "i7 i1", "i2")
    assert rows_of(splits.train)[0] == ("u1", "i1", "i2")


def test_an_item_known_only_from_histories_is_in_the_catalogue(write_benchmark, make_config, split):
    parts = {part: [("u", ["rare", "i1"], "i2")] for part in ("train", "valid", "test")}
    keys = split().final_config_dict
    path = write_benchmark("rare", parts, {"rare": "Rare", "i1": "One", "i2": "Two"})
    names = ("benchmark_filename", "load_col", "alias_of_item_id")
    splits = load_splits(make_config("rare", path, **{name: keys[name] for name in names}))
    assert rows_of(splits.test) == [("u", "rare i1", "i2")]
    assert sorted(splits.test.titles) == ["", "One", "Rare", "Two"]


def test_rows_that_share_user_and_history_are_one_query(split):
    splits = load_splits(split())
    assert queries_of(QueryDataLoader(splits.test.config, splits.test), splits.test) == [
        ("u3", "i8 i9 i10", "i2"),
        ("u1", "i1 i2 i3 i4", "i5 i9 i10"),
        ("u2", "i4 i5 i6 i7 i1", "i2"),
    ]
    assert queries_of(QueryDataLoader(splits.valid.config, splits.valid), splits.valid) == [
        ("u1", "i1 i2 i3", "i4 i6"),
        ("u2", "i4 i5 i6 i7", "i1"),
    ]


def test_equal_histories_of_two_users_are_two_queries(write_benchmark, make_config, split):
    row = [("u", ["i1"], "i2"), ("v", ["i1"], "i3"), ("u", ["i1"], "i4"), ("u", ["i1", "i1"], "i5")]
    path = write_benchmark("pair", {part: row for part in ("train", "valid", "test")})
    keys = split().final_config_dict
    names = ("benchmark_filename", "load_col", "alias_of_item_id")
    test = load_splits(make_config("pair", path, **{name: keys[name] for name in names})).test
    assert queries_of(QueryDataLoader(test.config, test), test) == [
        ("u", "i1", "i2 i4"),
        ("v", "i1", "i3"),
        ("u", "i1 i1", "i5"),
    ]


@pytest.mark.parametrize("compared", [1, 7, 10_000])
def test_queries_are_those_of_a_plain_loop(compared, movies, monkeypatch):
    monkeypatch.setattr(loader, "_ROWS_COMPARED", compared)
    eval_args = {"split": {"RS": [0.5, 0.1, 0.4]}, "group_by": "user", "order": "TO", "mode": "full"}
    part = load_splits(movies(MAX_ITEM_LIST_LENGTH=1, eval_args=eval_args, rm_dup_inter=None)).test
    grouped = {}
    for user, history, target in rows_of(part):
        grouped.setdefault((user, history), []).append(target)
    found = queries_of(QueryDataLoader(part.config, part), part)
    assert sorted(found) == sorted((*query, " ".join(targets)) for query, targets in grouped.items())


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_queries_come_by_length_whatever_the_batch(batch_size, movies):
    part = load_splits(movies(eval_batch_size=batch_size, MAX_ITEM_LIST_LENGTH=20)).valid
    loader = QueryDataLoader(part.config, part)
    found = queries_of(loader, part)
    lengths = [len(history.split()) for _, history, _ in found]
    assert lengths == sorted(lengths)
    assert sorted(found) == sorted(rows_of(part))
    assert len(loader) == -(-len(found) // batch_size)


def test_a_model_never_sees_the_target(split):
    splits = load_splits(split(eval_batch_size=2))
    loader = QueryDataLoader(splits.test.config, splits.test)
    for _ in range(2):  # the second pass too
        for interaction, *_ in loader:
            assert "item_id" not in interaction.columns
    assert "item_id" in loader._dataset.inter_feat.columns
    assert "item_id" in splits.test.inter_feat.columns and len(splits.test) == 5


def test_queries_are_drawn_by_the_seed(movies, caplog):
    caplog.set_level("INFO")
    config = movies()
    part = load_splits(config).valid
    everything = queries_of(QueryDataLoader(config, part), part)

    def drawn(seed, n_queries):
        config["seed"] = seed
        return queries_of(QueryDataLoader(config, part, n_queries), part)

    first = drawn(1, 30)
    assert len(first) == 30 and set(first) < set(everything)
    assert [row for row in everything if row in set(first)] == first  # still by length
    assert f"30 of {len(everything)} queries are drawn" in caplog.text
    assert drawn(1, 30) == first != drawn(2, 30)
    assert drawn(1, 0) == everything == drawn(1, len(everything)) == drawn(1, 10_000)


class FixedScores(SequentialRecommender):
    """Scores that depend on the latest item of the history alone."""

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset, table):
        super().__init__(config, dataset)
        self.weight = nn.Parameter(torch.zeros(1))
        self.table = table

    def full_sort_predict(self, interaction):
        assert self.ITEM_ID not in interaction.columns
        latest = interaction[self.ITEM_SEQ][torch.arange(len(interaction)), interaction[self.ITEM_SEQ_LEN] - 1]
        return self.table[latest] + self.weight


def evaluate(config, splits, part, table, tmp_path):
    model = FixedScores(config, splits.train, table)
    trainer = SafetensorsTrainer(config, model, RunFolder(tmp_path), "weights")
    trainer.eval_collector.data_collect(train_loader(config, splits.train, np.arange(len(splits.train))))
    return trainer.evaluate(QueryDataLoader(config, part), load_best_model=False)


def ranking_table(part, rankings):
    """Scores [n_items, n_items]: for each latest item the named items in that order, then all others."""
    table = torch.full((part.item_num, part.item_num), -100.0)
    table[:, 0] = 1000.0  # padding must not be recommended
    for latest, ranking in rankings.items():
        for place, item in enumerate(ranking.split()):
            table[part.token2id("item_id", latest), part.token2id("item_id", item)] = -float(place)
    return table


def test_metrics_of_coverage_and_popularity(split, tmp_path):
    config = split(topk=[1], metrics=["Recall", "ItemCoverage", "AveragePopularity"], metric_decimal_place=6)
    splits = load_splits(config)
    table = ranking_table(splits.test, {"i4": "i5", "i1": "i3", "i10": "i2"})
    model = FixedScores(config, splits.train, table)
    trainer = SafetensorsTrainer(config, model, RunFolder(tmp_path), "weights")
    trainer.eval_collector.data_collect(train_loader(config, splits.train, np.arange(len(splits.train))))
    for _ in range(2):  # as validation does, epoch by epoch
        result = trainer.evaluate(QueryDataLoader(config, splits.test), load_best_model=False)
        # RecBole counts padding as an item. Of i5, i3 and i2 the last two are the target of one training row each.
        assert result["itemcoverage@1"] == pytest.approx(3 / 11, abs=1e-6)
        assert result["averagepopularity@1"] == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_recall_and_ndcg_with_several_positives(batch_size, split, tmp_path):
    config = split(eval_batch_size=batch_size, topk=[1, 3, 5, 10], metric_decimal_place=6)
    splits = load_splits(config)
    rankings = {
        "i4": "i5 i1 i9 i2 i3 i10 i4 i6 i7 i8",  # u1: i5, i9 and i10 at ranks 1, 3 and 6
        "i1": "i3 i4 i6 i2 i1 i5 i7 i8 i9 i10",  # u2: i2 at rank 4
        "i10": "i2 i1 i3 i4 i5 i6 i7 i8 i9 i10",  # u3: i2 at rank 1
    }
    result = evaluate(config, splits, splits.test, ranking_table(splits.test, rankings), tmp_path)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    expected = {
        "recall@1": (1 / 3 + 0 + 1) / 3,
        "recall@3": (2 / 3 + 0 + 1) / 3,
        "recall@5": (2 / 3 + 1 + 1) / 3,
        "recall@10": 1.0,
        "ndcg@1": (1 + 0 + 1) / 3,
        "ndcg@3": ((1 + 1 / log2(4)) / ideal + 0 + 1) / 3,
        "ndcg@5": ((1 + 1 / log2(4)) / ideal + 1 / log2(5) + 1) / 3,
        "ndcg@10": ((1 + 1 / log2(4) + 1 / log2(7)) / ideal + 1 / log2(5) + 1) / 3,
    }
    assert dict(result) == pytest.approx(expected, abs=2e-6)


def recall_and_ndcg(positives, scores, k):
    ranked = sorted(range(1, len(scores)), key=lambda item: -scores[item])[:k]
    gains = [1 / log2(place + 2) for place, item in enumerate(ranked) if item in positives]
    ideal = sum(1 / log2(place + 2) for place in range(min(len(positives), k)))
    return len(gains) / len(positives), sum(gains) / ideal


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_against_a_plain_loop(seed, split, tmp_path):
    config = split(eval_batch_size=2, topk=[1, 2, 4, 7], metric_decimal_place=6)
    splits = load_splits(config)
    table = torch.from_numpy(np.random.default_rng(seed).permuted(np.tile(np.arange(11.0), (11, 1)), axis=1)).float()
    for part in (splits.valid, splits.test):
        result = evaluate(config, splits, part, table, tmp_path)
        grouped = {}
        for user, history, target in rows_of(part):
            grouped.setdefault((user, history), set()).add(part.token2id("item_id", target))
        for k in config["topk"]:
            pairs = [
                recall_and_ndcg(positives, table[part.token2id("item_id", history.split()[-1])].tolist(), k)
                for (_, history), positives in grouped.items()
            ]
            recall, ndcg = np.mean(pairs, axis=0)
            assert result[f"recall@{k}"] == pytest.approx(recall, abs=2e-6)
            assert result[f"ndcg@{k}"] == pytest.approx(ndcg, abs=2e-6)


def test_train_loader_serves_the_chosen_rows(ten):
    config = ten(train_batch_size=2)
    train = load_splits(config).train
    rows = np.array([4, 1, 7])
    loader = train_loader(config, train, rows)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [2, 1]
    columns = [(batch["user_id"].tolist(), batch["item_id"].tolist()) for batch in batches]
    found = [pair for users, items in columns for pair in zip(users, items, strict=True)]
    feat = train.inter_feat
    assert sorted(found) == sorted((int(feat["user_id"][row]), int(feat["item_id"][row])) for row in rows)
    assert loader._dataset.item_num == train.item_num and len(train) == 12


def test_a_missing_folder_is_named(make_config, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such dataset folder; put nowhere.inter"):
        load_splits(make_config("nowhere", tmp_path))


def test_a_missing_interaction_file_is_named(ten, tmp_path):
    config = ten()
    (tmp_path / "ten" / "ten.inter").unlink()
    with pytest.raises(InputError, match="ten"):
        load_splits(config)


def test_a_missing_benchmark_file_is_named(split, tmp_path):
    config = split()
    (tmp_path / "split" / "split.valid.inter").unlink()
    with pytest.raises(InputError, match="split.valid.inter"):
        load_splits(config)


def test_missing_titles_are_named(ten, tmp_path):
    config = ten()
    (tmp_path / "ten" / "ten.item").unlink()
    with pytest.raises(InputError, match="ten.item: no such file"):
        load_splits(config)


def test_the_title_column_is_configured(ten):
    with pytest.raises(InputError, match="no column 'name'"):
        load_splits(ten(title_field="name"))


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_an_empty_part_is_named(part, write_benchmark, make_config, split):
    keys = split().final_config_dict
    parts = {name: [("u", ["i1"], "i2")] for name in ("train", "valid", "test")}
    path = write_benchmark("hollow", {**parts, part: []})
    names = ("benchmark_filename", "load_col", "alias_of_item_id")
    with pytest.raises(InputError, match=f"hollow.{part}.inter: holds no row"):
        load_splits(make_config("hollow", path, **{name: keys[name] for name in names}))


def test_sequences_too_short_to_split_are_an_error(write_dataset, make_config):
    path = write_dataset("short", {"u": ["i1", "i2"], "v": ["i2", "i1"]})
    with pytest.raises(InputError, match="short: the (validation|test) split is empty"):
        load_splits(make_config("short", path))


def test_an_empty_history_is_an_error(write_benchmark, make_config, split):
    keys = split().final_config_dict
    row = [("u", ["i1"], "i2"), ("u", [], "i3")]
    path = write_benchmark("gap", {"train": row, "valid": row[:1], "test": row[:1]})
    names = ("benchmark_filename", "load_col", "alias_of_item_id")
    with pytest.raises(InputError, match="gap.train.inter, row 3: item_id_list is empty"):
        load_splits(make_config("gap", path, **{name: keys[name] for name in names}))


def test_benchmark_files_need_the_history_column(split):
    with pytest.raises(InputError, match="no column 'item_id_list'; add it to load_col"):
        load_splits(split(load_col={"inter": ["user_id", "item_id"]}, alias_of_item_id=None))


def test_a_column_of_times_that_load_col_names_has_to_be_there(split):
    columns = {"inter": ["user_id", "item_id_list", "item_id", "timestamp"]}
    with pytest.raises(InputError, match=r"split.train.inter: no column 'timestamp:float' \(found"):
        load_splits(split(load_col=columns))


def test_three_parts_are_needed(split):
    with pytest.raises(InputError, match="training, validation and test are needed, found 2"):
        load_splits(split(benchmark_filename=["train", "test"]))


@pytest.mark.parametrize(
    "mode", ["uni100", "pop100", {"valid": "uni100", "test": "full"}, {"valid": "full", "test": "uni5"}]
)
def test_ranking_has_to_be_over_the_catalogue(mode, ten):
    config = ten(eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode})
    with pytest.raises(InputError, match="'eval_args': mode has to be full"):
        load_splits(config)


def without_titles(path, name, *items):
    """Empties the titles of some items of a dataset, and leaves another out of the file."""
    lines = (path / name / f"{name}.item").read_text().splitlines()
    rows = [line.partition("\t") for line in lines]
    kept = [(item, tab, "" if item in items else title) for item, tab, title in rows if item != items[-1]]
    (path / name / f"{name}.item").write_text("".join("".join(row) + "\n" for row in kept))


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_items_without_a_title_are_in_no_target_history_or_ranking(ten, tmp_path, caplog):
    config = ten()
    without_titles(tmp_path, "ten", "i4", "i10")
    splits = load_splits(config)
    assert sorted(splits.train.field2id_token["item_id"][1:]) == [f"i{n}" for n in (1, 2, 3, 5, 6, 7, 8, 9)]
    assert sorted(rows_of(splits.train)) == [
        ("u1", "i1", "i2"), ("u2", "i2", "i6"), ("u3", "i9", "i7"), ("u4", "i1", "i2"), ("u4", "i1 i2", "i3"),
        ("u5", "i3", "i5"), ("u5", "i3 i5", "i7"), ("u5", "i3 i5 i7", "i9"),
    ]  # fmt: skip
    assert ("u1", "i1 i2", "i3") in rows_of(splits.valid) and ("u2", "i2 i6", "i8") in rows_of(splits.test)
    (warning,) = warnings_of(caplog)
    assert warning.endswith("2 items of the interactions have no title and are left out, with 5 rows; the first is i4")


def test_what_fills_short_histories_is_no_item(write_benchmark, make_config, split, caplog):
    row = [
        ("u", ["0", "0", "i1"], "i2"), ("v", ["0", "0", "0"], "i3"), ("v", ["i1", "i9", "i2"], "i4"),
        ("w", ["i1", "i2", "i4"], "i9"),
    ]  # fmt: skip
    titles = {"i1": "One", "i2": "Two", "i3": "Three", "i4": "Four", "i9": ""}
    path = write_benchmark("full", {part: row for part in ("train", "valid", "test")}, titles)
    keys = split().final_config_dict
    names = ("benchmark_filename", "load_col", "alias_of_item_id")
    splits = load_splits(make_config("full", path, **{name: keys[name] for name in names}))
    for part in (splits.train, splits.valid, splits.test):
        assert rows_of(part) == [("u", "i1", "i2"), ("v", "i1 i2", "i4")]
    assert sorted(splits.train.titles) == ["", "Four", "One", "Two"]
    (warning,) = warnings_of(caplog)
    assert warning.endswith("2 items of the interactions have no title and are left out, with 6 rows; the first is i9")


def test_an_item_named_0_with_a_title_stays(write_dataset, make_config):
    path = write_dataset("zero", {user: ["0", "1", "2", "0"] for user in "uv"})
    assert ("u", "0 1 2", "0") in rows_of(load_splits(make_config("zero", path)).test)


def test_features_of_items_without_a_title_are_left_out(write_dataset, make_config, tmp_path):
    path = write_dataset("shop", {user: [f"i{n}" for n in range(9)] for user in "uv"})
    without_titles(tmp_path, "shop", "i4", "i0")
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    train = load_splits(make_config("shop", path, load_col=load_col)).train
    assert train.titles[1:] == [f"title of i{n}" for n in (8, 7, 6, 5, 3, 2, 1)]
    assert len(train.item_feat) == train.item_num == 8


def test_a_part_without_any_title_is_an_error(ten, split, tmp_path):
    config, parts = ten(), split()
    (tmp_path / "ten" / "ten.item").write_text("item_id:token\ttitle:token\nx\tOne\n")
    with pytest.raises(InputError, match="ten.item: none of the 10 items of the interactions in ten.inter has a title"):
        load_splits(config)
    (tmp_path / "split" / "split.item").write_text("item_id:token\ttitle:token\ni1\tOne\ni2\tTwo\n")
    with pytest.raises(InputError, match="split.item: none of the 3 items of the interactions in split.valid.inter"):
        load_splits(parts)


def test_what_was_read_is_said_once(ten, caplog, tmp_path):
    caplog.set_level("INFO")
    config = ten(user_inter_num_interval="[4,inf)", samples_per_user=0)
    with open(tmp_path / "ten" / "ten.inter", "a") as stream:
        stream.write("u1\ti1\t1000\nu1\tnameless\t1001\n")
    load_splits(config)
    (message,) = [record.message for record in caplog.records if record.levelname == "INFO"]
    # By hand: 26 rows, u3's 3 go by the filter; u1 has 6, u2 4, u4 8, u5 6 of what is left.
    assert message.splitlines() == [
        "ten: 4 users, 10 items, 24 interactions, times 1000 to 1070",
        "  untitled     1 items are left out, with 1 rows",
        "  same title   2 items share their title with another, and rank next to it",
        "  repeated     1 rows repeat user, item and time of another row",
        "  filtered     3 rows are removed by RecBole's filter keys",
        "  training     12 rows, 60.0%",
        "  validation   4 rows, 20.0%",
        "  test         4 rows, 20.0%",
        "  split        the last row of each user is the test part, the row before it the validation part",
        "               (eval_args); a user's first row has no history and is not a target",
    ]


def test_the_summary_of_a_published_split(split):
    lines = str(load_splits(split()).summary).splitlines()
    assert lines[0] == "split: 3 users, 10 items, 13 interactions"
    assert lines[-1] == "  split        as in the files: train, valid, test"


def test_what_prompts_say_of_items(ten, tmp_path):
    config = ten(prompt_item="{title} ({year of issue}; {genre})")
    lines = (tmp_path / "ten" / "ten.item").read_text().splitlines()
    with pytest.raises(InputError, match="'prompt_item': unknown field {genre}; choose from"):
        load_splits(config)
    more = ["\tyear of issue:float\tgenre:token_seq", *(f"\t19{n:02}\t{{noun}}  A" for n in range(10))]
    text = "\n".join(line + cells for line, cells in zip(lines, more, strict=True))
    (tmp_path / "ten" / "ten.item").write_text(text)
    splits, plain = load_splits(config), load_splits(ten())
    texts = dict(zip(splits.train.field2id_token["item_id"][1:], splits.train.item_texts[1:], strict=True))
    titles = dict(zip(splits.train.field2id_token["item_id"][1:], splits.train.titles[1:], strict=True))
    assert texts == {item: f"{titles[item]} (19{int(item[1:]) - 1:02}; {{noun}} A)" for item in titles}
    assert plain.train.item_texts == plain.train.titles == splits.train.titles
    assert splits.fingerprint == plain.fingerprint and splits.contents != plain.contents


HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("user_id\titem_id\ttimestamp\nu\ti1\t1\n", "ten.inter"),
        ("user_id:token\titem_id:token\nu\ti1\n", "timestamp"),
        ("", "ten.inter"),
        (HEADER, "ten"),
        (HEADER + "u\ti1\tnoon\n", "ten.inter, row 2: timestamp is 'noon', which is not a number"),
        (HEADER + "u\ti1\t1\nu\ti2\t\n", "ten.inter, row 3: timestamp is '', which is not a number"),
        (HEADER + "u\ti1\t1\n\nu\ti2\tinf\n", "ten.inter, row 4: timestamp is 'inf', which is not a number"),
        (HEADER + 'u\t"i1\t1\n', "ten.inter, row 2: a column begins with a quotation mark"),
        (HEADER + "u\ti1\t1\n\nNA\ti2\t2\n", "ten.inter, row 4: user_id is empty, or a word such as NA"),
        (HEADER + "u\t\t1\n", "ten.inter, row 2: item_id is empty"),
    ],
)
def test_a_broken_interaction_file_is_one_line(text, part, ten, tmp_path):
    config = ten()
    (tmp_path / "ten" / "ten.inter").write_text(text)
    with pytest.raises(InputError, match=part) as raised:
        load_splits(config)
    assert "\n" not in str(raised.value)


def test_a_repeated_row_is_kept_with_a_warning(ten, tmp_path, caplog):
    config = ten()
    with open(tmp_path / "ten" / "ten.inter", "a") as stream:
        stream.write("\nu3\ti7\t1010\n")
    splits = load_splits(config)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "ten.inter: 1 rows repeat" in warning and "the first is row 29;" in warning
    assert ("u3", "i9 i7", "i7") in rows_of(splits.valid)


def test_no_row_is_taken_for_another_without_a_warning(ten, caplog):
    load_splits(ten())
    assert not caplog.records


def test_time_order_is_needed(ten):
    config = ten(eval_args={"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user", "mode": "full"})
    with pytest.raises(InputError, match="configuration key 'eval_args': order has to be TO"):
        load_splits(config)
