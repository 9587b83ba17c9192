"""Rolling folds of time, against what is listed by hand and what holds for any interactions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recbole
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.cli.command import main as command
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.convert import Columns, convert
from recbole_dealrec.data.convert.fold import time_folds
from recbole_dealrec.data.convert.interactions import LONGEST_HISTORY, Interactions
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare

# Twenty interactions, two in each tenth: user, item, time; d comes in the eighth tenth, item n in the ninth.
ROWS = [
    ("a", "i1", 10), ("b", "i1", 11), ("a", "i2", 12), ("c", "i3", 13), ("a", "i3", 14),
    ("b", "i2", 15), ("c", "i1", 16), ("b", "i4", 17), ("a", "i4", 18), ("c", "i2", 19),
    ("b", "i5", 20), ("a", "i5", 21), ("c", "i4", 22), ("b", "i3", 23), ("d", "i1", 24),
    ("a", "i1", 25), ("a", "n", 26), ("d", "i2", 27), ("c", "n", 28), ("d", "i3", 29),
]  # fmt: skip
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float"


@pytest.fixture
def write_shop(tmp_path):
    """Writes a file of (user, item, time), latest first; returns its path."""

    def write(rows):
        lines = [f"{user},{item},{time},Title of {item}" for user, item, time in reversed(rows)]
        (tmp_path / "rows.csv").write_text("\n".join(["user,item,time,title", *lines]))
        return tmp_path / "rows.csv"

    return write


def rows_in(folder, name, part):
    """(user, history, target, time) of each row of a part's file."""
    header, *lines = (folder / name / f"{name}.{part}.inter").read_text().splitlines()
    assert header == HEADER
    cells = [line.split("\t") for line in lines]
    return [(user, tuple(history.split()), target, int(time)) for user, history, target, time in cells]


def listed(text):
    """Rows as (user, history, target, time) from lines of a table."""
    cells = [line.split() for line in text.strip().splitlines()]
    return [(user, tuple(items), target, int(time)) for user, *items, target, time in cells]


def test_three_folds_by_hand(write_shop, tmp_path):
    summary = convert(write_shop(ROWS), tmp_path / "shop", folds=3)
    first = """
        a i1 i2 12
        a i1 i2 i3 14
        a i1 i2 i3 i4 18
        b i1 i2 15
        b i1 i2 i4 17
        b i1 i2 i4 i5 20
        c i3 i1 16
        c i3 i1 i2 19
    """
    # The first fold trains on the first six tenths, that is before 22; the second one before 24, the third before 26.
    assert sorted(rows_in(tmp_path, "shop-fold1", "train")) == sorted(listed(first) + listed("a i1 i2 i3 i4 i5 21"))
    assert sorted(rows_in(tmp_path, "shop-fold1", "valid")) == listed("b i1 i2 i4 i5 i3 23\nc i3 i1 i2 i4 22")
    assert rows_in(tmp_path, "shop-fold1", "test") == listed("a i1 i2 i3 i4 i5 i1 25")  # d is new in this period
    second = listed(first) + listed("a i1 i2 i3 i4 i5 21\nb i1 i2 i4 i5 i3 23\nc i3 i1 i2 i4 22")
    assert sorted(rows_in(tmp_path, "shop-fold2", "train")) == sorted(second)
    assert rows_in(tmp_path, "shop-fold2", "valid") == listed("a i1 i2 i3 i4 i5 i1 25")
    assert rows_in(tmp_path, "shop-fold2", "test") == listed("a i1 i2 i3 i4 i5 i1 n 26")  # an item that is new
    assert sorted(rows_in(tmp_path, "shop-fold3", "train")) == sorted(second + listed("a i1 i2 i3 i4 i5 i1 25"))
    assert sorted(rows_in(tmp_path, "shop-fold3", "valid")) == listed("a i1 i2 i3 i4 i5 i1 n 26\nd i1 i2 27")
    assert sorted(rows_in(tmp_path, "shop-fold3", "test")) == listed("c i3 i1 i2 i4 n 28\nd i1 i2 i3 29")
    assert "fold 2       train 11 rows, valid 1 rows, test 1 rows" in str(summary)
    assert (tmp_path / "shop" / "shop.inter").exists() and not list(tmp_path.glob(".shop*"))


def test_a_fold_is_a_dataset_whose_times_can_be_sampled_by(write_shop, tmp_path, make_config):
    rows = [(user, item, 10**9 + time) for user, item, time in ROWS]  # float32 would not tell these times apart
    convert(write_shop(rows), tmp_path / "shop", folds=3)
    keys = yaml.safe_load((tmp_path / "shop-fold3" / "shop-fold3.yaml").read_text())
    assert keys["load_col"] == {"inter": ["user_id", "item_id_list", "item_id", "timestamp"]}
    config = make_config("shop-fold3", tmp_path, sampler="Recent", n_fewshot=3, samples_per_user=0, topk=[5])
    (job,) = prepare([config], check_llm=False)
    train = job.splits.train
    selected = job.samples[job.sampler.sample(job.samples)]
    found = zip(train.id2token("user_id", selected.user_id), train.id2token("item_id", selected.item_id), strict=True)
    assert set(found) == {("a", "i1"), ("b", "i3"), ("c", "i4")}
    assert train.span == (10**9 + 12, 10**9 + 29) and "n" in train.field2id_token["item_id"]
    for part, size in zip((job.splits.train, job.splits.valid, job.splits.test), (12, 2, 2), strict=True):
        assert sorted(CandidateSamples.from_dataset(part).time) == list(range(size))


def test_the_fingerprint_has_the_order_in_time(write_shop, tmp_path, make_config):
    """Samples by time differ where the times alone do, so their folders have to."""
    convert(write_shop(ROWS), tmp_path / "shop", folds=1)
    config, file = make_config("shop-fold1", tmp_path), tmp_path / "shop-fold1" / "shop-fold1.train.inter"
    before = load_splits(config).fingerprint
    header, *lines = file.read_text().splitlines()
    rows = [line.rsplit("\t", 1) for line in lines]
    file.write_text("\n".join([header, *(f"{row}\t{-float(time)}" for row, time in rows)]))
    assert load_splits(config).fingerprint != before


def test_times_of_rows_that_are_left_out_are_left_out(write_shop, tmp_path, make_config):
    convert(write_shop(ROWS), tmp_path / "shop", folds=1)
    item_file = tmp_path / "shop-fold1" / "shop-fold1.item"
    item_file.write_text("".join(line for line in item_file.open() if not line.startswith(("i5", "n"))))
    splits = load_splits(make_config("shop-fold1", tmp_path))
    for part, name in ((splits.train, "train"), (splits.valid, "valid"), (splits.test, "test")):
        samples = CandidateSamples.from_dataset(part)
        kept = [row for row in rows_in(tmp_path, "shop-fold1", name) if row[2] not in ("i5", "n")]
        order = [part.id2token("user_id", samples.user_id[row]) for row in np.argsort(samples.time)]
        assert order == [user for user, *_ in sorted(kept, key=lambda row: row[-1])]


def test_the_words_of_a_known_dataset_are_those_of_its_folds(write_shop, tmp_path, make_config):
    convert(write_shop(ROWS), tmp_path / "games", folds=1)
    assert make_config("games-fold1", tmp_path)["prompt_noun"] == "video game"
    assert "prompt_noun" not in yaml.safe_load((tmp_path / "games" / "games.yaml").read_text())


def test_the_command_names_the_folds(write_shop, tmp_path, capsys):
    assert command(["convert", str(write_shop(ROWS)), f"{tmp_path}/shop/", "--folds=2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("shop-fold2: written; use it with --dataset=shop-fold2")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=30, max_size=80), st.integers(1, 8))
def test_no_fold_leaks_and_equal_times_are_on_one_side(pairs, count):
    frame = pd.DataFrame([(f"u{user}", f"i{number}", t) for number, (user, t) in enumerate(pairs)])
    interactions = Interactions.of([frame.set_axis(["user", "item", "time"], axis=1)]).in_time_order()
    time = interactions.time
    try:
        folds = time_folds(time, count)
    except InputError:
        return
    for fold, later in zip(folds, [*folds[1:], None], strict=True):
        ends = [0, *fold.ends]
        parts = [time[start:end] for start, end in zip(ends, ends[1:], strict=False)]
        assert parts[0].max() < parts[1].min() and parts[1].max() < parts[2].min()
        assert later is None or fold.ends[1:] == later.ends[:2]
        found = list(fold.rows(interactions))
        cells = [(part, *line.split("\t")) for part, line in found]
        for part, _, history, _, at in cells:
            assert time[ends[part]] <= int(at) <= time[ends[part + 1] - 1]
            times = [pairs[int(item[1:])][1] for item in history.split()]
            assert times == sorted(times) and times[-1] <= int(at)
        known = {f"u{pairs[int(interactions.items[code][1:])][0]}" for code in interactions.item[: fold.ends[0]]}
        used = [row for row in range(fold.ends[-1]) if interactions.users[interactions.user[row]] in known]
        assert {user for _, user, *_ in cells} <= known and len(cells) == len(used) - len(known)
    assert folds[-1].ends[-1] == len(time)


@pytest.mark.parametrize("count", [3, 8])
def test_periods_have_as_many_interactions(count):
    ends = [fold.ends for fold in time_folds(np.arange(1007), count)]
    sizes = [size for each in ends for size in np.diff(each)]
    assert set(sizes) <= {100, 101} and ends[-1] == (805, 906, 1007)


def test_histories_are_as_long_as_in_a_split():
    rows = pd.DataFrame({"user": "u", "item": [f"i{place}" for place in range(100)], "time": range(100)})
    interactions = Interactions.of([rows])
    (fold,) = time_folds(interactions.time, 1)
    last = list(fold.rows(interactions))[-1][1].split("\t")
    assert last[1].split() == [f"i{place}" for place in range(99 - LONGEST_HISTORY, 99)] and last[2:] == ["i99", "99"]


@pytest.mark.parametrize(
    "rows, folds, message",
    [
        (ROWS, 9, "folds: 9 is not from 1 to 8; each is a tenth later"),
        (ROWS, -1, "folds: -1 is not from 1 to 8"),
        (ROWS[:6], 3, "folds: 6 interactions have too few different times for 3 folds; lower it"),
        ([(user, item, 5) for user, item, _ in ROWS], 1, "20 interactions have too few different times for 1 folds"),
        ([(f"u{n}", "i", n) for n in range(20)], 1, "shop-fold1: too few interactions for a split by time; the train"),
    ],
)
def test_data_that_cannot_be_folded(rows, folds, message, write_shop, tmp_path):
    with pytest.raises(InputError, match=message):
        convert(write_shop(rows), tmp_path / "shop", folds=folds)
    assert not list(tmp_path.glob("*shop*"))


def test_a_fold_that_is_there_is_kept(write_shop, tmp_path):
    (tmp_path / "shop-fold2").mkdir()
    (tmp_path / "shop-fold2" / "mine").touch()
    with pytest.raises(InputError, match="shop-fold2: exists already"):
        convert(write_shop(ROWS), tmp_path / "shop", folds=3)
    assert [path.name for path in tmp_path.glob("*shop*")] == ["shop-fold2"]


def test_movielens_in_three_folds(tmp_path):
    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    convert(source, tmp_path / "ml", folds=3, columns=Columns(title="movie_title"))
    keys = {"data_path": str(tmp_path), "show_progress": False, "sampler": "RecentWindow", "n_fewshot": 32}
    (job,) = prepare([configure("BIGRec", "ml-fold2", None, keys)], check_llm=False)
    assert len(job.samples) == job.splits.train.user_num - 1 > 500
    ends = [rows_in(tmp_path, "ml-fold2", part) for part in ("train", "valid", "test")]
    times = [[time for *_, time in rows] for rows in ends]
    assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])
    assert len(set(job.sampler.sample(job.samples))) == 32


def test_authors_data_have_no_times(tmp_path):
    np.save(tmp_path / "title_maps.npy", {"seqid2title": {"1": "One"}})
    with pytest.raises(InputError, match="these data have no times; leave folds out"):
        convert(tmp_path, tmp_path / "games", folds=3)
