"""Datasets by name, from archives of RecBole's layout on a server of this machine."""

import random
import time

import pytest
import yaml

from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.data.download import known_dataset
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
# The columns of RecBole's processed Amazon Reviews 2018.
ITEM = "item_id:token\ttitle:token\tsales_type:token\tsales_rank:float\tcategories:token_seq\tprice:float\n"


def amazon_texts():
    """Twelve users with six good and two bad ratings each, an item that is rated once, and titles as they come."""
    draw = random.Random(0)
    rows = []
    for user in range(12):
        items = draw.sample(range(8), 6)
        rows += [
            f"U{user}\tB{item}\t{draw.choice([4.0, 5.0])}\t{1_400_000_000 + user + 50 * k}"
            for k, item in enumerate(items)
        ]
        rows += [f"U{user}\tB{item}\t{rating}\t1400000900" for item, rating in ((0, 3.0), (1, 1.0))]
    rows.append("U0\tRARE\t5.0\t1400000000")
    draw.shuffle(rows)
    titles = {item: f"Game {item}" for item in range(8)} | {0: "Tom &amp; Jerry", 1: '"Quoted" Game', 2: "nan"}
    items = [f"B{item}\t{title}\tVideo Games\t12.0\tVideo Games, PC\t9.99" for item, title in titles.items()]
    items.insert(3, "B9\ta title that\tholds a tab\tVideo Games\t1.0\tPC\t1.0")
    items.append("RARE\tA Rare Game\tVideo Games\t1.0\tPC\t1.0")
    return {
        "Amazon_Video_Games.inter": "\n".join([INTER.strip(), *rows, ""]),
        "Amazon_Video_Games.item": "\n".join([ITEM.strip(), *items, ""]),
    }


MOVIES = {
    "ml-1m.inter": INTER + "".join(f"{u}\t{i}\t3\t{100 * i + u}\n" for u in range(1, 5) for i in range(1, 6)),
    "ml-1m.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\n"
    + "".join(f"{i}\tMovie {i}\t199{i}\n" for i in range(1, 6)),
    "ml-1m.user": "user_id:token\tage:token\n1\t20\n",
}


@pytest.fixture
def publish(server, monkeypatch, tmp_path, zipped):
    """``publish(name, path, texts)``: an archive and its line in a table of addresses like RecBole's."""
    table = {}
    monkeypatch.setattr(known_dataset, "url_table", lambda: tmp_path / "url.yaml")

    def add(name, path, texts):
        server.files[path] = zipped(texts)
        table[name] = server.url(path)
        (tmp_path / "url.yaml").write_text(yaml.safe_dump(table))

    return add


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_games_are_downloaded_filtered_and_split(publish, make_config, path, server):
    publish("amazon-video-games-18", "/Amazon2018/Amazon_Video_Games.zip", amazon_texts())
    splits = load_splits(make_config("games", path))
    assert names(path / "games") == [
        f"games.{end}" for end in ("inter", "item", "test.inter", "train.inter", "valid.inter", "yaml")
    ]
    rows = [line.split("\t") for line in (path / "games" / "games.inter").read_text().splitlines()[1:]]
    # By hand: 12 x 6 ratings of 4 and more; RARE is rated once; the bad ratings are gone.
    assert len(rows) == 72 and {item for _, item, _ in rows} == {f"B{item}" for item in range(8)}
    assert set(splits.train.titles) == {
        "",
        "Tom & Jerry",
        '"Quoted" Game',
        *(f"Game {item}" for item in range(3, 8)),
    }
    times = {(user, item): int(time) for user, item, time in rows}
    of = {}
    for part in ("train", "valid", "test"):
        samples = CandidateSamples.from_dataset(getattr(splits, part))
        tokens = splits.train.field2id_token
        for row in range(len(samples)):
            user = tokens["user_id"][samples.user_id[row]]
            target = times[user, tokens["item_id"][samples.item_id[row]]]
            history = [times[user, item] for item in tokens["item_id"][samples.history(row)]]
            assert history == sorted(history) and history[-1] < target
            of.setdefault(part, []).append(target)
    assert (len(of["valid"]), len(of["test"])) == (7, 8)  # 72 x 8 // 10 = 57, 72 x 9 // 10 = 64; no user is new
    assert max(of["train"]) <= min(of["valid"]) and max(of["valid"]) <= min(of["test"])
    assert names(path) == [".games.lock", "games"]  # nothing else is left
    asked = len(server.asked)
    load_splits(make_config("games", path))
    assert len(server.asked) == asked


def test_an_interrupted_download_goes_on(publish, make_config, path, server):
    publish("amazon-video-games-18", "/Amazon_Video_Games.zip", amazon_texts())
    server.breaks = [300] + [0] * 6
    with pytest.raises(InputError, match="300 of .* bytes are there"):
        load_splits(make_config("games", path))
    assert not (path / "games").exists()
    load_splits(make_config("games", path))
    assert ("GET", "/Amazon_Video_Games.zip", "bytes=300-") in server.asked


def test_other_datasets_are_unpacked_as_they_are(publish, make_config, path):
    publish("ml-1m", "/MovieLens/ml-1m.zip", {f"ml-1m/{name}": text for name, text in MOVIES.items()})
    splits = load_splits(make_config("ml-1m", path))
    assert (path / "ml-1m" / "ml-1m.inter").read_text() == MOVIES["ml-1m.inter"]
    assert splits.train.titles == ["", *(f"Movie {i}" for i in range(1, 6))]


def test_files_take_the_name_of_the_dataset(publish, make_config, path):
    texts = {"steam.inter": MOVIES["ml-1m.inter"], "steam.item": MOVIES["ml-1m.item"]}
    publish("steam-merged", "/steam.zip", texts)
    load_splits(make_config("steam-merged", path, title_field="movie_title"))
    assert names(path / "steam-merged") == ["steam-merged.inter", "steam-merged.item"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"x.inter": MOVIES["ml-1m.inter"]}, "x.zip: has 0 files *.item, but needs exactly one for the titles"),
        ({"x.inter": MOVIES["ml-1m.inter"], "x.item": "item_id:token\tyear:token\n1\t1990\n"},
         "x.item: no column 'title' (found item_id, year); set title_field"),
        ({"x.inter": "", "x.item": "", "y.inter": ""}, "x.zip: has 2 files *.inter"),
    ],
)  # fmt: skip
def test_a_dataset_without_titles_ends_in_one_line(texts, message, publish, make_config, path):
    publish("x", "/x.zip", texts)
    with pytest.raises(InputError) as raised:
        load_splits(make_config("x", path))
    assert message in str(raised.value)


def test_a_name_without_archive_says_how_to_convert(make_config, path):
    with pytest.raises(InputError, match="microlens-50k: no such dataset folder.*convert SOURCE .*50k --split$"):
        load_splits(make_config("microlens-50k", path))


def test_what_is_no_archive_is_told(publish, make_config, path, server):
    publish("x", "/x.zip", MOVIES)
    server.files["/x.zip"] = b"<html>not found</html>"
    with pytest.raises(InputError, match="x.zip: a damaged or unreadable archive"):
        load_splits(make_config("x", path))
    assert not (path / "x").exists()


def test_a_folder_that_cannot_be_made_is_told(publish, make_config, path):
    publish("ml-1m", "/ml-1m.zip", MOVIES)
    path.write_text("a file")
    with pytest.raises(InputError, match="data/.ml-1m.download: File exists; run the same command again to resume"):
        load_splits(make_config("ml-1m", path))


@pytest.mark.parametrize("name", ["../games", "/etc", "a/b", ".", "..", ""])
def test_a_name_cannot_leave_the_data_folder(name):
    with pytest.raises(InputError, match="give only the name of its folder"):
        prepare([configure("BIGRec", name, None, {})])


def load(data_path, table, results):
    from recbole_dealrec.config import Config

    known_dataset.url_table = lambda: table
    keys = {"data_path": str(data_path), "use_gpu": False, "show_progress": False}
    results.put(len(load_splits(Config("BIGRec", "games", config_dict=keys)).train))


def test_a_killed_process_leaves_what_the_next_goes_on_with(publish, path, server, tmp_path, forkserver, make_config):
    publish("amazon-video-games-18", "/Amazon_Video_Games.zip", amazon_texts())
    server.holds = [400]
    results = forkserver.Queue()
    process = forkserver.Process(target=load, args=(path, tmp_path / "url.yaml", results))
    process.start()
    deadline = time.monotonic() + 60
    while sum(file.stat().st_size for file in path.glob(".games.download/*.part")) < 400:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    server.released.set()
    assert names(path) == [".games.download", ".games.lock"]
    load_splits(make_config("games", path))
    assert server.asked[-1] == ("GET", "/Amazon_Video_Games.zip", "bytes=400-")
    assert names(path) == [".games.lock", "games"]


def test_of_several_processes_one_downloads(publish, path, server, tmp_path, forkserver):
    publish("amazon-video-games-18", "/Amazon_Video_Games.zip", amazon_texts())
    results = forkserver.Queue()
    running = [forkserver.Process(target=load, args=(path, tmp_path / "url.yaml", results)) for _ in range(3)]
    for process in running:
        process.start()
    assert len({results.get(timeout=60) for _ in running}) == 1
    for process in running:
        process.join()
    assert [method for method, _, _ in server.asked] == ["HEAD", "GET"]
