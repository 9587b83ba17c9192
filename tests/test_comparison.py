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
from recbole_dealrec.report.comparison_table import comparison_table, holm, log_comparison, write_comparison
from recbole_dealrec.store.files import read_json
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer
from recbole_dealrec.training.surrogate_training import SurrogateTraining

A = {"recall@10": [0.5, 0.6, 0.8], "ndcg@10": [0.2, 0.2, 0.5]}
B = {"recall@10": [0.4, 0.4, 0.4], "ndcg@10": [0.1, 0.3, 0.2]}
C = {"recall@10": [0.1, 0.1, 0.7], "ndcg@10": [0.2, 0.1, 0.6]}


def rows_of(**samplers):
    return pd.DataFrame(
        {
            "sampler": name, "seed": seed, **{metric: values[seed] for metric, values in metrics.items()},
            "selection seconds": 10.0 * (seed + 1), "fine-tuning seconds": 5.0, "evaluation seconds": 2.0,
            "run_dir": f"saved/d-M-{name}-{seed}",
        }
        for name, metrics in samplers.items()
        for seed in range(len(metrics["recall@10"]))
    )  # fmt: skip


def cell(table, quantity, sampler):
    return table[(table["quantity"] == quantity) & (table["sampler"] == sampler)].iloc[0]


def test_means_and_deviations_over_seeds():
    table = comparison_table(rows_of(A=A, B=B))
    row = cell(table, "recall@10", "A")
    assert row["mean"] == pytest.approx(1.9 / 3) and row["seeds"] == 3
    assert row["std"] == pytest.approx(math.sqrt(sum((x - 1.9 / 3) ** 2 for x in A["recall@10"]) / 2))
    cost = cell(table, "selection seconds", "B")
    assert (cost["mean"], cost["std"]) == (20, 10)


def test_the_confidence_interval_is_students():
    row = cell(comparison_table(rows_of(A=A, B=B)), "recall@10", "A")
    half = 4.302652729911275 * row["std"] / math.sqrt(3)  # the 0.975 quantile of t with two degrees of freedom
    assert (row["low"], row["high"]) == (pytest.approx(row["mean"] - half), pytest.approx(row["mean"] + half))
    one = comparison_table(rows_of(A={"recall@10": [0.5]}))
    assert one[["low", "high"]].isna().all(axis=None)


def test_the_first_is_tested_pair_by_pair_against_the_best_other():
    table = comparison_table(rows_of(A=A, B=B, C=C))
    # B has the best other recall (0.4 to 0.3), C the best other NDCG (0.3 to 0.2).
    assert cell(table, "recall@10", "A")["against"] == "B" and cell(table, "ndcg@10", "A")["against"] == "C"
    p = {}
    for metric, other in (("recall@10", B), ("ndcg@10", C)):
        differences = np.subtract(A[metric], other[metric])
        statistic = differences.mean() / (differences.std(ddof=1) / math.sqrt(3))
        p[metric] = student.sf(statistic, df=2)
    assert p["recall@10"] < p["ndcg@10"]
    assert cell(table, "recall@10", "A")["p"] == pytest.approx(2 * p["recall@10"])
    assert cell(table, "ndcg@10", "A")["p"] == pytest.approx(max(2 * p["recall@10"], p["ndcg@10"]))
    others = table[(table["sampler"] != "A") | table["quantity"].str.contains("seconds")]
    assert others["p"].isna().all() and (others["against"] == "").all()


def test_pairs_are_those_of_a_seed_whatever_the_order_of_the_runs():
    runs = rows_of(A=A, B=B, C=C)
    order = [2, 0, 1, 4, 5, 3, 7, 8, 6]
    pd.testing.assert_frame_equal(comparison_table(runs.iloc[order]), comparison_table(runs))


def test_a_worse_first_sampler_has_a_large_p():
    assert cell(comparison_table(rows_of(B=B, A=A)), "recall@10", "B")["p"] > 0.9


@pytest.mark.parametrize(
    "runs",
    [
        rows_of(A={"recall@10": [0.5]}, B={"recall@10": [0.4]}),
        rows_of(A={"recall@10": [0.5, 0.25]}, B={"recall@10": [0.375, 0.125]}),
        rows_of(A=A),
    ],
    ids=["one seed", "equal differences", "one sampler"],
)
def test_no_p_where_there_is_nothing_to_test(runs):
    assert comparison_table(runs)["p"].isna().all()


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan, 0.9]), [0.04, 0.09, 0.09, np.nan, 0.9])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferronis(p):
    corrected = holm(p)
    assert (corrected >= p).all() and (corrected <= np.minimum(1, np.multiply(p, len(p)))).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_the_files_hold_runs_and_table(tmp_path):
    runs = rows_of(A=A, B=B)
    table = comparison_table(runs)
    folder = write_comparison(tmp_path, runs, table)
    assert folder.parent == tmp_path and folder.name.startswith("d-M-comparison-")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "runs.csv"), runs)
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "comparison.csv", keep_default_na=True).fillna({"against": ""}), table
    )
    latex = (folder / "comparison.tex").read_text()
    costs = "20.0 $\\pm$ 10.0 & 5.0 $\\pm$ 0.0 & 2.0 $\\pm$ 0.0"
    assert f"B & 0.4000 $\\pm$ 0.0000 & 0.2000 $\\pm$ 0.1000 & {costs} \\\\" in latex
    assert "recall@10 & ndcg@10 &" in latex and "\np & " in latex
    other = write_comparison(tmp_path, rows_of(A=A, C=C), table)
    assert other != folder


def test_the_log_is_a_table_that_fits_a_terminal(tmp_path, caplog):
    caplog.set_level("INFO")
    log_comparison(comparison_table(rows_of(DEALRec=A, Random=B, CCS=C)), tmp_path)
    _, *lines, note = caplog.messages[0].splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["DEALRec", "Random", "CCS", "p"]
    row = next(line for line in lines if line.startswith("ndcg@10"))
    assert "0.3000 ± 0.1732" in row and "0.2000 ± 0.1000" in row
    assert "DEALRec against the best of the others" in note and "Holm" in note


def test_samplers_come_with_keys_of_the_selection_alone():
    files = list(properties_folder().glob("sampler/*.yaml"))
    assert files and {ROWS[key].step for file in files for key in read_yaml(file)} == {"selection"}


KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 1, "n_fewshot": 24,
    "surrogate_epochs": 1, "surrogate_train_batch_size": 64, "hessian_samples": 32, "tiny_steps": 10, "epochs": 1,
    "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 2, "topk": [10],
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
        assert {metric: row[metric] for metric in alone["test_result"]} == alone["test_result"]
        assert row["run_dir"].rsplit("/", 1)[1] == alone["run_dir"].rsplit("/", 1)[1]


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
        needed = ["surrogate", "surrogate 1", *shared[run["sampler"]]] if shared[run["sampler"]] else []
        assert set(seconds) == {*needed, "language model", "selection", "fine-tuning", "evaluation"}
        assert run["selection seconds"] == pytest.approx(sum(seconds[step] for step in [*needed, "selection"]))
        assert run["fine-tuning seconds"] == seconds["fine-tuning"]
        assert run["evaluation seconds"] == seconds["evaluation"]
        assert not needed or records["surrogate 1"] in trained


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
            assert f"highest, median and lowest {ranked} among" in text


def test_the_page_of_a_comparison_shows_its_table_and_links_to_the_runs(compared):
    result, folder = compared[0], Path(compared[0]["comparison_dir"])
    text = (folder / "report.html").read_text(encoding="utf-8")
    for row in result["table"].itertuples():
        shown = [row.mean, row.low, row.high] + [row.p] * (not math.isnan(row.p))
        assert all(f'<data value="{float(value)!r}">' in text for value in shown), row
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


def test_the_page_of_one_seed_says_that_there_are_no_intervals(tmp_path):
    runs = rows_of(A={"recall@10": [0.5]}, B={"recall@10": [0.4]})
    counts = {"first": [1], "last": [1], "candidates": [9], "selected": [2]}
    table = {"users": {"candidates": 9.0, "selected": 2.0}}
    coverage = {"catalogue": 9, "table": table, "popularity": counts, "history_length": counts}
    runs["run_dir"] = [str(tmp_path / name) for name in ("d-M-A-0", "d-M-B-0")]
    for path in map(Path, runs["run_dir"]):
        path.mkdir()
        (path / "result.json").write_text(json.dumps({"selection": {"coverage": coverage}}))
    folder = write_comparison(tmp_path, runs, comparison_table(runs))
    write_comparison_report(folder, runs, comparison_table(runs))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "no confidence intervals" in text and '"error_x"' not in text.split("<body>")[1]
    assert '<data value="0.5">0.5000</data></td>' in text and "nan" not in text.split("<body>")[1].lower()


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
