"""benchmarks/gpu.py on the CPU, and its arithmetic."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("right", "rates", "promise", "cost", "datamodel")


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """``smoke()`` runs all parts in one folder; returns it and the bytes of each part's rows."""
    folder = tmp_path_factory.mktemp("gpu")
    # A crowded machine may take longer than the two minutes of a quiet core.
    command = [sys.executable, BENCHMARKS / "gpu.py", "--smoke", "--seconds", "400", "--out", folder / "out"]

    def run():
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder, check=True)
        return folder / "out", {part: (folder / "out" / f"gpu-{part}.csv").read_bytes() for part in PARTS}

    return run


def test_all_parts_leave_rows_that_are_not_measured_again(smoke):
    folder, first = smoke()
    rows = {part: pd.read_csv(folder / f"gpu-{part}.csv").set_index("row") for part in PARTS}

    assert all(table["error"].isna().all() and (table["device"] == "cpu").all() for table in rows.values())
    right = rows["right"]
    assert right.loc["effort, float32", "largest relative difference"] < 1e-5
    assert right.loc["effort, bfloat16", "largest relative difference"] < 0.05
    assert right.loc["influence", "largest relative difference"] < 1e-5
    assert right.loc["beam search", "titles alike at their place"] == 1
    assert right.loc[["BIGRec, a small run", "TIGER, a small run"], "recall@10"].between(0, 1).all()
    assert (right["peak MiB"] > 0).all()
    rates = rows["rates"]
    assert rates.groupby("model").size().tolist() == [7, 7] and (rates["samples/s"] > 0).all()
    promise = rows["promise"]
    assert len(promise) == 7 and promise.loc["Full", "samples"] > promise.loc["Random", "samples"] == 32
    assert promise.loc["untuned", "epochs"] == 0 and promise.loc["Random", "epochs"] == 2
    costs = promise.loc["DEALRec", ["selection, s", "fine-tuning, s", "effort, s"]]
    assert promise.loc["DEALRec", "whole cost, s"] == pytest.approx(costs.iloc[:2].sum())
    assert 0 < costs["effort, s"] < costs["selection, s"]
    assert len(rows["cost"]) == 2 * 2 * 2 * 3
    subsets = rows["datamodel"].filter(like="subset", axis=0)
    assert len(subsets) == 4 and subsets[["loss", "effort", "LESS", "target frequency"]].notna().all(axis=None)
    assert (subsets["loss"] != rows["datamodel"].loc["before fine-tuning", "loss"]).all()
    assert not (folder / "gpu.md").exists()

    assert smoke()[1] == first


def test_the_whole_cost_is_as_computed_by_hand():
    from gpu_cost import whole_cost

    # 45,774 samples at 22.887 a second: 2,000 s. 51,200 passes at 12.8 a second: 4,000 s.
    cost = whole_cost(effort=22.887, tuning=12.8, epochs=3, ratio=1, surrogates=600)
    assert cost["effort, h"] == pytest.approx(2000 / 3600) and cost["few-shot, h"] == pytest.approx(4000 / 3600)
    assert cost["DEALRec, h"] == pytest.approx(6600 / 3600)
    assert cost["all, h"] == pytest.approx(3 * 45_774 / 12.8 / 3600)
    assert cost["share saved"] == pytest.approx(1 - 6600 / 10_728.28125)
    assert cost["as much as so many epochs on all"] == pytest.approx(6600 / 3576.09375)
    assert whole_cost(22.887, 12.8, 3, 0.1)["DEALRec, h"] == pytest.approx(4200 / 3600)


def test_costs_go_by_the_fastest_rates():
    from gpu_cost import cost_rows, whole_cost

    rates = pd.DataFrame(
        [
            ("m", "effort last, 8192 tokens", 20.0, None),
            ("m", "effort last, 32768 tokens", 40.0, None),
            ("m", "effort all, 8192 tokens", 10.0, None),
            ("m", "effort all, 32768 tokens", 90.0, "out of memory"),
            ("m", "fine-tuning", 4.0, None),
            ("m", "fine-tuning, checkpointing", 5.0, None),
            ("n", "fine-tuning", 5.0, None),
        ],
        columns=["model", "what", "samples/s", "error"],
    ).assign(device="GPU")
    rows = pd.DataFrame(cost_rows(rates, 60.0)).set_index("row")
    assert set(rows["model"]) == {"m"} and len(rows) == 12
    hours = rows["DEALRec, h"]
    assert hours["m, last, ratio 0.1, 10 epochs"] == whole_cost(40, 5, 10, 0.1, 60)["DEALRec, h"]
    assert hours["m, all, ratio 1, 1 epochs"] == whole_cost(10, 5, 1, 1, 60)["DEALRec, h"]


def test_a_row_that_failed_is_tried_again_and_one_without_time_is_not_begun(tmp_path):
    from gpu_rows import Deadline, Rows

    rows = Rows(tmp_path / "rows.csv", Deadline(1e6))
    rows.add("broken", lambda: 1 / 0, 10)
    rows.add("whole", lambda: {"value": 2}, 10)
    rows.add("whole", lambda: {"value": 3}, 10)
    rows.add("long", lambda: {"value": 4}, 1e9)
    table = rows.table().set_index("row")
    assert table["error"].tolist() == ["ZeroDivisionError: division by zero", pytest.approx(float("nan"), nan_ok=True)]
    assert rows.find("whole")["value"] == 2 and rows.find("broken") is None and rows.left_out == ["long"]

    rows.add("broken", lambda: {"value": 5}, 10)
    assert rows.find("broken")["value"] == 5 and len(rows.table()) == 2


def test_the_largest_half_that_fits():
    from gpu_rows import fitting

    def run(size):
        if size > 20:
            raise MemoryError
        return {"samples/s": 1.0}

    assert fitting(run, 64) == {"batch": 16, "samples/s": 1.0}


def test_the_page_says_what_was_measured_on_what_and_what_failed():
    import gpu_page
    from gpu_cost import cost_rows

    about = {"device": "NVIDIA H100", "machine": "2030-01-01, NVIDIA H100", "error": None}
    names = {"effort last, 8192 tokens": 200.0, "effort all, 8192 tokens": 100.0, "fine-tuning": 50.0}
    model = {"model": "Llama-3.1-8B", **about}
    rates = [{"row": name, "what": name, "samples/s": rate, **model} for name, rate in names.items()]
    full = {"epochs": 3.0, "epochs allowed by the time": 3.0, "cut": True}
    promise = [
        {"row": "Full", "recall@10": 0.02, "whole cost, s": 300.0, **full, **about},
        {"row": "DEALRec", "recall@10": 0.01, "whole cost, s": 100.0, **about},
    ]
    # The loss falls with the effort, the target frequency has no part in it.
    subsets = [
        {"row": f"subset {place}", "loss": 1 - place / 20, "ndcg@10": 0.1, "effort": place, "LESS": -place,
         "target frequency": place % 3, **about}
        for place in range(16)
    ]  # fmt: skip
    tables = {
        "a": pd.DataFrame([{"row": "influence", **about, "error": "RuntimeError: no kernel\nmore"}]),
        "b": pd.DataFrame(rates),
        "c": pd.DataFrame(promise),
        "d": pd.DataFrame(cost_rows(pd.DataFrame(rates), 0.0)),
        "e": pd.DataFrame(subsets),
    }
    page = gpu_page.page(tables)
    assert "Measured on: 2030-01-01, NVIDIA H100." in page
    assert "DEALRec 0.0100 for 100 s; Full 0.0200 for 300 s" in page
    assert "ran 3; its validation loss may have gone on falling" in page
    assert "| effort | 1.00 [1.00, 1.00] | 1.00" in page and "| LESS | -1.00 [-1.00, -1.00] |" in page
    assert "| a | influence | RuntimeError: no kernel |" in page
    # 45,774 / 200 s and 51,200 / 50 s, in epochs of 45,774 / 50 s.
    assert f"{(45_774 / 200 + 1024) / (45_774 / 50):.2f} (`effort_parameters: last`, `effort_sample_ratio: 1`)" in page
