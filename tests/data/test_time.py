"""Order and splits by time, in units that float32 rounds, against sorting by Python's exact numbers."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.convert import convert
from recbole_dealrec.data.frame import dataset_written
from recbole_dealrec.errors import InputError

UNITS = {
    "YYYYMMDD": lambda tick: f"{20240101 + tick}",
    "YYYYMMDDhhmmss": lambda tick: f"202401{tick + 1:02}120000",
    "seconds": lambda tick: f"{1_700_000_000 + tick}",
    "seconds with a point": lambda tick: f"{1_700_000_000 + tick}.0",
    "milliseconds": lambda tick: f"{1_700_000_000_000 + tick}",
    "nanoseconds": lambda tick: f"{1_700_000_000_000_000_000 + tick}",
    "seconds to nanoseconds": lambda tick: f"1700000000.{tick:09}",
}
SPLITS = {
    "leave one out": {"split": {"LS": "valid_and_test"}},
    "ratio of each user": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"},
    "ratio of all": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
    "time of all": {"split": {"TS": [0.6, 0.2, 0.2]}},
}


@pytest.fixture
def rows():
    """(user, item, tick) of interactions in no order; many have the same tick, no user an item twice."""
    generator = np.random.default_rng(3)
    users = generator.permutation(np.repeat(np.arange(6), 12))
    return [
        (f"u{user}", f"i{row}", int(tick))
        for row, (user, tick) in enumerate(zip(users, generator.integers(28, size=72), strict=True))
    ]


@pytest.fixture
def load(tmp_path, make_config):
    """``load(rows, written, **keys)``: parts of a dataset whose times are the ticks as ``written`` puts them."""

    def make(rows, written, **keys):
        folder = tmp_path / "clock"
        folder.mkdir()
        lines = [f"{user}\t{item}\t{written(tick)}" for user, item, tick in rows]
        (folder / "clock.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines, ""]))
        titles = [f"{item}\ttitle of {item}" for item in sorted({item for _, item, _ in rows})]
        (folder / "clock.item").write_text("\n".join(["item_id:token\ttitle:token", *titles, ""]))
        return parts_of(load_splits(make_config("clock", tmp_path, **keys)))

    return make


def parts_of(splits):
    """(user, history, target) of each row of the three parts."""
    parts = []
    for part in (splits.train, splits.valid, splits.test):
        users, items = part.field2id_token["user_id"], part.field2id_token["item_id"]
        samples = CandidateSamples.from_dataset(part)
        parts.append(
            [
                (users[samples.user_id[row]], tuple(items[samples.history(row)]), items[samples.item_id[row]])
                for row in range(len(samples))
            ]
        )
    return parts


def samples_in_order(rows):
    """(user, history, target) of each row but a user's first, in time order; Python's sort is stable."""
    histories, samples = {}, []
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        history = histories.setdefault(user, [])
        if history:
            samples.append((user, tuple(history), item))
        history.append(item)
    return samples


def expected(samples, kind):
    """The three parts of 66 samples, 11 of each user."""
    if kind == "ratio of all":
        return [samples[:40], samples[40:53], samples[53:]]
    last = samples[53:] if kind == "time of all" else []
    users = [
        [one for one in samples if one[0] == user and one not in last] for user in sorted({one[0] for one in samples})
    ]
    if kind == "time of all":
        cuts = [int(len(user) * (0.6 / (1 - 0.2))) for user in users]
        cut_users = list(zip(users, cuts, strict=True))
        return [
            [one for user, cut in cut_users for one in user[:cut]],
            [one for user, cut in cut_users for one in user[cut:]],
            last,
        ]
    held = 1 if kind == "leave one out" else 2
    return [
        [sample for user in users for sample in user[: -2 * held]],
        [sample for user in users for sample in user[-2 * held : -held]],
        [sample for user in users for sample in user[-held:]],
    ]


@pytest.mark.parametrize("kind", SPLITS)
@pytest.mark.parametrize("unit", UNITS)
def test_every_split_is_by_exact_time(unit, kind, rows, load):
    found = load(rows, UNITS[unit], eval_args={**SPLITS[kind], "order": "TO", "mode": "full"})
    for part, known in zip(found, expected(samples_in_order(rows), kind), strict=True):
        assert sorted(part) == sorted(known)


@pytest.mark.parametrize("unit", UNITS)
def test_rows_of_a_part_are_in_time_order_and_of_equal_time_in_the_order_of_the_file(unit, rows, load):
    found = load(rows, UNITS[unit], eval_args={**SPLITS["ratio of all"], "order": "TO", "mode": "full"})
    assert sum(found, []) == samples_in_order(rows)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_of_repeated_interactions_the_first_or_last_in_exact_time_stays(keep, rows, load):
    rows = [(user, f"i{int(item[1:]) % 9}", tick) for user, item, tick in rows]
    ordered = sorted(rows, key=lambda row: row[2])
    kept = {}
    for row in ordered if keep == "last" else ordered[::-1]:
        kept[row[:2]] = row
    kept = [row for row in rows if row in kept.values()]
    once = list(dict.fromkeys(kept))
    found = load(rows, UNITS["nanoseconds"], rm_dup_inter=keep)
    assert sorted(sum(found, [])) == sorted(samples_in_order(once))


def test_time_is_no_feature(rows, load):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    with pytest.raises(InputError, match="'numerical_features': time only orders the rows"):
        load(rows, UNITS["seconds"], numerical_features=["timestamp"], load_col=columns)


def test_an_interval_of_time_is_in_the_files_unit(rows, load):
    written = UNITS["YYYYMMDD"]
    found = load(rows, written, val_interval={"timestamp": "[20240101,20240115]"})
    kept = [row for row in rows if row[2] <= 14]
    assert sorted(sum(found, [])) == sorted(samples_in_order(kept))


@pytest.mark.parametrize("unit", UNITS)
def test_a_converted_table_has_exact_times(unit, rows, tmp_path):
    lines = [f"{user},{item},{UNITS[unit](tick)},x" for user, item, tick in rows]
    (tmp_path / "table.csv").write_text("\n".join(["user,item,time,title", *lines]))
    convert(tmp_path / "table.csv", tmp_path / "shop", split=False)
    text = (tmp_path / "shop" / "shop.inter").read_text().splitlines()[1:]
    written = {tuple(line.split("\t")[:2]): Decimal(line.split("\t")[2]) for line in text}
    assert written == {(user, item): Decimal(UNITS[unit](tick)) for user, item, tick in rows}


DATES = {
    "days": ("2024-01-{:02}", 86400),
    "seconds": ("2024-01-01 00:00:{:02}", 1),
    "a zone": ("2024-01-01T01:00:{:02}+01:00", 1),
    "milliseconds": ("2024-01-01T00:00:00.0{:02}Z", Decimal("0.001")),
}


@pytest.mark.parametrize("kind", DATES)
def test_dates_become_seconds(kind, rows, tmp_path):
    written, unit = DATES[kind]
    first = kind == "days"
    lines = [f"{user},{item},{written.format(tick + first)},x" for user, item, tick in rows]
    (tmp_path / "table.csv").write_text("\n".join(["user,item,date,title", *lines]))
    summary = convert(tmp_path / "table.csv", tmp_path / "shop")
    text = (tmp_path / "shop" / "shop.inter").read_text().splitlines()[1:]
    found = {tuple(line.split("\t")[:2]): Decimal(line.split("\t")[2]) for line in text}
    assert found == {(user, item): 1704067200 + tick * unit for user, item, tick in rows}
    assert "2024-01-01 to 2024-01-" in str(summary)


def test_fractions_too_long_for_integers_stay_exact(tmp_path):
    times = ["0.12345678901234567890", "12345678901234.5", "7"]
    lines = [f"u,i{number},{time},x" for number, time in enumerate(times)]
    (tmp_path / "t.csv").write_text("\n".join(["user,item,time,title", *lines]))
    convert(tmp_path / "t.csv", tmp_path / "shop")
    text = (tmp_path / "shop" / "shop.inter").read_text().splitlines()[1:]
    assert [line.split("\t")[2] for line in text] == [times[0], times[2], times[1]]


@pytest.mark.parametrize("kind", ["nanoseconds", "microseconds", "integers", "nullable", "objects", "decimals"])
def test_frames_keep_exact_times(kind, rows, tmp_path):
    ticks = [tick for _, _, tick in rows]
    exact = [1_700_000_000_000_000_000 + tick for tick in ticks]
    times, known = {
        "nanoseconds": (pd.to_datetime(exact), [Decimal(time).scaleb(-9) for time in exact]),
        "microseconds": (
            pd.Series(1_700_000_000_000_000 + np.array(ticks)).astype("datetime64[us]"),
            [Decimal(1_700_000_000_000_000 + tick).scaleb(-6) for tick in ticks],
        ),
        "integers": (exact, exact),
        "nullable": (pd.array(exact, dtype="Int64"), exact),
        "objects": (pd.Series(exact, dtype=object), exact),
        "decimals": ([Decimal(time).scaleb(-9) for time in exact], [Decimal(time).scaleb(-9) for time in exact]),
    }[kind]
    interactions = pd.DataFrame([row[:2] for row in rows], columns=["user_id", "item_id"]).assign(timestamp=times)
    items = pd.DataFrame({"item_id": interactions["item_id"], "title": "x"})
    with dataset_written(interactions, items, {}) as (keys, _):
        file = AtomicFile(f"{keys['data_path']}/frame/frame.inter")
        written = [Decimal(row[2]) for _, row in list(file.rows())[1:]]
        order = np.argsort(file.places("timestamp"))
    assert written == known
    assert order.tolist() == sorted(range(len(rows)), key=lambda row: ticks[row])
