import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from peft import AutoPeftModelForCausalLM

import recbole_dealrec
from recbole_dealrec import recommend, run_recbole_dealrec
from recbole_dealrec.cli.command import main
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import BIGRec
from recbole_dealrec.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def sequences(movies_path):
    """Item tokens of each user in time order."""
    rows = pd.read_csv(movies_path / "movies" / "movies.inter", sep="\t", dtype=str)
    rows.columns = [name.partition(":")[0] for name in rows]
    rows = rows.assign(time=rows["timestamp"].astype(float)).sort_values(["user_id", "time"], kind="stable")
    return rows.groupby("user_id")["item_id"].apply(list).tolist()


@pytest.mark.parametrize("model", ["BIGRec", "TIGER"])
def test_what_is_recommended_is_what_the_evaluation_ranked(model, finished_run, sequences):
    result = finished_run(model)
    found = recommend(result["run_dir"], [items[:-1] for items in sequences], k=50)
    assert list(found) == ["history", "rank", "item", "title", "score"] and len(found) == 50 * len(sequences)
    targets = np.array([items[-1] for items in sequences])
    hits = found[found["item"] == targets[found["history"]]]
    assert len(hits) > 0
    for k in (5, 10, 20, 50):
        ranks = hits.loc[hits["rank"] <= k, "rank"]
        recall, ndcg = len(ranks) / len(sequences), (1 / np.log2(ranks + 1)).sum() / len(sequences)
        assert result["reweighting"]["test_result"][f"recall@{k}"] == pytest.approx(recall, abs=6e-5)
        assert result["reweighting"]["test_result"][f"ndcg@{k}"] == pytest.approx(ndcg, abs=6e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_a_query_with_several_targets_and_titles_grounded_by_embedding(chat, split, checkpoint, tmp_path):
    keys = {"sampler": "Random", "n_fewshot": 2, "epochs": 0, "topk": [3], "max_new_tokens": 6, "chat_template": chat}
    llm = checkpoint("chat llama" if chat else "llama")
    config = split(llm_path=llm, metric_decimal_place=9, surrogate_valid_metric="NDCG@3", **keys)
    result = run_recbole_dealrec(dataset="split", config_dict=config.resolved())
    rows = pd.read_csv(tmp_path / "split" / "split.test.inter", sep="\t", names=["user", "history", "item"], skiprows=1)
    queries = {key: items.tolist() for key, items in rows.groupby(["user", "history"])["item"]}
    assert [len(targets) for targets in queries.values()] == [3, 1, 1]
    found = recommend(result["run_dir"], [history.split() for _, history in queries], k=3)
    gains = 1 / np.log2(np.arange(2, 5))
    recalls, ndcgs = [], []
    for (_, rows), targets in zip(found.groupby("history"), queries.values(), strict=True):
        hits = rows["item"].isin(targets).to_numpy()
        recalls.append(hits.sum() / len(targets))
        ndcgs.append(gains[hits].sum() / gains[: len(targets)].sum())
    assert result["reweighting"]["test_result"]["recall@3"] == pytest.approx(np.mean(recalls)) and np.mean(recalls) > 0
    assert result["reweighting"]["test_result"]["ndcg@3"] == pytest.approx(np.mean(ndcgs))


def test_each_history_has_its_best_items_in_order(finished_run, movies_path, sequences):
    histories = [sequences[0][:9], sequences[1][:2], sequences[2][:30]]
    found = recommend(finished_run("BIGRec")["run_dir"], histories, k=7)
    assert found["history"].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert found["rank"].tolist() == [*range(1, 8)] * 3
    assert found.groupby("history")["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()
    assert not found.duplicated(["history", "item"]).any()
    lines = (movies_path / "movies" / "movies.item").read_text(encoding="utf-8").splitlines()[1:]
    titles = {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    counts = Counter(titles.values())
    shown = {item: f"{title} [{item}]" if counts[title] > 1 else title for item, title in titles.items()}
    assert [shown[item] for item in found["item"]] == found["title"].tolist()
    alone = recommend(finished_run("BIGRec")["run_dir"], histories[1:2], k=7)
    pd.testing.assert_series_equal(alone["score"], found["score"][7:14].reset_index(drop=True), rtol=1e-4, atol=1e-6)


def test_known_items_are_left_out_when_asked(finished_run):
    run_dir = finished_run("TIGER")["run_dir"]
    first = recommend(run_dir, [["50", "172"]], k=50)["item"].tolist()
    tried = [first[start : start + 3] for start in range(0, 48, 3)]
    ranked = [whole for _, whole in recommend(run_dir, tried, k=50).groupby("history")]
    known, whole = next(pair for pair in zip(tried, ranked, strict=True) if pair[1]["item"].isin(pair[0]).any())
    without = recommend(run_dir, [known], k=47, exclude_history=True)
    kept = whole[~whole["item"].isin(known)]
    assert without["item"].tolist() == kept["item"].tolist()[:47]
    with pytest.raises(InputError, match="k is 48; this run of TIGER ranks 50 items, minus the 3 of the longest"):
        recommend(run_dir, [known, ["50"]], k=48, exclude_history=True)


@pytest.mark.parametrize(
    ("histories", "k", "message"),
    [
        ([["50"], ["50", "nothing"]], 5, r"histories\[1\]: movies has no item 'nothing'"),
        ([["[PAD]"]], 5, r"histories\[0\]: movies has no item '\[PAD\]'"),
        ([["50"], []], 5, r"histories\[1\] is empty"),
        ([], 5, "histories: the list is empty"),
        (["50 172"], 5, r"histories\[0\] is the string '50 172'; give a list"),
        ([["50"]], 0, "k is 0"),
        ([["50"]], 2.5, "k is 2.5"),
        ([["50"]], "3", "k is 3"),
        ([50], 5, r"histories\[0\] is 50; give a list"),
        ([["50"]], 51, "k is 51; this run of TIGER ranks 50 items; choose k from 1 to that"),
    ],
)
def test_what_cannot_be_recommended_from_is_named(histories, k, message, finished_run):
    with pytest.raises(InputError, match=message):
        recommend(finished_run("TIGER")["run_dir"], histories, k)


def test_only_a_finished_unaltered_run_recommends(finished_run, tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        recommend(tmp_path, [["50"]])
    folder = shutil.copytree(finished_run("TIGER")["run_dir"], tmp_path / "copy")
    weights = folder / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(InputError, match="copy/model: missing, or altered"):
        recommend(folder, [["50"]])
    weights.write_bytes(content)
    RunFolder(folder).discard("result.json")
    with pytest.raises(InputError, match="the run is not finished, there is no result.json yet"):
        recommend(folder, [["50"]])


def test_a_run_folder_of_tiger_stands_alone_and_is_only_read(finished_run, tmp_path):
    folder = shutil.copytree(finished_run("TIGER")["run_dir"], tmp_path / "elsewhere" / "copy")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = recommend(folder, [["50", "172"]])
    pd.testing.assert_frame_equal(found, recommend(finished_run("TIGER")["run_dir"], [["50", "172"]]))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_name_is_the_function_whichever_was_imported_first(tmp_path):
    import recbole_dealrec.recommend as module

    for function in (recbole_dealrec.recommend, recommend, module, module.recommend):
        with pytest.raises(InputError, match="not a run folder"):
            function(tmp_path, [["50"]], k=1)


def test_the_module_prints_what_the_function_returns(finished_run, monkeypatch, capsys):
    run_dir = finished_run("TIGER")["run_dir"]
    expected = recommend(run_dir, [["50", "172"], ["181"]], 3)
    arguments = [run_dir, "--history", "50 172", "--history", "181", "--k", "3"]
    command = [sys.executable, "-m", "recbole_dealrec.recommend", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table, _, about = done.stdout.rstrip("\n").rpartition("\n")
    assert table == expected.round({"score": 4}).to_string(index=False)
    assert about.startswith("score: minus the logarithm")

    monkeypatch.setattr(sys, "stdin", io.StringIO("50 172\n181\n"))
    assert main(["recommend", run_dir, "--histories", "-", "--k", "3", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["item"] for line in lines] == expected["item"].tolist()

    assert main(["recommend", run_dir, "--histories", "absent.txt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: absent.txt: cannot be read")


def test_histories_of_any_kind_of_sequence(finished_run):
    run_dir = finished_run("TIGER")["run_dir"]
    expected = recommend(run_dir, [["50", "172"], ["181"]], k=3)
    given = (history for history in (np.array([50, 172]), pd.Series([181.0])))
    pd.testing.assert_frame_equal(recommend(run_dir, given, k=3.0), expected)
    pd.testing.assert_frame_equal(recommend(Path(run_dir), (("50", "172"), iter(["181"])), k=np.int64(3)), expected)


TINY_T5 = {"t5_num_layers": 2, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 4, "t5_d_ff": 24}
SMALL_KEYS = {"n_fewshot": 4, "epochs": 1, "topk": [3], "n_surrogates": 1, "surrogate_epochs": 1, "yardsticks": False}
SMALL_KEYS |= {"surrogate_valid_metric": "NDCG@3", "sampler": "InfluenceOnly", "tiny_steps": 2, "num_beams": 10}
BY_SURROGATES = {"grounding_collaborative": 2.0, "grounding_popularity": 1.0}
WAYS = {
    "tiny": {**BY_SURROGATES},
    "trie": {"llm_path": "llama", "grounding": "trie", **BY_SURROGATES, "surrogate_model": "GRU4Rec"},
    "embedding": {"llm_path": "llama", "grounding": "embedding", "max_new_tokens": 6, "sampler": "Random"},
    "exact": {"model": "TIGER", "scoring": "exact", **BY_SURROGATES},
    "beam": {"model": "TIGER", "scoring": "beam", "sampler": "Random"},
}


@pytest.fixture
def small_run(ten, checkpoint):
    """``small_run(way)``: folder of a run on the ten-item catalogue, in one of ``WAYS``."""

    def run(way):
        keys = {**SMALL_KEYS, **WAYS[way]}
        if keys.get("model") == "TIGER":
            keys |= {**TINY_T5, "valid_metric": "NDCG@3"}
            del keys["tiny_steps"]
        elif "llm_path" in keys:
            keys["llm_path"] = checkpoint(keys["llm_path"])
            del keys["tiny_steps"]
        config = ten(**keys)
        return Path(run_recbole_dealrec(config["model"], "ten", config_dict=config.resolved())["run_dir"])

    return run


def moved(run_dir, tmp_path, monkeypatch):
    """The run folder alone, elsewhere; nothing else that the run read or wrote is left."""
    folder = tmp_path / "far" / "away" / "copy"
    folder.parent.mkdir(parents=True)
    run_dir.rename(folder)
    for left in (tmp_path / "ten", tmp_path / "saved"):
        shutil.rmtree(left)
    monkeypatch.chdir(tmp_path / "far")
    return Path("away/copy")


@pytest.mark.parametrize("way", WAYS)
def test_a_run_folder_is_moved_and_recommends_alone(way, small_run, tmp_path, monkeypatch):
    run_dir = small_run(way)
    histories = [["i1", "i2"], ["i9"]]
    before = recommend(run_dir, histories, k=9), recommend(run_dir, users=["u4", "u1"], k=9)
    surrogates = list((run_dir / "reweighting").glob("*.safetensors"))
    assert len(surrogates) == (WAYS[way].get("sampler") != "Random")
    folder = moved(run_dir, tmp_path, monkeypatch)
    states = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    pd.testing.assert_frame_equal(recommend(folder, histories, k=9), before[0])
    pd.testing.assert_frame_equal(recommend(folder, users=["u4", "u1"], k=9), before[1])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == states


@pytest.mark.parametrize("way", ["tiny", "trie"])
def test_the_card_of_an_adapter_loads_the_model_that_ranked(way, small_run, tmp_path, monkeypatch):
    run_dir = small_run(way)
    expected = recommend(run_dir, [["i1", "i2"], ["i9"]], k=10)
    folder = moved(run_dir, tmp_path, monkeypatch).absolute()
    monkeypatch.chdir(folder / "adapter")
    card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    found = {}
    exec(card.partition("```python\n")[2].partition("```")[0], found)
    # The tiny LLM lies in the adapter's folder, and PEFT takes relative paths from the current one.
    by_peft = AutoPeftModelForCausalLM.from_pretrained("." if way == "tiny" else folder / "adapter")
    restored = BIGRec.restored.__func__

    def with_network(network, cls, *arguments):
        model = restored(cls, *arguments)
        assert found["tokenizer"].get_vocab() == model.tokenizer.get_vocab()
        model.network = network
        return model

    for network in (found["model"], by_peft):
        monkeypatch.setattr(BIGRec, "restored", classmethod(partial(with_network, network)))
        pd.testing.assert_frame_equal(recommend(folder, [["i1", "i2"], ["i9"]], k=10), expected)


def test_a_base_model_is_found_beside_a_moved_run_or_named(small_run, checkpoint, tmp_path, monkeypatch):
    run_dir = small_run("embedding")
    expected = recommend(run_dir, [["i9"]], k=9)
    config = run_dir / "adapter" / "adapter_config.json"
    base = Path(json.loads(config.read_text())["base_model_name_or_path"])
    assert base == Path(checkpoint("llama"))
    with RunFolder(run_dir).amended("adapter") as folder:
        (folder / config.name).write_text(config.read_text().replace(str(base), "/no/such/base"))
    with pytest.raises(InputError, match=r"^/no/such/base: no such folder; .*put it at .*saved/base$"):
        recommend(run_dir, [["i9"]], k=9)
    shutil.copytree(base, run_dir.parent / "base")
    pd.testing.assert_frame_equal(recommend(run_dir, [["i9"]], k=9), expected)


def test_a_users_history_is_that_of_the_data(finished_run, movies_path, sequences):
    run_dir = finished_run("TIGER")["run_dir"]
    users = [str(number) for number in sorted(map(str, range(1, 201)))]  # as the sequences are sorted
    found = recommend(run_dir, users=[users[3], users[0]], k=5)
    assert list(found) == ["user", "rank", "item", "title", "score"]
    assert found["user"].tolist() == [users[3]] * 5 + [users[0]] * 5
    longest = 20  # MAX_ITEM_LIST_LENGTH of the run
    expected = recommend(run_dir, [sequences[3][-longest:], sequences[0][-longest:]], k=5)
    pd.testing.assert_frame_equal(found.drop(columns="user"), expected.drop(columns="history"))
    pd.testing.assert_frame_equal(recommend(run_dir, users=[int(users[3])], k=5), found[:5])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give either histories or users"),
        ({"users": ["1"], "histories": [["50"]]}, "give either histories or users"),
        ({"users": ["nobody"]}, "no user 'nobody' with two items or more"),
        ({"users": "12"}, "users is '12'; give a list"),
        ({"users": 12}, "users is 12; give a list"),
        ({"users": []}, "users: the list is empty"),
    ],
)
def test_users_that_cannot_be_recommended_for_are_named(asked, message, finished_run):
    with pytest.raises(InputError, match=message):
        recommend(finished_run("TIGER")["run_dir"], **asked)


def test_the_run_of_an_older_version_is_an_error_of_one_line(finished_run, tmp_path):
    folder = shutil.copytree(finished_run("TIGER")["run_dir"], tmp_path / "older")
    checksums = json.loads((folder / "checksums.json").read_text())
    del checksums["catalogue"]
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(InputError, match="there is no catalogue yet; run the same command again") as raised:
        recommend(folder, [["50"]])
    assert "\n" not in str(raised.value)


def test_the_last_run_is_latest(finished_run):
    run_dir = Path(finished_run("TIGER")["run_dir"])
    pd.testing.assert_frame_equal(recommend(run_dir.parent / "latest", [["50"]]), recommend(run_dir, [["50"]]))


def test_items_of_one_title_are_told_apart_and_no_score_is_minus_zero(small_run, capsys):
    assert main(["recommend", str(small_run("tiny")), "--user", "u4", "--user", "u1", "--k", "10"]) == 0
    *table, about = capsys.readouterr().out.splitlines()
    assert sum("Twin [i5]" in line for line in table) == sum("Twin [i6]" in line for line in table) == 2
    assert not any("-0.0000" in line for line in table) and about.startswith("score: ")
