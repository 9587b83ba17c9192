"""Conversion of files in the published formats, against what is worked out by hand."""

import gzip
import json
import sys
import tracemalloc
from io import StringIO
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec.cli.command import main as command
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.convert import Columns, convert, text_file
from recbole_dealrec.data.convert.interactions import Interactions
from recbole_dealrec.data.convert.writing import atomic_token
from recbole_dealrec.errors import InputError

# user, item, rating, seconds; written in this order
RATINGS = [
    ("A1", "B2", 5, 1_400_000_300),
    ("A1", "B1", 4, 1_400_000_100),
    ("A2", "B1", 2, 1_400_000_050),
    ("A2", "B3", 5, 1_400_000_200),
    ("A1", "B3", 5, 1_400_000_200),
]
TITLES = {"B1": "Tom &amp; Jerry\n2", "B2": '"Quoted", twice', "B3": " NA ", "B9": "never bought"}
IN_ORDER = [
    ("A1", "B1", 1_400_000_100), ("A1", "B3", 1_400_000_200), ("A1", "B2", 1_400_000_300),
    ("A2", "B1", 1_400_000_050), ("A2", "B3", 1_400_000_200),
]  # fmt: skip
INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
BENCHMARK = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def write_csv(folder):
    quoted = {item: '"' + title.replace('"', '""') + '"' for item, title in TITLES.items()}
    rows = [f"{user},{item},{rating},{time},{quoted[item]}" for user, item, rating, time in RATINGS]
    (folder / "shop.csv").write_text("\n".join(["user,item,rating,time,title", *rows, ""]), encoding="utf-8")
    return folder / "shop.csv"


def write_microlens(folder):
    pairs = [f"{user},{item},{time}" for user, item, _, time in RATINGS]
    (folder / "MicroLens-50k_pairs.csv").write_text("\n".join(["user,item,timestamp", *pairs]), encoding="utf-8")
    pd.DataFrame(TITLES.items(), columns=["item", "title"]).to_csv(folder / "MicroLens-50k_titles.csv", index=False)
    (folder / "readme.txt").write_text("...")
    return folder


def write_json_lines(path, objects):
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w") as stream:
        stream.writelines(json.dumps(value) + "\n" for value in objects)


def write_amazon_2018(folder, ending=".json.gz"):
    reviews = [
        {"overall": float(rating), "verified": True, "reviewTime": "05 13, 2014", "reviewerID": user, "asin": item,
         "reviewText": "word " * 20, "summary": "fine", "unixReviewTime": time}
        for user, item, rating, time in RATINGS
    ]  # fmt: skip
    write_json_lines(folder / f"Video_Games{ending}", reviews)
    items = [{"category": ["Video Games"], "title": title, "asin": item} for item, title in TITLES.items()]
    write_json_lines(folder / f"meta_Video_Games{ending}", [*items, {"asin": "B1", "title": "told again"}])
    return folder


def write_amazon_2023(folder):
    reviews = [
        {"rating": float(rating), "title": "a review's own title", "text": "word " * 20, "images": [], "asin": "X",
         "parent_asin": item, "user_id": user, "timestamp": 1000 * time, "helpful_vote": 0, "verified_purchase": True}
        for user, item, rating, time in RATINGS
    ]  # fmt: skip
    write_json_lines(folder / "Video_Games.jsonl.gz", reviews)
    items = [{"main_category": "Games", "title": title, "parent_asin": item} for item, title in TITLES.items()]
    write_json_lines(folder / "meta_Video_Games.jsonl.gz", [{"title": None, "parent_asin": "B1"}, *items])
    return folder


def write_atomic(folder):
    rows = [f"{user}\t{item}\t{rating}\t{time}" for user, item, rating, time in RATINGS]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "old.inter").write_text("\n".join([header, *rows, ""]))
    items = [f"{item}\t1990\t{' '.join(title.split())}" for item, title in TITLES.items()]
    (folder / "old.item").write_text("\n".join(["item_id:token\tyear:token\ttitle:token", *items, ""]))
    return folder


def write_python_dicts(path, objects):
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w") as stream:
        stream.writelines(f"{value!r}\n" for value in objects)


def write_amazon_2014(folder):
    """Reviews are JSON, metadata Python dictionaries."""
    reviews = [
        {"reviewerID": user, "asin": item, "reviewerName": "x", "helpful": [2, 3], "reviewText": "It's fine", "overall":
         float(rating), "summary": "Good", "unixReviewTime": time, "reviewTime": "05 13, 2014"}
        for user, item, rating, time in RATINGS
    ]  # fmt: skip
    write_json_lines(folder / "reviews_Toys_5.json.gz", reviews)
    items = [
        {"asin": item, "title": title, "price": 3.17, "related": {"also_bought": ["B1"]}, "brand": "It's",
         "categories": [["Sports & Outdoors", "Dance"], ["Toys"]]}
        for item, title in TITLES.items()
    ]  # fmt: skip
    write_python_dicts(folder / "meta_Toys.json.gz", items)
    return folder


def write_movielens(folder):
    ratings = [f"{user},{item},{rating}.0,{time}" for user, item, rating, time in RATINGS]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    movies = pd.DataFrame({"movieId": TITLES.keys(), "title": TITLES.values(), "genres": "Comedy|Drama"})
    movies.to_csv(folder / "movies.csv", index=False)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\nA1,B1,funny,1400000000\n")
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\nB1,0114709,862\n")
    (folder / "README.txt").write_text("Summary\n=======\n")
    return folder


def write_yelp(folder):
    reviews = [
        {"review_id": "r", "user_id": user, "business_id": item, "stars": float(rating), "useful": 0, "funny": 0,
         "cool": 0, "text": "word", "date": f"{pd.Timestamp(time, unit='s'):%Y-%m-%d %H:%M:%S}"}
        for user, item, rating, time in RATINGS
    ]  # fmt: skip
    write_json_lines(folder / "yelp_academic_dataset_review.json", reviews)
    places = [
        {
            "business_id": item,
            "name": title,
            "city": "Tampa",
            "stars": 4.5,
            "attributes": None,
            "categories": "Food, Bars",
        }
        for item, title in TITLES.items()
    ]
    write_json_lines(folder / "yelp_academic_dataset_business.json", places)
    tip = {"user_id": "A1", "business_id": "B1", "text": "x", "date": "2014-05-13 00:00:00", "compliment_count": 0}
    write_json_lines(folder / "yelp_academic_dataset_tip.json", [tip])
    user = {"user_id": "A1", "name": "Ann", "review_count": 3, "yelping_since": "2010-01-01 00:00:00"}
    write_json_lines(folder / "yelp_academic_dataset_user.json", [user])
    write_json_lines(
        folder / "yelp_academic_dataset_checkin.json", [{"business_id": "B1", "date": "2014-05-13 00:00:00"}]
    )
    return folder


def write_parquet(folder):
    rows = pd.DataFrame(RATINGS, columns=["user_id", "item_id", "rating", "timestamp"])
    rows.assign(timestamp=pd.to_datetime(rows["timestamp"], unit="s")).to_parquet(folder / "events.parquet")
    pd.DataFrame({"item_id": TITLES.keys(), "title": TITLES.values()}).to_parquet(folder / "items.parquet")
    return folder


def write_semicolons(folder):
    text = write_csv(folder).read_text(encoding="utf-8")
    (folder / "shop.csv").unlink()
    frame = pd.read_csv(StringIO(text), keep_default_na=False)
    frame.to_csv(folder / "shop.csv.gz", sep=";", index=False)
    return folder / "shop.csv.gz"


def write_tabs(folder):
    frame = pd.read_csv(write_csv(folder), keep_default_na=False)
    frame.to_csv(folder / "shop.tsv", sep="\t", index=False)
    return folder / "shop.tsv"


RATED = [
    write_csv, write_semicolons, write_tabs, write_amazon_2014, write_amazon_2018, write_amazon_2023, write_movielens,
    write_yelp, write_parquet, write_atomic,
]  # fmt: skip
BLANKS = {"B1,4,": "B1,,", '"rating": 4.0': '"rating": null', "B1\t4\t": "B1\t\t", '"overall": 4.0': '"overall": null'}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("write", [*RATED, write_microlens])
def test_every_format_gives_the_same_files(write, source, tmp_path):
    summary = convert(write(source), tmp_path / "data" / "mine")
    assert summary.counts == {"users": 2, "items": 3, "interactions": 5}
    in_ms = "000" * (write is write_amazon_2023)
    assert (tmp_path / "data" / "mine" / "mine.inter").read_text() == INTER + "".join(
        f"{user}\t{item}\t{time}{in_ms}\n" for user, item, time in IN_ORDER
    )
    assert "2014-05-13 to 2014-05-13" in str(summary)
    items = (tmp_path / "data" / "mine" / "mine.item").read_text().splitlines()
    assert items[0] == "item_id:token\ttitle:token"
    assert sorted(items[1:]) == ["B1\tTom & Jerry 2", 'B2\t"Quoted", twice', "B3\tNA"]


@pytest.mark.parametrize("write", RATED)
def test_low_ratings_are_left_out(write, source, tmp_path):
    assert convert(write(source), tmp_path / "mine", min_rating=4).interactions == 4
    assert "B1\t1400000050" not in (tmp_path / "mine" / "mine.inter").read_text()


GENRES = {"1": "Animation|Comedy", "2": "Drama"}


def write_dat(folder, titles, encoding, users=True):
    ratings = [(1, 1, 5, 978300760), (1, 2, 3, 978302109), (2, 1, 4, 978300275)]
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in ratings))
    movies = "".join(f"{item}::{title}::{GENRES[item]}\n" for item, title in titles.items())
    (folder / "movies.dat").write_text(movies, encoding=encoding)
    if users:
        (folder / "users.dat").write_text("1::F::1::10::48067\n")
    return folder


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_before_csv(encoding, source, tmp_path):
    titles = {"1": 'Fée: "L\'Été" (1995)', "2": "Alien: 3"}
    write_dat(source, titles, encoding, users=encoding == "latin-1")  # only 10M is in UTF-8, and it has no users.dat
    convert(source, tmp_path / "ml", min_rating=3, columns=Columns(texts=("title", "genres")))
    assert (tmp_path / "ml" / "ml.inter").read_text() == INTER + "1\t1\t978300760\n1\t2\t978302109\n2\t1\t978300275\n"
    rows = (tmp_path / "ml" / "ml.item").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "item_id:token\ttitle:token\tgenres:token"
    assert sorted(rows[1:]) == [f"{item}\t{title}\t{GENRES[item]}" for item, title in titles.items()]
    keys = yaml.safe_load((tmp_path / "ml" / "ml.yaml").read_text())
    assert keys == {"title_field": "title", "prompt_noun": "movie", "prompt_verb": "watched"}


def write_steam_games(folder):
    games = [
        {"app_name": "Half-Life", "title": "Half Life", "genres": ["Action", "FPS"], "id": "70", "price": 9.99},
        {"app_name": "Portal", "genres": ["Puzzle"], "id": "400"},
        {"genres": ["Action"], "url": "no id"},
    ]
    write_python_dicts(folder / "steam_games.json", games)


def test_steam_reviews(source, tmp_path):
    write_steam_games(source)
    reviews = [
        {"username": "Chaos Syren", "hours": 0.1, "products": 41, "product_id": "70", "date": "2017-12-17", "text": "x",
         "early_access": False, "page": 1},
        {"username": "Ana", "user_id": "765", "product_id": "400", "date": "2017-12-18", "text": "it's", "page": 1},
    ]  # fmt: skip
    write_python_dicts(source / "steam_reviews.json.gz", reviews)
    convert(source, tmp_path / "steam", columns=Columns(texts=("genres",)))
    assert (
        tmp_path / "steam" / "steam.inter"
    ).read_text() == INTER + "Chaos%20Syren\t70\t1513468800\nAna\t400\t1513555200\n"
    rows = (tmp_path / "steam" / "steam.item").read_text().splitlines()
    assert rows[1:] == ["70\tHalf-Life\tAction, FPS", "400\tPortal\tPuzzle"]


def test_steam_reviews_of_australian_users(source, tmp_path):
    write_steam_games(source)
    users = [
        {"user_id": "none", "user_url": "http://x", "reviews": []},
        {"user_id": "ana", "user_url": "http://x", "reviews": [
            {"funny": "", "posted": "Posted November 5, 2011.", "last_edited": "", "item_id": "70", "recommend": True},
            {"funny": "", "posted": "Posted July 15, 2011.", "last_edited": "", "item_id": "400", "recommend": True},
            {"funny": "", "posted": "Posted February 3.", "last_edited": "", "item_id": "70", "recommend": False},
        ]},
    ]  # fmt: skip
    write_python_dicts(source / "australian_user_reviews.json", users)
    items = {"user_id": "ana", "items_count": 1, "items": [{"item_id": "70", "item_name": "x", "playtime_forever": 6}]}
    write_python_dicts(source / "australian_users_items.json", [items])
    summary = convert(source, tmp_path / "steam", min_rating=1)
    assert (tmp_path / "steam" / "steam.inter").read_text() == INTER + "ana\t400\t1310688000\nana\t70\t1320451200\n"
    assert "left out     1 without a full date interactions" in str(summary)


def test_given_columns_of_two_files(source, tmp_path, capsys):
    (source / "loans.csv").write_text(
        "Reader;Book nr;Out;Liked\nann b;7;2024-01-02;\nann b;8;2024-01-03;5\n", "latin-1"
    )
    books = [{"nr": 7, "name": "Café", "Main genre": ["Crime", None, "Night"]}, {"nr": 8, "name": "Bar"}]
    (source / "books.jsonl").write_text("\n".join(map(json.dumps, books)))
    words = [str(source / "loans.csv"), str(tmp_path / "books"), f"--items={source}/books.jsonl"]
    assert command(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert "loans.csv: no column for the user (found Reader, Book nr, Out, Liked); name it with user_col" in error
    options = ["--user_col=Reader", "--item_col=Book nr", "--time_col=Out", "--title_col=name", "--rating_col=Liked"]
    assert command(["convert", *words, *options]) == 2
    error = capsys.readouterr().err
    assert "books.jsonl: no column for the item (found nr, name, Main genre); name it with item_col, after" in error
    options[1] += ",nr"
    assert command(["convert", *words, *options, "--text_cols=name,Main genre", "--encoding=latin-1"]) == 0
    assert (tmp_path / "books" / "books.item").read_text().splitlines() == [
        "item_id:token\ttitle:token\tMain_genre:token", "7\tCafé\tCrime, Night", "8\tBar\t",
    ]  # fmt: skip
    assert (tmp_path / "books" / "books.inter").read_text().splitlines()[1] == "ann%20b\t7\t1704153600"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--user_col=who", "no column 'who' (found user, item, rating, time, title); name it with user_col"),
        ("--text_cols=genre", "no column 'genre' (found user, item, rating, time, title); correct text_cols"),
        ("--text_cols=user,user", "text_cols has user twice, again as 'user'; leave it out"),
        ("--encoding=utf-99", "encoding: Python has no encoding 'utf-99'"),
        ("--items=absent.csv", "absent.csv: no such file or folder"),
    ],
)
def test_options_that_name_what_is_not_there(option, message, source, tmp_path, capsys):
    assert command(["convert", str(write_csv(source)), str(tmp_path / "mine"), option]) == 2
    assert message in capsys.readouterr().err


def test_an_id_of_a_parquet_file_is_a_text_or_a_number(source, tmp_path):
    rows = {"user": [["a", "b"], ["c"]], "item": [1, 2], "time": [1, 2], "title": ["x", "y"]}
    pd.DataFrame(rows).to_parquet(source / "s.parquet")
    with pytest.raises(InputError, match="s.parquet, row 1: user is a ndarray; an id has to be a string or a number"):
        convert(source / "s.parquet", tmp_path / "mine")
    numbers = pd.DataFrame({**rows, "user": pd.array([7, None], dtype="Int64")})
    numbers.to_parquet(source / "s.parquet")
    with pytest.raises(InputError, match="s.parquet, row 2: user is missing; drop the row"):
        convert(source / "s.parquet", tmp_path / "mine")
    numbers[:1].to_parquet(source / "s.parquet")
    convert(source / "s.parquet", tmp_path / "mine")
    assert (tmp_path / "mine" / "mine.inter").read_text() == INTER + "7\t1\t1\n"


def test_parquet_needs_pyarrow(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (source / "s.parquet").write_text("")
    with pytest.raises(InputError, match="s.parquet: reading Parquet needs pyarrow; pip install"):
        convert(source / "s.parquet", tmp_path / "mine")


def test_a_converted_dataset_needs_no_further_option(source, tmp_path, make_config):
    lines = [
        f"u{user},i{(user + place) % 6},{1000 * place + user},Title {place}" for user in range(6) for place in range(4)
    ]
    (source / "shop.csv").write_text("\n".join(["user,item,time,title", *lines]))
    summary = convert(source / "shop.csv", tmp_path / "shop", split=True)
    assert "two titles" in str(summary) and "8:1:1 by time" in str(summary)
    splits = load_splits(make_config("shop", tmp_path))
    assert [len(CandidateSamples.from_dataset(part)) for part in (splits.train, splits.valid, splits.test)] == [6, 2, 3]
    convert(source / "shop.csv", tmp_path / "games", split=True)  # the package has words for games
    keys = yaml.safe_load((tmp_path / "games" / "games.yaml").read_text())
    assert "prompt_noun" not in keys and make_config("games", tmp_path)["prompt_noun"] == "video game"


def test_what_was_converted_can_be_loaded(source, tmp_path, make_config):
    sequences = {f"u{user}": [f"i{(user + place) % 6}" for place in range(4)] for user in range(6)}
    rows = [
        f"{u},{i},{1000 * k + n},Title {i}"
        for n, (u, items) in enumerate(sequences.items())
        for k, i in enumerate(items)
    ]
    (source / "shop.csv").write_text("\n".join(["user,item,time,title", *rows]))
    counts = convert(source / "shop.csv", tmp_path / "shop", split=True).counts
    assert counts == {"users": 6, "items": 6, "interactions": 24, "train": 6, "valid": 2, "test": 3}
    plain = {"benchmark_filename": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    splits = load_splits(make_config("shop", tmp_path, **plain, alias_of_item_id=None))
    assert len(splits.test) == 6 and splits.train.titles[1].startswith("Title i")
    keys = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"]}
    splits = load_splits(make_config("shop", tmp_path, benchmark_filename=["train", "valid", "test"], **keys))
    assert [len(CandidateSamples.from_dataset(part)) for part in (splits.train, splits.valid, splits.test)] == [6, 2, 3]


def interactions_of(rows):
    """Interactions of (user, item, time)."""
    return Interactions.of([pd.DataFrame(rows, columns=["user", "item", "time"])])


def test_the_split_by_hand():
    # Ten rows in time order: the first eight train, then one each. u3 is new in the test part and has no history.
    rows = [
        ("u1", "a", 1), ("u2", "b", 2), ("u1", "b", 3), ("u1", "c", 4), ("u2", "c", 5),
        ("u2", "d", 6), ("u1", "d", 7), ("u4", "a", 7), ("u1", "e", 8), ("u3", "a", 9),
    ]  # fmt: skip
    interactions = interactions_of(rows).in_time_order()
    assert interactions.n_of_new_users() == 1
    assert list(interactions.sequences()) == [
        ("u1", ["a", "b", "c", "d"], ["e"], []),
        ("u2", ["b", "c", "d"], [], []),
        ("u4", ["a"], [], []),
    ]


def brute_force_core(pairs, k):
    kept = list(dict.fromkeys(pairs))
    while True:
        left = [
            (user, item)
            for user, item in kept
            if sum(u == user for u, _ in kept) >= k and sum(i == item for _, i in kept) >= k
        ]
        if left == kept:
            return kept
        kept = left


@given(
    st.lists(st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcde")), min_size=1, max_size=40), st.integers(1, 4)
)
def test_the_core_is_the_brute_force_one(pairs, k):
    interactions = interactions_of([(user, item, time) for time, (user, item) in enumerate(pairs)])
    core = interactions.in_time_order().k_core(k)
    found = [(core.users[user], core.items[item]) for user, item in zip(core.user, core.item, strict=True)]
    assert found == brute_force_core(pairs, k)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 30)), min_size=10, max_size=60))
def test_no_target_is_older_than_its_history_and_none_is_lost(rows):
    interactions = interactions_of([(f"u{u}", f"{n}:{t}", t) for n, (u, _, t) in enumerate(rows)]).in_time_order()
    sequences = list(interactions.sequences())
    train = sorted(t for _, _, t in rows)[: len(rows) * 8 // 10]
    known = {f"u{interactions.users[code][1:]}" for code in interactions.user[: len(train)]}
    assert {sequence.user for sequence in sequences} == known
    of = {
        part: [int(i.split(":")[1]) for s in sequences for i in getattr(s, part)] for part in ("train", "valid", "test")
    }
    assert sorted(of["train"]) == train
    assert sum(map(len, of.values())) == sum(f"u{u}" in known for u, _, _ in rows)
    assert all(max(of["train"]) <= time for time in of["valid"] + of["test"])
    for _, *parts in sequences:
        times = [int(item.split(":")[1]) for part in parts for item in part]
        assert times == sorted(times)


def write_authors(folder, titles=None):
    (folder / "sequential_train.txt").write_text("1 1 2 3\n2 4\n3 1 3\n")
    (folder / "sequential_valid.txt").write_text("1 4 5\n2\n3 2\n")
    (folder / "sequential_test.txt").write_text("1 1\n2 3 5\n3 \n")
    titles = titles or {str(item): f"Game &quot;{item}&quot;" for item in range(1, 6)}
    np.save(folder / "title_maps.npy", {"seqid2title": titles, "id2title": {"B0": "x"}, "count": np.arange(3)})
    return folder


def test_the_authors_folder(source, tmp_path):
    counts = convert(write_authors(source), tmp_path / "games").counts
    assert counts == {"users": 3, "items": 5, "interactions": 12, "train": 2, "valid": 3, "test": 3}
    read = {
        part: (tmp_path / "games" / f"games.{part}").read_text()
        for part in ("train.inter", "valid.inter", "test.inter", "item")
    }
    assert read["train.inter"] == BENCHMARK + "1\t1 2\t3\n3\t1\t3\n"
    assert read["valid.inter"] == BENCHMARK + "1\t1 2 3\t4\n1\t1 2 3\t5\n3\t1 3\t2\n"
    assert read["test.inter"] == BENCHMARK + "1\t1 2 3 4 5\t1\n2\t4\t3\n2\t4\t5\n"
    assert read["item"].splitlines()[1:] == [f'{item}\tGame "{item}"' for item in range(1, 6)]


def test_a_history_keeps_its_latest_fifty(source, tmp_path):
    write_authors(source, {str(item): "t" for item in range(1, 80)})
    (source / "sequential_train.txt").write_text(f"1 {' '.join(map(str, range(1, 70)))}\n2 4\n3 1 3\n")
    convert(source, tmp_path / "games")
    first = (tmp_path / "games" / "games.train.inter").read_text().splitlines()[1]
    assert first == f"1\t{' '.join(map(str, range(19, 69)))}\t69"


def damage(write, change):
    def written(folder):
        source = write(folder)
        change(folder)
        return source

    return written


def appended(name, text):
    return lambda folder: (folder / name).open("a", encoding="utf-8").write(text)


def cut_gzip(folder):
    path = folder / "Video_Games.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])


def retitled(folder, old, new):
    text = (folder / "old.item").read_text()
    (folder / "old.item").write_text(text.replace(old, new))


def table(text):
    def written(folder):
        (folder / "shop.csv").write_text(text)
        return folder / "shop.csv"

    return written


def write_plain_amazon(folder):
    return write_amazon_2018(folder, ".json")


BROKEN = {
    "too short": (damage(write_csv, appended("shop.csv", "A1,B1\n")), "row 7: 2 columns where the header has 5"),
    "too long": (damage(write_csv, appended("shop.csv", "A1,B1,5,1,x,y\n")), "not CSV (Expected 5 fields"),
    "open quote": (damage(write_csv, appended("shop.csv", 'A1,B1,5,1,"x\n')), "shop.csv: not CSV"),
    "no time": (
        damage(write_csv, appended("shop.csv", "A1,B1,5,today,x\n")),
        "row 7: time is 'today', which is neither a finite number nor an ISO 8601 date",
    ),
    "endless": (damage(write_csv, appended("shop.csv", "A1,B1,5,inf,x\n")), "row 7: time is 'inf', which is neither"),
    "no user in a row": (
        damage(write_csv, appended("shop.csv", ",B1,5,1,x\n")),
        "row 7: user is missing; drop the row",
    ),
    "no time in a row": (
        damage(write_csv, appended("shop.csv", "A1,B1,5,,x\n")),
        "row 7: time is missing; drop the row",
    ),
    "dates and numbers": (
        table("user,item,time,title\nu,i,2020-01-01,x\nu,j,7,y\n"),
        "row 3: time is '7', which is not an ISO",
    ),
    "no column": (table("a,b\n"), "no column for the user (found a, b); name it with user_col"),
    "no title column": (
        table("user,item,time\nu,i,1\n"),
        "no column for the title (found user, item, time); name it with",
    ),
    "empty": (table(""), "shop.csv: not CSV (No columns to parse"),
    "no row": (table("user,item,time,title\n"), "no interaction"),
    "no title": (table("user,item,time,title\nu,i,1,\n"), "none of the items has a title"),
    "not JSON": (
        damage(write_plain_amazon, appended("Video_Games.json", "{'a': open('b')}\n")),
        "row 6: neither JSON nor a Python dictionary",
    ),
    "no object": (
        damage(write_plain_amazon, appended("Video_Games.json", "[1]\n")),
        "row 6: not a JSON object",
    ),
    "no user": (
        damage(write_plain_amazon, appended("Video_Games.json", '{"asin": "B1"}\n')),
        "row 6: reviewerID is missing",
    ),
    "cut gzip": (damage(write_amazon_2023, cut_gzip), "Video_Games.jsonl.gz: cut short or damaged"),
    "two users": (
        table("user_id,user,item,time,title\nu,v,i,1,x\n"),
        "the columns user_id and user could each be the user; name it with user_col",
    ),
    "two times": (table("user,item,time,Timestamp,title\nu,i,1,2,x\n"), "the columns time and Timestamp could each"),
    "a column twice": (table("user,item,item,time,title\nu,i,j,1,x\n"), "the columns item and item could each"),
    "two titles": (
        damage(write_atomic, lambda folder: retitled(folder, "year:token\ttitle", "first_title:token\tother_title")),
        "the columns first_title and other_title could each be the title",
    ),
    "Latin-1": (
        damage(write_csv, lambda folder: (folder / "shop.csv").write_bytes("user,item,time,titlé".encode("latin-1"))),
        "shop.csv: not UTF-8 text; set encoding, such as latin-1",
    ),
    "two metadata": (
        damage(write_amazon_2018, lambda folder: write_json_lines(folder / "m.json", [{"asin": "B", "title": "x"}])),
        "1 files with users, items and times and 2 with items and titles; put one of each into it",
    ),
    "other users": (damage(write_authors, appended("sequential_test.txt", "4 1\n")), "differ in their number of lines"),
    "another user": (
        damage(write_authors, lambda folder: (folder / "sequential_test.txt").write_text("1\n3\n2\n")),
        "line 2 of the three",
    ),
    "unknown": (lambda folder: folder, "0 files with users, items and times and 0 with items and titles"),
    "another kind of file": (
        damage(lambda folder: folder / "a.xlsx", appended("a.xlsx", "x")),
        "not a file that ends in .csv",
    ),
    "absent": (lambda folder: folder / "absent", "absent: no such file or folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_told_and_nothing_is_left(case, source, tmp_path, capsys):
    write, message = BROKEN[case]
    assert command(["convert", str(write(source)), str(tmp_path / "data" / "mine")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("write", [write_csv, write_amazon_2018, write_amazon_2023, write_atomic])
def test_what_has_no_rating_is_not_rated_high(write, source, tmp_path):
    written = write(source)
    for file in [written] if written.is_file() else written.iterdir():
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as stream:
            text = stream.read()
        for old, new in BLANKS.items():
            text = text.replace(old, new)
        with opener(file, "wt", encoding="utf-8") as stream:
            stream.write(text)
    assert convert(written, tmp_path / "all" / "mine").interactions == 5
    summary = convert(written, tmp_path / "some" / "mine", min_rating=4)
    assert summary.interactions == 3 and "1 without rating, 1 rated below 4 interactions" in str(summary)


def test_another_title_column(source, tmp_path):
    write_atomic(source)
    text = (source / "old.item").read_text().replace("title:token", "movie_title:token_seq")
    (source / "old.item").write_text(text)
    convert(source, tmp_path / "mine")
    assert 'B2\t"Quoted", twice\n' in (tmp_path / "mine" / "mine.item").read_text()


def test_options_that_do_not_fit(source, tmp_path):
    with pytest.raises(InputError, match="min_rating: the source has no ratings"):
        convert(write_microlens(source), tmp_path / "mine", min_rating=4)
    with pytest.raises(InputError, match="no user and item with 9 interactions is left; lower core"):
        convert(source, tmp_path / "mine", core=9)
    with pytest.raises(InputError, match="leave min_rating and core out"):
        convert(write_authors(source), tmp_path / "mine", core=5)


def test_too_few_for_a_split(source, tmp_path):
    (source / "s.csv").write_text("user,item,time,title\nu,i,1,x\nu,j,2,y\n")
    with pytest.raises(InputError, match="too few interactions for a split by time"):
        convert(source / "s.csv", tmp_path / "mine", split=True)


def test_a_folder_that_is_there_is_kept(source, tmp_path):
    convert(write_csv(source), tmp_path / "mine")
    before = (tmp_path / "mine" / "mine.inter").read_bytes()
    with pytest.raises(InputError, match="mine: exists already; remove it, or give another"):
        convert(source / "shop.csv", tmp_path / "mine", min_rating=4)
    assert (tmp_path / "mine" / "mine.inter").read_bytes() == before


def test_the_command_prints_what_it_wrote(source, tmp_path, capsys):
    folder = tmp_path / "mine"
    assert command(["convert", str(write_csv(source)), str(folder), "--min_rating=4"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mine: 2 users, 3 items, 4 interactions, 2014-05-13 to 2014-05-13",
        "  left out     1 rated below 4 interactions",
        "  untitled     0 items, which a run leaves out",
        "  same title   0 items share their title with another item",
        "  repeated     0 interactions repeat user, item and time of another one",
        f"{folder}: written; use it with --dataset=mine",
    ]


@given(
    st.text(min_size=1)
    | st.sampled_from(["NA", "null", "N/A", "x y", '"x', "[PAD]", "50%", "%4E%41", "a\tb", "é", "\ud800", "\xa0"])
)
def test_any_id_comes_back_from_an_atomic_file(value):
    token = atomic_token(value)
    frame = pd.read_csv(StringIO(f"id\tother\n{token}\t1\n"), sep="\t", dtype={"id": str}, engine="python")
    assert frame["id"].tolist() == [token] and token != "[PAD]" and not set(token) & set(' \t"')
    assert unquote(token, errors="surrogatepass") == value


def test_every_word_that_pandas_takes_for_missing_is_encoded():
    for word in pd._libs.parsers.STR_NA_VALUES - {""}:
        assert atomic_token(word) not in pd._libs.parsers.STR_NA_VALUES and unquote(atomic_token(word)) == word


def test_a_line_without_end_does_not_fill_the_memory(source, tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "_LONGEST_LINE", 1000)
    write_amazon_2018(source, ".json")
    with open(source / "Video_Games.json", "a") as stream:
        stream.write('{"reviewText": "' + "x" * 2000)
    with pytest.raises(InputError, match="row 6: longer than 1000 characters"):
        convert(source, tmp_path / "mine")


def test_reviews_are_streamed(source, tmp_path):
    """Eleven megabytes of reviews take two: ids, titles, and some tens of bytes a review while they are sorted."""
    text = "word " * 200
    with gzip.open(source / "Books.jsonl.gz", "wt", compresslevel=1) as stream:
        for number in range(10_000):
            review = {"user_id": f"U{number % 200}", "parent_asin": f"B{number * 7 % 299}", "rating": 5.0, "text": text}
            stream.write(json.dumps({**review, "timestamp": 1_600_000_000_000 + 1000 * number}) + "\n")
    items = [{"parent_asin": f"B{item}", "title": f"Book {item}", "description": [text]} for item in range(5000)]
    write_json_lines(source / "meta_Books.jsonl.gz", items)
    tracemalloc.start()
    counts = convert(source, tmp_path / "book", min_rating=4, core=5, split=True).counts
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["users"] == 200 and counts["items"] == 299
    assert peak < 2_500_000, peak
