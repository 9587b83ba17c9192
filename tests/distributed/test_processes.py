"""Several processes do what one does, whichever way they are started, and none is left when one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_dealrec import compare_samplers, run_recbole_dealrec
from recbole_dealrec.config.properties import properties_folder
from recbole_dealrec.distributed import processes
from recbole_dealrec.distributed.launch import launch
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import Pipeline
from recbole_dealrec.store.files import read_json

pytestmark = pytest.mark.slow

LONG = 600  # seconds; a busy machine takes its time
SCRIPT = Path(__file__).parents[2] / "run_recbole_dealrec.py"
KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 2, "n_fewshot": 25,
    "surrogate_epochs": 2, "surrogate_eval_step": 1, "hessian_samples": 64, "tiny_steps": 20, "epochs": 3,
    "train_batch_size": 10, "micro_batch_size": 2, "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20,
    "n_surrogates": 2, "lora_dropout": 0, "tokens_per_batch": 2048, "untuned": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def keys(movies_path):
    return {**KEYS, "data_path": str(movies_path)}


def _run(keys):
    return run_recbole_dealrec(dataset="movies", config_dict=keys)


@pytest.fixture(scope="module")
def alone(together, keys, tmp_path_factory):
    """Result of the run in one process."""
    return together(1, _run, {**keys, "checkpoint_dir": str(tmp_path_factory.mktemp("alone"))})[0]


def assert_same(result, alone):
    folder, expected = Path(result["run_dir"]), Path(alone["run_dir"])
    for name in ("*/influence.npy", "*/effort.npy"):
        (mine,), (other,) = folder.parent.glob(name), expected.parent.glob(name)
        np.testing.assert_allclose(np.load(mine), np.load(other), rtol=1e-6)
    np.testing.assert_array_equal(result["selected"], alone["selected"])
    assert (folder / "scores.csv").read_bytes() == (expected / "scores.csv").read_bytes()
    weights, reference = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (folder, expected))
    for name, value in reference.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-4)
    assert result["best_valid_result"] == pytest.approx(alone["best_valid_result"], rel=1e-4)
    assert result["test_result"] == pytest.approx(alone["test_result"], abs=0.011)  # 1 of 100 queries, and rounding
    for mine, other in zip(result["yardsticks"], alone["yardsticks"], strict=True):
        assert mine["name"] == other["name"]
        assert mine["test_result"] == pytest.approx(other["test_result"], abs=0.011)
    kept, whole = ({str(path.relative_to(run.parent)) for path in run.parent.rglob("*")} for run in (folder, expected))
    assert kept == whole


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_do_what_one_does(together, keys, alone, tmp_path, count):
    results = together(count, _run, {**keys, "checkpoint_dir": str(tmp_path / "saved")})
    for result in results:
        assert_same(result, alone)


def _unsaved(keys):
    with pytest.MonkeyPatch.context() as patch:
        report = Pipeline.report

        def late(self, *arguments):
            time.sleep(0 if processes.is_main() else 5)
            return report(self, *arguments)

        patch.setattr(Pipeline, "report", late)
        return run_recbole_dealrec(dataset="movies", sampler="Random", config_dict=keys, saved=False)


def test_a_folder_that_is_not_kept_is_there_until_the_last_process_has_read_it(together, keys, tmp_path):
    results = together(2, _unsaved, {**keys, "checkpoint_dir": str(tmp_path), "epochs": 1})
    assert results[0]["test_result"] == results[1]["test_result"]
    assert not list(tmp_path.glob("movies-*")) and results[0]["run_dir"] == ""


def _gathered():
    with processes.process_group(cpu=True):
        weight = torch.nn.Parameter(torch.full((2,), float(processes.rank())))
        other = torch.nn.Parameter(torch.zeros(3))
        if processes.rank() != 1:
            (weight.sum() * (processes.rank() + 1)).backward()
        processes.sum_gradients([weight, other])
        processes.broadcast_parameters(torch.nn.ParameterList([weight]))
        told = processes.on_main(lambda: (processes.world_size(), processes.rank(), processes.gather("x")))
        with pytest.raises(InputError, match="^no such file$"):
            processes.on_main(_no_such_file)
        return {
            "gathered": processes.gather(processes.rank() ** 2),
            "broadcast": processes.broadcast(processes.rank() + 5),
            "told": told,
            "gradients": [None if parameter.grad is None else parameter.grad.tolist() for parameter in (weight, other)],
            "weight": weight.tolist(),
        }


def _no_such_file():
    raise InputError("no such file")


def test_what_processes_tell_one_another(together):
    expected = {
        "gathered": [0, 1, 4],
        "broadcast": 5,
        "told": (1, 0, ["x"]),  # the main process works alone
        "gradients": [[4, 4], [0, 0, 0]],  # 1 + 0 + 3
        "weight": [0, 0],
    }
    assert together(3, _gathered) == [expected] * 3
    (one,) = together(1, _gathered)
    assert one["gathered"] == [0] and one["told"] == (1, 0, ["x"]) and one["gradients"] == [[1, 1], None]


def _compared(keys):
    return compare_samplers(SHARDED, dataset="movies", config_dict={**keys, "yardsticks": False})["runs"]


SHARDED = ["EL2N", "S2L", "TF-DCon"]


def test_scorers_of_all_kinds_share_their_work(together, keys, tmp_path):
    keys = {**keys, "epochs": 1}
    one, two = (
        together(count, _compared, {**keys, "checkpoint_dir": str(tmp_path / str(count))})[-1] for count in (1, 2)
    )
    for mine, other in zip(one["run_dir"], two["run_dir"], strict=True):
        assert read_json(Path(mine) / "result.json")["selected"] == read_json(Path(other) / "result.json")["selected"]
    assert [Path(run).name for run in one["run_dir"]] == [Path(run).name for run in two["run_dir"]]
    assert not list(tmp_path.glob("2/*/process-*")) and list(tmp_path.glob("2/*-comparison-*/comparison.csv"))


def command(launcher, keys, *more):
    options = [f"--{key}={value}" for key, value in keys.items()]
    return [sys.executable, "-W", "ignore", *launcher, str(SCRIPT), "--dataset=movies", *options, *more]


def start(words, output):
    return subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, text=True)


def torchrun_node(number, port):
    return [
        "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={number}", "--nproc_per_node=1",
        "--master_addr=127.0.0.1", f"--master_port={port}",
    ]  # fmt: skip


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def variable(pid, name):
    """Value of an environment variable of a process."""
    return dict(line.partition("=")[::2] for line in Path(f"/proc/{pid}/environ").read_text().split("\0")).get(name)


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_two_nodes_stop_when_a_process_is_killed_and_go_on_when_started_again(
    keys, alone, tmp_path, monkeypatch, free_port
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    keys = {**keys, "checkpoint_dir": str(tmp_path / "saved")}

    def started(attempt):
        port = free_port()
        files = [open(tmp_path / f"{attempt}-{number}.log", "w+") for number in range(2)]
        return [start(command(torchrun_node(number, port), keys), file) for number, file in enumerate(files)]

    first, second = started("killed")
    wait_until(lambda: list(tmp_path.glob("saved/*/influence.npy")), LONG)
    os.kill(children(second.pid)[0], signal.SIGKILL)
    killed_at = time.monotonic()
    assert (first.wait(60), second.wait(60)) == (1, 1)
    assert time.monotonic() - killed_at < 60
    assert "another process has ended early, so this one stops" in (tmp_path / "killed-0.log").read_text()

    for process in started("again"):
        assert process.wait(LONG) == 0
    log = (tmp_path / "again-0.log").read_text()
    assert "influence: from an earlier run" in log and "evaluation ..." in log
    (folder,) = tmp_path.glob("saved/movies-BIGRec-DEALRec-*")
    assert_same({**read_json(folder / "result.json"), "run_dir": folder}, alone)


LAUNCHED = """\
import sys, time
from pathlib import Path
from recbole_dealrec.distributed import processes
from recbole_dealrec.distributed.launch import launch

if processes.launched_world_size() == 1:
    sys.exit(launch(__file__, [], 2, 2, "127.0.0.1", int(sys.argv[1]), 0))
with processes.process_group(cpu=True):
    Path(__file__).with_name(f"rank-{processes.rank()}").touch()
    processes.on_main(lambda: time.sleep(600))
"""


@pytest.mark.parametrize(
    "victim, number, code",
    [(0, signal.SIGKILL, 1), (1, signal.SIGKILL, 1), (None, signal.SIGINT, 130), (None, signal.SIGTERM, 143)],
    ids=["main killed", "other killed", "launcher interrupted", "launcher told to stop"],
)
def test_a_machine_stops_when_a_process_is_killed_or_its_launcher_is_told_to(
    tmp_path, monkeypatch, free_port, victim, number, code
):
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    launcher = subprocess.Popen([sys.executable, "-W", "ignore", str(script), str(free_port())])
    wait_until(lambda: len(list(tmp_path.glob("rank-*"))) == 2, LONG)
    workers = children(launcher.pid)
    rank_of = {pid: variable(pid, "RANK") for pid in workers}
    os.kill(next((pid for pid in workers if rank_of[pid] == str(victim)), launcher.pid), number)
    assert launcher.wait(60) == code
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes=2", "--main_process_port={port}"]


@pytest.mark.parametrize(
    "launcher, more",
    [
        ([], ["--nproc=2"]),
        ([*ACCELERATE, "--multi_gpu"], []),
        ([*ACCELERATE, f"--config_file={properties_folder() / 'accelerate' / 'fsdp.yaml'}"], []),
    ],
    ids=["nproc", "accelerate", "accelerate with FSDP"],
)
def test_other_ways_to_start(keys, tmp_path, monkeypatch, free_port, launcher, more):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # a process that aborts says where
    port = free_port()
    launcher = [word.format(port=port) for word in launcher]
    more = [*more, f"--port={port}"] if more else []
    keys = {**keys, "checkpoint_dir": str(tmp_path), "sampler": "Random", "epochs": 1, "verbose": True}
    ended = subprocess.run(command(launcher, keys, *more), capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 0, ended.stderr[-8000:]
    (folder,) = tmp_path.glob("movies-BIGRec-Random-*")
    assert read_json(folder / "result.json")["n_candidates"] == 400
    assert ("FSDP: this process keeps" in ended.stdout + ended.stderr) == any("fsdp" in word for word in launcher)


def test_an_error_ends_all_processes_with_its_exit_code(keys, tmp_path, free_port):
    keys = {**keys, "checkpoint_dir": str(tmp_path), "title_field": "name"}
    words = command([], keys, "--nproc=2", f"--port={free_port()}")
    ended = subprocess.run(words, capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert "Traceback" not in ended.stderr
    assert any(line.startswith("error: ") and "no column 'name'" in line for line in lines)


@pytest.mark.parametrize("numbers", [(2, 3, 0), (2, 4, 1), (2, 4, 4), (0, 2, 0)])
def test_numbers_of_processes_that_do_not_fit_together(numbers):
    nproc, world_size, offset = numbers
    with pytest.raises(InputError, match="group_offset is 0, nproc, 2 nproc"):
        launch("absent.py", [], nproc, world_size, "localhost", 5678, offset)
