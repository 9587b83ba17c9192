"""The pages a person reads: their numbers are those of the run, and a browser shows them whole."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.pipeline import configure
from recbole_dealrec.report import example_places, selection_statistics
from recbole_dealrec.report.answer import answer_rows
from recbole_dealrec.report.full_cost import FullCost, full_cost
from recbole_dealrec.sampler.selection import Selection
from recbole_dealrec.store.files import read_json
from recbole_dealrec.store.run_folder import check_outputs

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 2,
    "surrogate_eval_step": 1, "surrogate_train_batch_size": 64, "hessian_samples": 32, "tiny_steps": 5, "epochs": 2,
    "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 10, "n_surrogates": 2, "topk": [5, 10], "untuned": True,
    "hard_prune_ratio": 0.1,
}  # fmt: skip
SHOWN = {"surrogate": "surrogate 1 of 2", "surrogate 1": "surrogate 2 of 2"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a page says: tables by the section's id, numbers as ``(value, text)``, what it would load."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.tags, self.loaded, self.numbers = {"": []}, [], [], []
        self._section, self._cell, self._value = "", None, None
        self.figures = [figure(text, match.end()) for match in re.finditer(r"Plotly\.newPlot\(\s*\"figure-", text)]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.loaded += [attributes[name] for name in ("src", "data", "srcset") if name in attributes]
        self.loaded += [attributes["href"]] if tag == "link" else []
        if tag == "h2":
            self._section = attributes["id"]
            self.sections[self._section] = []
        elif tag == "tr":
            self.sections[self._section].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "data":
            self._value = float(attributes["value"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.sections[self._section][-1].append(self._cell)
            self._cell = None
        elif tag == "data":
            self._value = None

    def handle_data(self, text):
        if self._value is not None:
            self.numbers.append((self._value, text))
            text = self._value
        if self._cell is not None:
            self._cell = text if self._cell == "" else f"{self._cell}{text}"


def figure(text, start):
    """Traces and layout of the figure whose name begins at ``start``."""
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(text, text.index("[", start))
    layout, _ = decoder.raw_decode(text, text.index("{", end))
    return traces, layout


def by_axis(page):
    return {layout["xaxis"]["title"]["text"]: traces for traces, layout in page.figures}


@pytest.fixture(scope="module")
def run(movies_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    keys = {**KEYS, "data_path": str(movies_path), "checkpoint_dir": str(folder / "saved")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run_recbole_dealrec(dataset="movies", config_dict=keys)
    return Path(result["run_dir"]), keys


def read_scores(folder):
    return pd.read_csv(folder / "scores.csv", float_precision="round_trip")


@pytest.fixture(scope="module")
def page(run):
    return Page((run[0] / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def result(run):
    return read_json(run[0] / "result.json")


def test_metrics_times_and_memory_are_those_of_the_result(page, result):
    header, *rows = page.sections["metrics"]
    shown = {f"{row[0]}{cutoff}": value for row in rows for cutoff, value in zip(header[1:], row[1:], strict=True)}
    errors = result["test_standard_error"]
    assert shown == {name: f"{value} ± {errors[name]}" for name, value in result["test_result"].items()}
    assert len(shown) == 4
    _, *rows = page.sections["cost"]
    spent = {SHOWN.get(step, step): seconds for step, seconds in result["seconds"].items()}
    assert {step: seconds for step, seconds, _ in rows} == spent
    assert {step: peak for step, _, peak in rows} == {
        SHOWN.get(step, step): peak["resident"] for step, peak in result["memory_mib"].items()
    }
    assert all(peak["resident"] > 100 for peak in result["memory_mib"].values())
    assert len(rows) == 11 and all(isinstance(seconds, float) for _, seconds, _ in rows)


def test_the_figures_show_the_counts_of_the_result(page, result):
    figures, selection = by_axis(page), result["selection"]
    scores = ["influence", "effort", "score"]
    assert list(selection["scores"]) == scores
    counts = {name: selection["scores"][name] for name in scores}
    counts |= {"group": selection["groups"]}
    for name, expected in counts.items():
        assert [trace["y"] for trace in figures[name]] == [expected["candidates"], expected["selected"]]
        assert sum(expected["selected"]) == 24
    for axis, name in {
        "times the item occurs in training": "popularity", "items in the history": "history_length",
    }.items():  # fmt: skip
        for trace, part in zip(figures[axis], ("candidates", "selected"), strict=True):
            total = {"candidates": 200, "selected": 24}[part]
            np.testing.assert_allclose(np.multiply(trace["y"], total), selection["coverage"][name][part])
    assert figures["seconds"][0]["x"] == list(result["seconds"].values())


def test_the_curves_are_those_of_the_trainings(page, run, result):
    (surrogates,) = run[0].parent.glob("movies-SASRec-surrogates-*")
    stored = {"fine-tuning": run[0] / "fine_tuning", "surrogate": surrogates / "surrogate"}
    stored["surrogate 1"] = surrogates / "surrogate-1"
    assert result["training"] == {step: read_json(Path(f"{file}.json"))["curve"] for step, file in stored.items()}
    tuning = result["training"]["fine-tuning"]
    assert len(tuning["train_loss"]) == 2 and tuning["valid_epoch"] == [0, 1]
    assert min(tuning["valid_result"]["loss"]) == result["best_valid_result"]["loss"]
    lines = {layout["yaxis"].get("title", {}).get("text"): traces for traces, layout in page.figures[::-1]}
    training, validation, star = lines["mean loss"]
    assert (training["y"], validation["y"]) == (tuning["train_loss"], tuning["valid_result"]["loss"])
    assert star["y"] == [result["best_valid_result"]["loss"]] and star["marker"]["symbol"] == "star"
    surrogates = [result["training"][name] for name in ("surrogate", "surrogate 1")]
    shown = [trace["y"] for trace in lines["ndcg@10"] if trace["mode"] != "markers"]
    assert shown == [curve["valid_result"]["ndcg@10"] for curve in surrogates] and len(shown[0]) == 2


def test_the_groups_are_listed_with_what_they_held_and_gave(page, run, result):
    scores = read_scores(run[0])
    _, *rows = page.sections["groups"]
    assert len(rows) == scores["group"].max() + 1 - (len(set(range(50)) - set(scores["group"])))
    for group, low, high, held, gave in rows:
        members = scores[scores["group"] == group]
        assert (held, gave) == (len(members), members["selected"].sum())
        assert (low, high) == (members["score"].min(), members["score"].max())
    assert result["selection"]["groups"]["set_aside"] == (scores["group"] == -1).sum() == 20


def test_the_coverage_is_counted_in_the_run_folder(page, run):
    scores = read_scores(run[0])
    selected = scores[scores["selected"] == 1]
    shown = {name: values for name, *values in page.sections["coverage"][1:]}
    assert shown["samples"] == [200, 24] and shown["users"] == [200, 24]
    assert shown["target items"] == [scores["target"].nunique(), selected["target"].nunique()]


def test_every_number_is_a_rounding_of_its_value(page):
    assert len(page.numbers) > 100
    for value, text in page.numbers:
        digits = len(text.partition(".")[2].partition("e")[0])
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-3, abs=0.5 * 10**-digits + 1e-9)


def test_examples_are_the_samples_at_the_ends_and_in_the_middle(run, page, result):
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    scores, examples = read_scores(run[0]), read_json(run[0] / "examples.json")
    assert examples["ranked_by"] == "score"
    found = {example["place"]: scores["score"][example["sample"]] for example in examples["samples"]}
    ordered, chosen = (np.sort(values)[::-1] for values in (scores["score"], scores["score"][scores["selected"] == 1]))
    assert found == {
        "highest": ordered[0], "highest selected": chosen[0], "median selected": chosen[len(chosen) // 2],
        "lowest selected": chosen[-1], "lowest": ordered[-1],
    }  # fmt: skip
    assert all(f'<data value="{float(score)!r}">' in text for score in found.values())
    reasons = {example["place"]: example["why"] for example in examples["samples"]}
    assert reasons["highest"] == "pruned by hard_prune_ratio: its score is among the highest"
    group = scores["group"][scores["score"] == chosen[0]].iloc[0]
    held = scores[scores["group"] == group]
    assert reasons["highest selected"] == (
        f"drawn: group {group} has {held['selected'].sum()} selected samples out of {len(held)}"
    )
    assert text.count('<article class="example">') == 5 + len(read_json(run[0] / "users.json"))


def test_the_page_opens_with_the_answer(run, page, result):
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    assert text.index(result["verdict"]) < text.index('<figure class="wide"') < text.index("<h2")
    assert page.figures[0][1]["xaxis"]["title"]["text"] == result["headline"]
    table = {row[0]: row[1] for row in reversed(page.sections["yardsticks"])}  # the parts of Recall stand below
    for row in result["yardsticks"]:
        assert str(table[SHOWN.get(row["name"], row["name"])]).startswith(str(row["test_result"][result["headline"]]))
    estimate = result["seconds"]["fine-tuning"] * result["n_candidates"] / len(result["selected"])
    assert any(value == pytest.approx(estimate) for value, _ in page.numbers)


def test_fine_tuning_on_all_is_measured_by_a_run_with_the_same_keys(run, result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {**run[1], "checkpoint_dir": str(tmp_path / "saved")}
    config = configure(None, "movies", None, run[1])
    seconds = result["seconds"]["fine-tuning"] * result["n_candidates"] / len(result["selected"])
    estimate = FullCost(pytest.approx(seconds), False)
    folder = tmp_path / "saved" / run[0].name
    assert full_cost(folder, config, result) == estimate
    full = run_recbole_dealrec(dataset="movies", sampler="Full", config_dict={**keys, "yardsticks": False})
    assert full_cost(folder, config, result) == FullCost(full["seconds"]["fine-tuning"], True)
    assert full_cost(folder, config, full) is None
    other = configure(None, "movies", None, {**run[1], "learning_rate": 0.5})
    assert full_cost(folder, other, result) == estimate


def test_five_users_are_shown_with_what_they_took(run, movies_path):
    users = read_json(run[0] / "users.json")
    assert len(users) == 5
    rows = [line.split("\t")[:2] for line in (movies_path / "movies" / "movies.item").read_text().splitlines()[1:]]
    titles = {text for item, title in rows for text in (title, f"{title} [{item}]")}  # where another has the same title
    for user in users:
        assert {*user["history"], *(item["title"] for item in user["ranking"])} <= titles
        best = user["targets"][0]
        assert [item["title"] for item in user["ranking"] if item["hit"]] == [best["title"]] * (best["rank"] <= 5)


def test_the_configuration_is_complete(page, run):
    shown = dict(page.sections["configuration"])
    assert {"n_fewshot", "surrogate_epochs", "seed"} <= set(shown) and shown["n_fewshot"] == "24"
    assert list(shown) == sorted(yaml.safe_load((run[0] / "config.yaml").read_text(encoding="utf-8")))


def test_the_page_loads_nothing(page, run):
    assert page.loaded == [] and page.tags.count("style") == 1
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and len(text) < 6_000_000


def test_a_page_of_finished_steps_is_the_same(run, monkeypatch):
    from recbole_dealrec import pipeline

    def refuse(*args, **kwargs):
        raise AssertionError("a finished step was started again")

    monkeypatch.setattr(pipeline, "LLMTrainer", refuse)
    before, result = ((run[0] / name).read_bytes() for name in ("report.html", "result.json"))
    run_recbole_dealrec(dataset="movies", config_dict=run[1])
    assert (run[0] / "report.html").read_bytes() == before and (run[0] / "result.json").read_bytes() == result


@pytest.mark.parametrize("ranked_by", ["x", None])
def test_statistics_by_hand(ranked_by):
    samples = CandidateSamples(
        user_id=np.array([1, 1, 2, 3]), item_id=np.array([1, 2, 1, 3]),
        item_id_list=np.array([[3, 0, 0], [3, 1, 0], [2, 0, 0], [1, 2, 3]]), item_length=np.array([1, 2, 1, 3]),
        titles=["[PAD]", "a", "b", "c"], rows=np.arange(4),
    )  # fmt: skip
    scores = pd.DataFrame(
        {"user": "u", "target": "i", "x": [0.0, 50.0, np.nan, 25.0], "group": [0, 2, -1, 2], "selected": [1, 0, 0, 1]}
    )
    found = selection_statistics(scores, ranked_by, samples, popularity=np.array([0, 1, 8, 3]))
    histogram = found["scores"]["x"]
    assert histogram["edges"] == list(range(51)) and histogram["not_finite"] == 1
    assert np.flatnonzero(histogram["candidates"]).tolist() == [0, 25, 49]
    assert np.flatnonzero(histogram["selected"]).tolist() == [0, 25]
    ranges = {"lowest": [0, 25], "highest": [0, 50]} if ranked_by else {}
    assert found["groups"] == {
        "group": [0, 2], "candidates": [1, 2], "selected": [1, 1], **ranges, "set_aside": 1,
    }  # fmt: skip
    coverage = found["coverage"]
    assert coverage["catalogue"] == 3
    assert {name: (each["candidates"], each["selected"]) for name, each in coverage["table"].items()} == {
        "samples": (4, 2), "users": (3, 2), "target items": (3, 2), "items in histories": (3, 3),
        "median popularity of the target": (2, 2), "median length of the history": (1.5, 2),
    }  # fmt: skip
    assert coverage["popularity"] == {
        "first": [1, 2, 4, 8], "last": [1, 3, 7, 8], "candidates": [2, 1, 0, 1], "selected": [1, 1, 0, 0],
    }  # fmt: skip
    assert coverage["history_length"]["candidates"] == [2, 2] and coverage["history_length"]["last"] == [1, 3]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30), st.data())
def test_examples_are_finite_different_and_in_order(values, data):
    values = np.array(values)
    usable = np.flatnonzero(np.isfinite(values)).tolist()
    chosen = np.array(sorted(data.draw(st.sets(st.sampled_from(usable)) if usable else st.just(set()))), dtype=np.int64)
    columns = {"a": np.zeros(len(values)), "b": values, "group": np.zeros(len(values))}
    name, places = example_places(Selection(chosen, columns, "b"), np.ones(len(values)))
    assert name == "b"
    found = list(places.values())
    assert len(set(found)) == len(found) and np.isfinite(values[found]).all()
    assert (np.diff(values[found]) <= 0).all()
    assert {index for place, index in places.items() if "selected" in place} <= set(chosen.tolist())
    assert bool(found) == bool(usable)


def test_where_the_sampler_ranks_by_none_the_history_length_does():
    selection = Selection(np.array([2]), {"effort": np.array([1, 0, 2])}, None)
    assert example_places(selection, np.array([5, 9, 7])) == (
        "history length", {"highest": 1, "highest selected": 2, "lowest": 0},
    )  # fmt: skip


PROBE = """<!doctype html><title>probe</title>
<iframe src="report.html" style="border:0;width:390px;height:844px"></iframe>
<iframe src="report.html" style="border:0;width:1440px;height:900px"></iframe>
<script>
const seen = (frame) => {
  const page = frame.contentDocument.documentElement, plots = [...page.querySelectorAll(".js-plotly-plot")];
  const style = (element, name) => frame.contentWindow.getComputedStyle(element)[name];
  return {
    overflow: page.scrollWidth - page.clientWidth, plots: plots.length,
    drawn: plots.filter((plot) => plot.querySelector(".barlayer path, .scatterlayer path")).length,
    wider: plots.filter((plot) => plot.querySelector("svg").clientWidth > plot.parentElement.clientWidth + 1).length,
    page: style(page.querySelector("body"), "backgroundColor"), tick: style(page.querySelector(".xtick text"), "fill"),
  };
};
addEventListener("load", () => setTimeout(() => {
  const text = JSON.stringify([...document.querySelectorAll("iframe")].map(seen));
  document.body.innerHTML = `<pre>${text}</pre>`;
}, 1000));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_all_figures_within_a_phone_and_a_laptop(scheme, run, page, tmp_path):
    shutil.copy(run[0] / "report.html", tmp_path)
    (tmp_path / "probe.html").write_text(PROBE, encoding="utf-8")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--window-size=1500,1800",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", (tmp_path / "probe.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    frames = json.loads(re.search("<pre>(.*)</pre>", shown).group(1))
    colours = {"light": ("rgb(255, 255, 255)", "rgb(28, 30, 33)"), "dark": ("rgb(20, 22, 26)", "rgb(232, 234, 237)")}
    assert len(frames) == 2 and len(page.figures) == 11
    for frame in frames:
        assert (frame["overflow"], frame["wider"]) == (0, 0)
        assert frame["plots"] == frame["drawn"] == len(page.figures)
        assert (frame["page"], frame["tick"]) == colours[scheme]


@pytest.mark.parametrize("model, folder", [("BIGRec", "adapter"), ("TIGER", "model")])
def test_the_model_card_has_what_the_hub_reads_and_what_the_run_found(model, folder, finished_run):
    result = finished_run(model)
    run_dir = Path(result["run_dir"])
    card = ModelCard.load(run_dir / folder / "README.md")
    (entry,) = card.data.to_dict()["model-index"]
    assert entry["name"] == run_dir.name and entry["results"][0]["dataset"]["name"] == "movies"
    assert {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]} == result["test_result"]
    assert card.data.library_name == {"BIGRec": "peft", "TIGER": "transformers"}[model]
    assert "recommendation" in card.data.tags and card.data.base_model is None
    read = read_json(run_dir / "result.json")
    assert f"| samples | 64 of {read['n_candidates']} candidates of movies, chosen by Random |" in card.text
    assert "| seed | 2020 |\n| epochs | 2 |\n| validation | " in card.text and read["verdict"] in card.text
    rows = [line.split(" | ") for line in card.text.splitlines() if "±" in line and line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == [row["name"] for row in answer_rows(read)]
    assert not any(str(path) in card.text for path in run_dir.parents[:-2]) and "\n\n\n" not in card.text
    assert check_outputs(run_dir, [folder, "catalogue"]) is None
