"""The index of runs, against what the runs returned."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_dealrec import compare_samplers, run_recbole_dealrec
from recbole_dealrec.cli.command import main as command
from recbole_dealrec.cli.runs import listed
from recbole_dealrec.store.files import read_json, write_json

KEYS = {
    "t5_num_layers": 1, "t5_num_heads": 2, "t5_d_model": 16, "t5_d_kv": 4, "t5_d_ff": 24, "n_fewshot": 4, "epochs": 1,
    "topk": [3], "valid_metric": "NDCG@3", "surrogate_valid_metric": "NDCG@3", "num_beams": 10,
}  # fmt: skip


@pytest.fixture
def small(ten):
    """Keys of a run of TIGER that takes a second."""
    return ten(model="TIGER", **KEYS).resolved()


def test_runs_and_comparisons_are_listed_by_date(small, tmp_path, monkeypatch, capsys):
    keys = {name: value for name, value in small.items() if name not in ("sampler", "seed")}
    compared = compare_samplers(["Random", "TargetFrequency"], [1, 2], model="TIGER", dataset="ten", config_dict=keys)
    assert (tmp_path / "saved" / "latest").resolve() == Path(compared["comparison_dir"])
    chosen = run_recbole_dealrec("TIGER", "ten", "Longest", config_dict={**keys, "seed": 3}, last_step="select")
    assert (tmp_path / "saved" / "latest").resolve() == Path(chosen["run_dir"])
    first = Path(compared["runs"]["run_dir"][0])
    write_json(first / "result.json", {**read_json(first / "result.json"), "date": "2001-02-03 04:05"})
    moved = shutil.move(tmp_path / "saved", tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    rows = listed(Path(moved))
    assert rows[0].date == "2001-02-03 04:05" and rows[0].path == str(tmp_path / "kept" / first.name)
    by_path = {Path(row.path).name: row for row in rows}
    unfinished = by_path[Path(chosen["run_dir"]).name]
    assert unfinished[1:6] == ("ten", "TIGER", "Longest", "3", "not finished")
    for run in compared["runs"].to_dict("records"):
        result = read_json(Path(moved) / Path(run["run_dir"]).name / "result.json")["test_result"]
        metrics = f"recall@3 {result['recall@3']:.4f}, ndcg@3 {result['ndcg@3']:.4f}"
        assert by_path[Path(run["run_dir"]).name][1:6] == ("ten", "TIGER", run["sampler"], str(run["seed"]), metrics)
    comparison = by_path[Path(compared["comparison_dir"]).name]
    samplers = list(dict.fromkeys(compared["runs"]["sampler"]))
    assert comparison[1:5] == ("ten", "TIGER", ", ".join(samplers), "1, 2")
    means = compared["runs"].groupby("sampler")["ndcg@3"].mean()
    name, value = comparison.metrics.split(": ndcg@3 ")
    assert value == f"{means.max():.4f}" and means[name] == means.max()
    assert command(["runs", "--checkpoint_dir", "kept"]) == 0
    header, *printed = capsys.readouterr().out.splitlines()
    assert header.split() == ["date", "dataset", "model", "sampler", "seed", "metrics", "path"]
    assert [line.rpartition("  ")[2] for line in printed] == [f"kept/{Path(row.path).name}" for row in rows]
    assert len({line.index("ten") for line in printed} | {header.index("dataset")}) == 1


def test_the_index_loads_no_torch(small):
    run_recbole_dealrec("TIGER", "ten", config_dict={**small, "sampler": "Random"}, last_step="select")
    program = "import sys; from recbole_dealrec.cli.runs import main; main([]); print({'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "not finished" in done.stdout and done.stdout.endswith("set()\n")


def test_what_holds_no_run_is_named(tmp_path, capsys):
    for folder, message in ((tmp_path / "absent", "no such folder"), (tmp_path, "holds no run")):
        assert command(["runs", "--checkpoint_dir", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: checkpoint_dir '{folder}': {message}")
