import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from recbole_dealrec import compare_samplers, pipeline, run_recbole_dealrec
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.config.rows import KEYS as ROWS
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.quick_start import _costs
from recbole_dealrec.report import write_comparison_report
from recbole_dealrec.report.comparison_table import (
    COSTS,
    comparison_table,
    holm,
    log_comparison,
    paired_p,
    write_comparison,
    yardstick_values,
)
from recbole_dealrec.report.finding import findings, validation_note
from recbole_dealrec.report.latex import escape
from recbole_dealrec.store.files import read_json
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer
from recbole_dealrec.training.surrogate_training import SurrogateTraining

A = {"recall@10": [0.5, 0.6, 0.8], "ndcg@10": [0.2, 0.2, 0.5]}
B = {"recall@10": [0.4, 0.4, 0.4], "ndcg@10": [0.1, 0.3, 0.2]}
C = {"recall@10": [0.1, 0.1, 0.7], "ndcg@10": [0.2, 0.1, 0.6]}


NO_YARDSTICKS = pd.DataFrame()
SEES = {"TargetFrequency": "training, validation targets", "C": "training, validation histories, validation targets"}


def rows_of(**samplers):
    return pd.DataFrame(
        {
            "sampler": name, "seed": seed, "sees": SEES.get(name, "training"),
            **{metric: values[seed] for metric, values in metrics.items()},
            "selection seconds": 10.0 * (seed + 1), "fine-tuning seconds": 5.0, "evaluation seconds": 2.0,
            "run_dir": f"saved/d-M-{name}-{seed}",
        }
        for name, metrics in samplers.items()
        for seed in range(len(metrics["recall@10"]))
    )  # fmt: skip


def table_of(yardsticks=NO_YARDSTICKS, **samplers):
    return comparison_table(rows_of(**samplers), yardsticks)


def cell(table, quantity, method):
    return table[(table["quantity"] == quantity) & (table["method"] == method)].iloc[0]


def p_of(table, reference):
    """The p values against a sampler by method and metric."""
    return table.set_index(["method", "quantity"])[f"p against {reference}"].dropna().to_dict()


def two_sided(first, other):
    differences = np.subtract(first, other)
    statistic = differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences)))
    return 2 * student.sf(abs(statistic), df=len(differences) - 1)


def test_means_and_deviations_over_seeds():
    table = table_of(A=A, B=B)
    row = cell(table, "recall@10", "A")
    assert row["mean"] == pytest.approx(1.9 / 3) and row["seeds"] == 3
    assert row["std"] == pytest.approx(math.sqrt(sum((x - 1.9 / 3) ** 2 for x in A["recall@10"]) / 2))
    cost = cell(table, "selection seconds", "B")
    assert (cost["mean"], cost["std"]) == (20, 10)


def test_the_confidence_interval_is_students_and_not_below_0():
    table = table_of(A=A, C=C)
    row = cell(table, "recall@10", "A")
    half = 4.302652729911275 * row["std"] / math.sqrt(3)  # the 0.975 quantile of t with two degrees of freedom
    assert (row["low"], row["high"]) == (pytest.approx(row["mean"] - half), pytest.approx(row["mean"] + half))
    wide = cell(table, "recall@10", "C")
    half = 4.302652729911275 * wide["std"] / math.sqrt(3)
    assert half > wide["mean"] and (wide["low"], wide["high"]) == (0, pytest.approx(wide["mean"] + half))
    assert table_of(A={"recall@10": [0.5]})[["low", "high"]].isna().all(axis=None)


def test_all_p_of_a_reference_are_one_family_of_holms():
    table = table_of(A=A, Random=B, TargetFrequency=C)
    for reference, values, others in (
        ("Random", B, {"A": A, "TargetFrequency": C}),
        ("TargetFrequency", C, {"A": A, "Random": B}),
    ):
        pairs = [(name, metric) for name in others for metric in A]
        raw = {pair: two_sided(others[pair[0]][pair[1]], values[pair[1]]) for pair in pairs}
        expected = dict(zip(raw, holm(list(raw.values())), strict=True))
        assert p_of(table, reference) == pytest.approx(expected) and len(expected) == 4


def test_a_test_is_two_sided():
    assert paired_p([3, 4, 6], [1, 1, 1]) == paired_p([1, 1, 1], [3, 4, 6]) == pytest.approx(two_sided([3, 4, 6], 1))


def test_no_sampler_is_tested_where_no_reference_is_compared():
    assert not [name for name in table_of(A=A, B=B, C=C) if name.startswith("p against")]
    assert not [name for name in table_of(Random=A) if name.startswith("p against")]


def test_pairs_are_those_of_a_seed_whatever_the_order_of_the_runs():
    runs = rows_of(A=A, B=B, Random=C)
    order = [2, 0, 1, 4, 5, 3, 7, 8, 6]
    mixed = comparison_table(runs.iloc[order], NO_YARDSTICKS)
    pd.testing.assert_frame_equal(mixed, comparison_table(runs, NO_YARDSTICKS))


@pytest.mark.parametrize(
    "mine, other",
    [([0.5], [0.4]), ([0.5, 0.25], [0.3, 0.125]), ([0.3, 0.2, 0.1], [0.2, 0.1, 0.0]), ([0.3, 0.2, 0.1],) * 2],
    ids=["one seed", "two seeds", "equal differences but for rounding", "equal"],
)
def test_no_p_where_there_is_nothing_to_test(mine, other):
    table = table_of(A={"recall@10": mine}, Random={"recall@10": other})
    assert table["p against Random"].isna().all()
    (said,) = findings(table, "recall@10")
    assert "no conclusion" in said and "p =" not in said
    assert said.startswith(["", "One seed:", "Two seeds:", "A against Random"][len(mine)])


def test_findings_are_sentences():
    far = {"recall@10": [0.80, 0.81, 0.82]}
    near = {"recall@10": [0.30, 0.29, 0.28]}
    table = table_of(A=far, Random=near, TargetFrequency={"recall@10": [0.7, 0.9, 0.83]})
    said = findings(table, "recall@10")
    p = p_of(table, "Random")["A", "recall@10"]
    assert p < 0.05 and said[0] == f"A is above Random on recall@10 (0.8100 to 0.2900, p = {p:.3g})."
    assert [line.split(" on ")[0] for line in said[1:]] == [
        "TargetFrequency is above Random", "A against TargetFrequency", "Random is below TargetFrequency",
    ]  # fmt: skip
    assert "no conclusion (0.8100 to 0.8100, p = 1)" in said[2]
    assert findings(table_of(A=far, B=near), "recall@10") == []


def test_the_best_sampler_of_a_metric_is_marked():
    gini = {"giniindex@10": [0.9, 0.9, 0.9]}
    yardsticks = pd.DataFrame({"method": "item kNN", "seed": [0], "recall@10": [0.99]})
    table = table_of(yardsticks, A={**A, **gini}, B={**B, "giniindex@10": [0.8, 0.8, 0.8]})
    best = table[table["best"]]
    assert list(zip(best["quantity"], best["method"], strict=True)) == [
        ("recall@10", "A"), ("ndcg@10", "A"), ("giniindex@10", "B"),
    ]  # fmt: skip


def test_yardsticks_stand_behind_the_samplers_each_with_its_seeds():
    yardsticks = pd.DataFrame([
        {"method": "random ranking", "seed": 0, "recall@10": 0.1, "ndcg@10": 0.05},
        {"method": "item kNN", "seed": 0, "recall@10": 0.3},
        {"method": "random ranking", "seed": 1, "recall@10": 0.2, "ndcg@10": 0.05},
    ])  # fmt: skip
    table = table_of(yardsticks, A=A, Random=B)
    rows = table[table["quantity"] == "recall@10"]
    assert list(rows["method"]) == ["A", "Random", "random ranking", "item kNN"]
    assert list(rows["kind"]) == ["sampler"] * 2 + ["yardstick"] * 2 and list(rows["seeds"]) == [3, 3, 2, 1]
    assert cell(table, "recall@10", "random ranking")["mean"] == pytest.approx(0.15)
    assert list(table[table["quantity"] == "ndcg@10"]["method"]) == ["A", "Random", "random ranking"]
    assert not table[table["kind"] == "yardstick"]["quantity"].isin(COSTS).any()
    assert table[table["kind"] == "yardstick"]["p against Random"].isna().all()


def test_yardsticks_are_those_of_the_run_with_most(tmp_path):
    runs = rows_of(A={"recall@10": [0.5]}, B={"recall@10": [0.4]})
    runs["run_dir"] = [str(tmp_path / name) for name in "AB"]
    measured = {
        "A": ["random ranking", "surrogate", "surrogate 1", "mean of the surrogates"],
        "B": ["random ranking", "language model before fine-tuning"],
    }
    for name, methods in measured.items():
        rows = [{"name": method, "unrounded": {"recall@10": 0.123456789}} for method in methods]
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"yardsticks": rows}))
    found = yardstick_values(runs)
    assert list(found["method"]) == ["random ranking", "mean of the surrogates"]
    assert list(found["recall@10"]) == [0.123456789] * 2
    (tmp_path / "A" / "result.json").write_text(json.dumps({"yardsticks": [
        {"name": name, "unrounded": {}} for name in ("random ranking", "item kNN", "surrogate")
    ]}))  # fmt: skip
    assert list(yardstick_values(runs)["method"]) == ["random ranking", "item kNN", "surrogate"]


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan, 0.9]), [0.04, 0.09, 0.09, np.nan, 0.9])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferronis(p):
    corrected = holm(p)
    assert (corrected >= p).all() and (corrected <= np.minimum(1, np.multiply(p, len(p)))).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_the_files_hold_runs_and_table(tmp_path):
    runs = rows_of(A=A, Random=B)
    table = comparison_table(runs, NO_YARDSTICKS)
    folder = write_comparison(tmp_path, runs, table)
    assert folder.parent == tmp_path and folder.name.startswith("d-M-comparison-")
    beside = [f"../{Path(run).name}" for run in runs["run_dir"]]  # so that all of them can be moved
    pd.testing.assert_frame_equal(pd.read_csv(folder / "runs.csv"), runs.assign(run_dir=beside))
    pd.testing.assert_frame_equal(pd.read_csv(folder / "comparison.csv"), table)
    other = write_comparison(tmp_path, rows_of(A=A, C=C), table)
    assert other != folder


FAR = {"recall@10": [0.8, 0.81, 0.82], "ndcg@10": [0.2, 0.2, 0.5]}
KNN = pd.DataFrame({"method": "item kNN", "seed": [0, 1, 2], "recall@10": [0.9, 0.9, 0.9]})


def tabulars(latex):
    """Rows of cells of each tabular, after its number of columns has been checked."""
    for columns, body in re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", latex, re.DOTALL):
        rows = [re.split(r"(?<!\\) & ", line) for line in body.split(" \\\\\n") if "&" in line]
        assert {len(row) for row in rows} == {len(columns)}
        yield [[cell.strip().removeprefix("\\midrule\n").removeprefix("\\toprule\n") for cell in row] for row in rows]


def test_the_latex_table_can_go_into_a_paper(tmp_path):
    runs = rows_of(My_Sampler=FAR, Random=B)
    latex = (write_comparison(tmp_path, runs, comparison_table(runs, KNN)) / "comparison.tex").read_text()
    metrics, seconds = tabulars(latex)
    assert metrics == [
        ["Method", "recall@10", "ndcg@10"],
        [r"My\_Sampler", r"\textbf{0.8100} $\pm$ 0.0100$^{*}$", r"\textbf{0.3000} $\pm$ 0.1732"],
        ["Random", r"0.4000 $\pm$ 0.0000", r"0.2000 $\pm$ 0.1000"],
        ["item kNN", r"0.9000 $\pm$ 0.0000", "--"],
    ]
    assert seconds[1] == [r"My\_Sampler", r"20.0 $\pm$ 10.0", r"5.0 $\pm$ 0.0", r"2.0 $\pm$ 0.0"]
    assert "item kNN" not in {row[0] for row in seconds}
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == latex.count(r"\end{table}") == 2
    assert latex.count(r"\midrule") == 3  # one of them between samplers and yardsticks
    assert "$^{*}$ from Random ($p < 0.05$" in latex and latex.count("{") == latex.count("}")


def test_latex_is_escaped():
    assert escape(r"a_b & 5% of $x^2$ #{~\}") == (
        r"a\_b \& 5\% of \$x\textasciicircum{}2\$ \#\{\textasciitilde{}\textbackslash{}\}"
    )


def test_what_samplers_see_of_the_validation_part_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    runs = rows_of(A=A, C=C, Random=B, TargetFrequency=FAR)
    table = comparison_table(runs, KNN)
    assert dict(zip(table["method"], table["sees"], strict=True)) == {
        "A": "training", "C": SEES["C"], "Random": "training", "TargetFrequency": SEES["TargetFrequency"],
        "item kNN": None,
    }  # fmt: skip
    told = "Samplers that see the validation part: C (histories, targets), TargetFrequency (targets)."
    assert validation_note(table) == told and validation_note(table_of(A=A, Random=B)) == ""
    log_comparison(table, tmp_path, "recall@10")
    assert told in " ".join("\n".join(caplog.messages).split())
    folder = write_comparison(tmp_path, runs, table)
    assert told in (folder / "comparison.tex").read_text()
    assert pd.read_csv(folder / "runs.csv")["sees"].tolist() == runs["sees"].tolist()
    page = page_of(tmp_path, A=A, C=C, Random=B, TargetFrequency=FAR)
    assert told in page
    (header, *rows) = html_rows(page.split("<nav>")[1])
    assert header[-1] == "sees" and [row[-1] for row in rows[:2]] == ["training", SEES["C"]]


def test_two_seeds_have_no_marks_in_latex(tmp_path):
    runs = rows_of(A={"recall@10": [0.8, 0.81]}, Random={"recall@10": [0.2, 0.22]})
    latex = (write_comparison(tmp_path, runs, comparison_table(runs, NO_YARDSTICKS)) / "comparison.tex").read_text()
    assert "Two seeds: no conclusion." in latex and "^" not in latex


def test_the_log_is_tables_that_fit_a_terminal(tmp_path, caplog):
    caplog.set_level("INFO")
    metrics = {f"recall@{k}": values for k in (5, 10, 20, 50) for values in [FAR["recall@10"]]}
    metrics |= {f"ndcg@{k}": values for k in (5, 10, 20, 50) for values in [A["ndcg@10"]]}
    log_comparison(table_of(KNN, DEALRec=metrics, Random={**metrics, **B}), tmp_path, "recall@10")
    text = "\n".join(caplog.messages)
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100
    rows = [line for line in text.splitlines() if line.startswith("DEALRec ") and "±" in line]
    assert len(rows) >= 3  # metrics in two parts, and seconds
    assert "0.8100 ± 0.0100" in text and "p against Random: two-sided" in text and "item kNN" in text
    assert "DEALRec is above Random on recall@10" in text and "fine-tuning seconds" in text
    assert f"report: {tmp_path / 'report.html'}" in text


def test_the_log_of_two_seeds_has_no_p(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of(A={"recall@10": [0.8, 0.81]}, Random={"recall@10": [0.2, 0.22]})
    log_comparison(table, tmp_path, "recall@10")
    assert "Two seeds: no conclusion." in caplog.text and "p against" not in caplog.text


def test_samplers_come_with_keys_of_the_selection_alone():
    files = list(properties_folder().glob("sampler/*.yaml"))
    assert files and {ROWS[key].step for file in files for key in read_yaml(file)} == {"selection"}


KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 1, "n_fewshot": 24,
    "surrogate_epochs": 1, "surrogate_train_batch_size": 64, "hessian_samples": 32, "tiny_steps": 10, "epochs": 1,
    "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 2, "topk": [10],
    "untuned": True,
}  # fmt: skip
NAMED, SEEDS = ["InfluenceOnly", "EL2N"], [7, 8]
SAMPLERS = [*NAMED, "Random", "TargetFrequency"]


def refuse(*args, **kwargs):
    raise AssertionError("a finished step was started again")


@pytest.fixture(scope="module")
def keys(movies_path):
    return {**KEYS, "data_path": str(movies_path)}


@pytest.fixture(scope="module")
def compared(keys, tmp_path_factory):
    """The comparison, its folder, and how often a surrogate was trained and a language model built."""
    from recbole_dealrec.model import BIGRec

    folder = tmp_path_factory.mktemp("compared")
    counts = {"fit": 0, "llm": 0}

    def counting(name, function):
        def count(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(SafetensorsTrainer, "fit", counting("fit", SafetensorsTrainer.fit))
        patch.setattr(BIGRec, "__init__", counting("llm", BIGRec.__init__))
        keys = {**keys, "checkpoint_dir": str(folder / "saved")}
        result = compare_samplers(NAMED, SEEDS, dataset="movies", config_dict=keys)
    return result, folder, counts


def test_what_samplers_share_is_computed_once(compared):
    _, folder, counts = compared
    fine_tunings = len(SAMPLERS) * len(SEEDS)
    assert counts == {"fit": KEYS["n_surrogates"] * len(SEEDS) + fine_tunings, "llm": len(SEEDS)}
    for kind, file in (("SASRec-surrogates", "surrogate-1.safetensors"), ("SASRec-scores", "el2n.npy")):
        shared = list((folder / "saved").glob(f"movies-{kind}-*"))
        assert len(shared) == len(SEEDS) and all((path / file).exists() for path in shared)
    assert len(list((folder / "saved").glob("movies-BIGRec-scores-*"))) == len(SEEDS)


def test_a_compared_run_comes_out_as_it_would_alone(compared, keys, tmp_path):
    runs = compared[0]["runs"]
    assert list(zip(runs["sampler"], runs["seed"], strict=True)) == [
        (name, seed) for seed in SEEDS for name in SAMPLERS
    ]
    for sampler, seed in (("EL2N", 7), ("Random", 8)):
        alone = run_recbole_dealrec(
            dataset="movies", sampler=sampler, config_dict={**keys, "seed": seed, "checkpoint_dir": str(tmp_path)}
        )
        row = runs[(runs["sampler"] == sampler) & (runs["seed"] == seed)].iloc[0]
        assert {metric: row[metric] for metric in alone["unrounded"]} == alone["unrounded"]
        assert row["run_dir"].rsplit("/", 1)[1] == alone["run_dir"].rsplit("/", 1)[1]


def test_metrics_are_compared_unrounded(compared):
    runs, table = compared[0]["runs"], compared[0]["table"]
    results = [read_json(Path(folder) / "result.json") for folder in runs["run_dir"]]
    for row, result in zip(runs.to_dict("records"), results, strict=True):
        assert row["sees"] == SEES.get(row["sampler"], "training") == ", ".join(result["selected_by"]["sees"])
        assert result["unrounded"].keys() == result["test_result"].keys()
        for metric, value in result["unrounded"].items():
            assert row[metric] == value and round(value, 4) == result["test_result"][metric]
        assert abs(row["recall@10"] * 200 - round(row["recall@10"] * 200)) < 1e-9  # hits among 200 queries
    assert (runs["ndcg@10"] != runs["ndcg@10"].round(4)).any()
    known = {row["name"]: row["unrounded"] for row in max((result["yardsticks"] for result in results[:4]), key=len)}
    assert "mean of the surrogates" in known
    rows = table[(table["kind"] == "yardstick") & (table["quantity"] == "ndcg@10")].set_index("method")
    assert set(rows.index) == {name for name in known if not name.startswith("surrogate")}
    assert (rows["seeds"] == len(SEEDS)).all()
    assert rows.at["item kNN", "mean"] == pytest.approx(known["item kNN"]["ndcg@10"], abs=1e-12)


def test_scores_are_shared_by_runs_that_select_or_fine_tune_otherwise(compared, keys, monkeypatch):
    monkeypatch.setattr(SurrogateTraining, "fit", refuse)
    changed = {"learning_rate": 0.01, "epochs": 2, "n_fewshot": 10, "topk": [5], "num_beams": 5, "n_groups": 3}
    changed |= {"checkpoint_dir": str(compared[1] / "saved")}
    result = compare_samplers(["InfluenceOnly"], [7], dataset="movies", config_dict={**keys, **changed})
    assert list(result["runs"].filter(like="@")) == ["recall@5", "ndcg@5"]
    assert result["runs"]["run_dir"][0] not in set(compared[0]["runs"]["run_dir"])


def test_a_selection_costs_what_it_needs_whoever_paid_first(compared):
    runs, saved = compared[0]["runs"], compared[1] / "saved"
    shared = {"InfluenceOnly": ["influence"], "EL2N": ["el2n"], "Random": [], "TargetFrequency": ["target_frequency"]}
    trained = [read_json(path / "steps.json")["surrogate 1"] for path in saved.glob("movies-SASRec-surrogates-*")]
    assert len(trained) == len(SEEDS)
    for run in runs.to_dict("records"):
        records = read_json(Path(run["run_dir"]) / "steps.json")
        seconds = {step: record["seconds"] for step, record in records.items()}
        needed = [*(["surrogate", "surrogate 1"] if run["sampler"] in NAMED else []), *shared[run["sampler"]]]
        behind = {"language model", "selection", "fine-tuning", "reweighting", "evaluation", "yardsticks"}
        behind |= {"evaluation before fine-tuning"}
        assert set(seconds) == {*needed, *behind}
        assert run["selection seconds"] == pytest.approx(sum(seconds[step] for step in [*needed, "selection"]))
        assert run["fine-tuning seconds"] == seconds["fine-tuning"]
        assert run["evaluation seconds"] == seconds["evaluation"]
        assert run["sampler"] not in NAMED or records["surrogate 1"] in trained


def test_the_language_model_is_no_cost_of_a_selection():
    seconds = {"language model": 64.0, "effort": 4.0, "selection": 1.0, "fine-tuning": 32.0, "evaluation": 16.0}
    assert _costs(seconds) == {"selection seconds": 5, "fine-tuning seconds": 32, "evaluation seconds": 16}
    assert math.isnan(_costs({"selection": 1.0})["evaluation seconds"])


def test_the_report_shows_the_score_that_a_sampler_goes_by(compared):
    saved = compared[1] / "saved"
    for sampler, headings in (("EL2N", ["el2n"]), ("InfluenceOnly", ["influence"]), ("Random", [])):
        for page in saved.glob(f"movies-BIGRec-{sampler}-*/report.html"):
            text = page.read_text(encoding="utf-8")
            assert [name for name in ("influence", "effort", "el2n") if f"<figcaption>{name}</" in text] == headings
            assert ('<h2 id="groups">' in text) == (sampler == "InfluenceOnly")
            assert ("Surrogates: " in text) == (sampler != "Random")
            ranked = headings[0] if headings else "history length"
            assert f"<p>By {ranked}: the highest and lowest of all candidates" in text


def html_rows(text):
    """Text of the cells of each row of the tables in a page."""
    rows = re.findall("<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall("<(?:td|th)(?: .*?)?>(.*?)</t[dh]>", row) for row in rows]
    return [[re.sub("<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_the_page_begins_with_the_answer_and_links_to_the_runs(compared):
    result, folder = compared[0], Path(compared[0]["comparison_dir"])
    text = (folder / "report.html").read_text(encoding="utf-8")
    table = result["table"]
    body = text.split("<body>")[1]
    answer, rest = body.split("<nav>")
    assert "<li>Two seeds: no conclusion. A test needs 3.</li>" in answer and "p values" not in rest
    assert all(f'"y":["{method}"]' in answer for method in table["method"].unique())
    (header, *rows), methods = html_rows(rest), list(table["method"].unique())
    assert header[1:] == ["recall@10", "ndcg@10", "sees"] and [row[0] for row in rows[: len(methods)]] == methods
    for row in table.to_dict("records"):
        shown = [row["mean"], *([row["low"], row["high"]] if row["low"] < row["high"] else [])]
        assert all(f'<data value="{float(value)!r}">' in rest for value in shown), row
    links = re.findall('<a href="([^#"]+)">', text)
    assert len(links) == len(SAMPLERS) * len(SEEDS)
    assert [(folder / link).resolve().parent for link in links] == [
        Path(run).resolve() for run in result["runs"]["run_dir"]
    ]
    assert all(link.startswith("../") and (folder / link).is_file() for link in links)
    coverage = [read_json(Path(run) / "result.json")["selection"]["coverage"] for run in result["runs"]["run_dir"]]
    assert all(each["table"]["samples"]["selected"] == KEYS["n_fewshot"] for each in coverage)
    items = [each["table"]["target items"]["selected"] for each in coverage]
    for place in range(len(SAMPLERS)):
        assert f'<data value="{np.mean(items[place :: len(SAMPLERS)])!s}">' in text


def page_of(folder, **samplers):
    """The page of runs whose selections are made up."""
    runs = rows_of(**samplers)
    counts = {"first": [1], "last": [1], "candidates": [9], "selected": [2]}
    coverage = {"catalogue": 9, "table": {"users": {"candidates": 9.0, "selected": 2.0}}}
    coverage |= {"popularity": counts, "history_length": counts}
    runs["run_dir"] = [str(folder / Path(run).name) for run in runs["run_dir"]]
    for path in map(Path, runs["run_dir"]):
        path.mkdir()
        (path / "result.json").write_text(json.dumps({"selection": {"coverage": coverage}}))
    table = comparison_table(runs, NO_YARDSTICKS)
    written = write_comparison(folder, runs, table)
    write_comparison_report(written, runs, table, "recall@10")
    return (written / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_p_and_findings_of_three_seeds(tmp_path):
    text = page_of(tmp_path, A=FAR, Random=B, TargetFrequency=C)
    table = table_of(A=FAR, Random=B, TargetFrequency=C)
    answer, rest = text.split("<body>")[1].split("<nav>")
    for sentence in findings(table, "recall@10"):
        assert f"<li>{sentence}</li>" in answer
    for reference in ("Random", "TargetFrequency"):
        part = rest.split(f"<h3>Against {reference}</h3>")[1].split("</table>")[0]
        p = p_of(table, reference)
        assert all(f'<data value="{value!r}">' in part for value in p.values()) and part.count("<data") == len(p) == 4
    assert '<b><data value="0.81">0.8100</data></b>' in rest


def test_the_page_of_one_seed_says_that_there_are_no_intervals(tmp_path):
    text = page_of(tmp_path, A={"recall@10": [0.5]}, Random={"recall@10": [0.4]})
    body = text.split("<body>")[1]
    assert "no confidence intervals" in body and "One seed: no conclusion." in body and '"error_x"' not in body
    assert '<data value="0.4">0.4000</data></td>' in body and "nan" not in body.lower()


def test_a_second_comparison_and_a_single_run_start_no_finished_step(compared, keys, monkeypatch):
    for owner, name in ((SurrogateTraining, "fit"), (pipeline, "LLMTrainer"), (pipeline.Pipeline, "llm")):
        monkeypatch.setattr(owner, name, refuse)
    result, folder, _ = compared
    keys = {**keys, "checkpoint_dir": str(folder / "saved")}
    again = compare_samplers(NAMED, SEEDS, dataset="movies", config_dict=keys)
    pd.testing.assert_frame_equal(again["runs"], result["runs"])
    pd.testing.assert_frame_equal(again["table"], result["table"])
    assert again["comparison_dir"] == result["comparison_dir"]
    single = run_recbole_dealrec(dataset="movies", sampler="Random", config_dict={**keys, "seed": 8})
    assert single["run_dir"] in set(result["runs"]["run_dir"])
