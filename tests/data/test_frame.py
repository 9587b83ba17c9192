import numpy as np
import pandas as pd
import pytest

from recbole_dealrec import select_fewshot
from recbole_dealrec.errors import InputError

# Items that an atomic file could not name, or that RecBole would read as missing.
SHOP = {
    "ann": ["a\tb", "NA", "2", "x y", '"q"', "[PAD]"],
    "NA": ["2", "x y", "a\tb", "", "NA"],
    "": ["[PAD]", '"q"', "", "2"],
    "bob bob": ["x y", "2", "NA", "a\tb"],
}
TITLES = {
    "a\tb": "Tab\there", "NA": "Line\nbreak", "2": '"Quoted" start', "x y": "null", '"q"': "  two   blanks ",
    "[PAD]": "{brace} \u2028 end", "": "NUL \0 inside",
}  # fmt: skip
CLEAN = {
    "a\tb": "Tab here", "NA": "Line break", "2": '"Quoted" start', "x y": "null", '"q"': "two blanks",
    "[PAD]": "{brace} end", "": "NUL inside",
}  # fmt: skip


@pytest.fixture
def shop():
    """Interactions, latest first, and titles of a few users and items with odd ids."""
    rows = [(user, item, 10 * place) for user, items in SHOP.items() for place, item in enumerate(items)]
    interactions = pd.DataFrame(rows[::-1], columns=["user_id", "item_id", "timestamp"])
    return interactions, pd.DataFrame({"item_id": TITLES.keys(), "title": TITLES.values()})


@pytest.fixture
def select(checkpoint):
    """``select(interactions, items, **keys)`` with a small model on the CPU; random but for ``sampler``."""
    fixed = {"sampler": "Random", "n_fewshot": 4, "use_gpu": False, "show_progress": False}
    return lambda interactions, items, **keys: select_fewshot(
        interactions, items, **{**fixed, "llm_path": checkpoint("llama"), **keys}
    )


def check_samples(selected):
    """Each sample is what the user's items but the last two end in."""
    assert set(selected["user"]) == set(SHOP) and len(selected) == 4
    for row in selected.itertuples():
        assert [*row.history, row.target] == SHOP[row.user][:-2]
        assert row.history_titles == [CLEAN[item] for item in row.history]
        assert row.target_title == CLEAN[row.target] and row.output == f'"{CLEAN[row.target]}"'
        assert row.input == ", ".join(f'"{title}"' for title in row.history_titles)
        assert row.input in row.prompt and row.completion in (f"{row.output}<end>", f"{row.output}<|stop|>")


def test_samples_come_in_the_ids_and_titles_of_the_frames(select, shop, tmp_path):
    selected = select(*shop)
    own = ["user", "history", "target", "history_titles", "target_title"]
    assert list(selected) == [*own, "instruction", "input", "output", "prompt", "completion"]
    check_samples(selected)
    assert not list(tmp_path.glob("saved*"))


def test_messages_come_along_where_a_chat_template_lays_them_out(select, shop, checkpoint):
    selected = select(*shop, llm_path=checkpoint("chat llama"), chat_template=True)
    check_samples(selected)
    for row in selected.itertuples():
        contents = {"system": row.instruction, "user": row.input, "assistant": row.output}
        assert row.messages == [{"role": role, "content": content} for role, content in contents.items()]


def test_names_times_and_types_of_columns_are_free(select, shop):
    interactions, items = shop
    times = pd.Timestamp("2020-02-02", tz="Asia/Tokyo") + pd.to_timedelta(interactions["timestamp"], unit="us")
    interactions = interactions.drop(columns="timestamp").assign(when=times, more="x")
    interactions = interactions.rename(columns={"user_id": "who", "item_id": "what"})
    items = items.rename(columns={"item_id": "what", "title": "name"}).iloc[::-1]
    names = {"user_col": "who", "item_col": "what", "time_col": "when", "title_col": "name"}
    check_samples(select(interactions, items, **names))

    numbers = {item: 7 * number for number, item in enumerate(TITLES)}
    interactions["what"] = interactions["what"].map(numbers)
    selected = select(interactions, items.assign(what=items["what"].map(numbers)), **names)
    assert selected["target"].dtype == np.int64
    assert [numbers[items[-3]] for items in map(SHOP.get, selected["user"])] == selected["target"].tolist()


def test_frames_of_polars(select, shop):
    polars = pytest.importorskip("polars")
    interactions, items = shop
    dates = pd.to_datetime(interactions["timestamp"], unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    interactions = interactions.assign(timestamp=dates)
    check_samples(select(*(polars.DataFrame(frame.to_dict("list")) for frame in (interactions, items))))


def test_paths_and_further_columns_of_items(select, tmp_path):
    users = {f"user {n}": [f"i{(n + place) % 5}" for place in range(4)] for n in range(4)}
    rows = [(user, item, f"2024-01-0{place + 1}") for user, items in users.items() for place, item in enumerate(items)]
    pd.DataFrame(rows[::-1], columns=["reader", "item", "date"]).to_csv(tmp_path / "loans.csv", index=False, sep=";")
    items = pd.DataFrame({"item": [f"i{n}" for n in range(5)], "title": list("ABCDE"), "Main genre": list("vwxyz")})
    items.to_parquet(tmp_path / "books.parquet")
    keys = {"user_col": "reader", "text_cols": ["Main genre"], "prompt_item": "{title} ({Main_genre})"}
    selected = select(str(tmp_path / "loans.csv"), tmp_path / "books.parquet", **keys)
    assert {row.user: [*row.history, row.target] for row in selected.itertuples()} == {
        user: items[:2] for user, items in users.items()
    }
    titles = dict(zip(items["item"], items["title"] + " (" + items["Main genre"] + ")", strict=True))
    for row in selected.itertuples():
        assert row.input == f'"{titles[row.history[0]]}"' and row.output == f'"{titles[row.target][0]}"'
    mixed = select(pd.read_csv(tmp_path / "loans.csv", sep=";"), tmp_path / "books.parquet", **keys)
    pd.testing.assert_frame_equal(mixed, selected)


def test_an_item_without_a_title_is_left_out(select, shop, caplog):
    interactions, items = shop
    selected = select(interactions, items[items["item_id"] != "x y"])
    messages = [record.message for record in caplog.records if "title" in record.message]
    assert messages == ["items: 1 items of the interactions have no title and are left out; the first is x y"]
    kept = {user: [item for item in sequence if item != "x y"] for user, sequence in SHOP.items()}
    assert {row.user: [*row.history, row.target] for row in selected.itertuples()} == {
        user: sequence[: -2 if len(sequence) > 3 else -1] for user, sequence in kept.items()
    }


def test_scores_of_the_sampler_come_along_and_are_kept_if_asked(select, shop, tmp_path):
    keys = {
        "sampler": "DEALRec", "hard_prune_ratio": 0, "n_fewshot": 5, "samples_per_user": 0, "surrogate_epochs": 1,
        "n_surrogates": 1, "topk": [3], "surrogate_valid_metric": "NDCG@3", "checkpoint_dir": str(tmp_path / "kept"),
    }  # fmt: skip
    selected = select(*shop, **keys)
    assert list(selected)[5:9] == ["influence", "effort", "score", "group"]
    (folder,) = (tmp_path / "kept").glob("frame-BIGRec-DEALRec-*")
    scores = pd.read_csv(folder / "scores.csv", float_precision="round_trip")
    assert len(scores) == 7
    np.testing.assert_array_equal(selected["effort"], scores.loc[scores["selected"] == 1, "effort"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*/*.npy")}
    pd.testing.assert_frame_equal(select(*shop, **keys), selected)
    assert written == {path: path.stat().st_mtime_ns for path in written} and len(written) == 2


def renamed(frame, **names):
    return frame.rename(columns=names)


def with_value(frame, row, column, value):
    return frame.astype({column: object}).assign(**{column: [*frame[column][:row], value, *frame[column][row + 1 :]]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows, items: (renamed(rows, user_id="who"), items),
            r"interactions: no column for the user \(found who, ",
        ),
        (
            lambda rows, items: (rows, renamed(items, title="name")),
            r"items: no column for the title \(found item_id, name\)",
        ),
        (lambda rows, items: (rows[:0], items), "interactions: holds no row"),
        (
            lambda rows, items: (with_value(rows, 3, "user_id", None), items),
            "interactions, row 3, counted from 0: user_id is",
        ),
        (
            lambda rows, items: (with_value(rows, 2, "timestamp", np.inf), items),
            "row 2, counted from 0: timestamp is 'inf', which is neither a finite number",
        ),
        (
            lambda rows, items: (with_value(rows, 2, "timestamp", "noon"), items),
            "row 2, counted from 0: timestamp is 'noon', which is neither a finite number",
        ),
        (lambda rows, items: (rows, with_value(items, 1, "item_id", "2")), "items: item '2' has 2 titles"),
        (
            lambda rows, items: (rows, items.assign(item_id=range(7))),
            "items: none of the items has a title; check that the ids are the same in both",
        ),
    ],
)
def test_frames_that_cannot_be_used_are_named(change, message, select, shop):
    with pytest.raises(InputError, match=message):
        select(*change(*shop))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows, items: (rows.assign(item_id=[["a"]] * len(rows)), items),
            "row 0, counted from 0: item_id is a list; an id",
        ),
        (
            lambda rows, items: (pd.concat([rows, rows[["user_id"]]], axis=1), items),
            "the columns user_id and user_id could each be the user",
        ),
        (
            lambda rows, items: (rows, pd.concat([items, items[["title"]]], axis=1)),
            "the columns title and title could each be the title",
        ),
        (
            lambda rows, items: (rows.to_dict(), items),
            "interactions: has to be a DataFrame of pandas or polars or a path, not dict",
        ),
        (
            lambda rows, items: (rows, items["title"]),
            "items: has to be a DataFrame of pandas or polars or a path, not Series",
        ),
    ],
)
def test_frames_of_odd_kinds_are_named(change, message, select, shop):
    with pytest.raises(InputError, match=message):
        select(*change(*shop))


def test_categories_are_their_values(select, shop):
    interactions, items = shop
    known = [*TITLES, "never bought"]
    interactions = interactions.astype({"user_id": "category"})
    interactions["item_id"] = pd.Categorical(interactions["item_id"], categories=known)
    items = items.assign(
        item_id=pd.Categorical(items["item_id"], categories=known), title=items["title"].astype("category")
    )
    selected = select(interactions, items)
    check_samples(selected)
    pd.testing.assert_frame_equal(selected, select(*shop))


def test_whole_numbers_that_pandas_keeps_as_floats_are_written_whole(select, shop):
    interactions, items = shop
    years = pd.Series([1913.0, 1984.0, 2001.0, 1.5, 300.0, np.nan, 7.0])
    selected = select(interactions, items.assign(title=years))
    titles = {title for titles in selected["history_titles"] for title in titles} | set(selected["target_title"])
    assert {"1913", "1984", "2001", "1.5"} <= titles and "1913.0" not in titles


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data_path": "here"}, "'data_path': the data come from interactions and items"),
        ({"n_group": 5}, "did you mean 'n_groups'"),
        ({"sampler": "Best"}, "no sampler 'Best'"),
        ({"n_fewshot": 5}, "only 4 of 4 candidate samples"),
        ({"lora_target_modules": ["c_attn"]}, "has no module 'c_attn'"),
    ],
)
def test_keys_that_cannot_be_used_are_named(keys, message, select, shop):
    with pytest.raises(InputError, match=message):
        select(*shop, **keys)
