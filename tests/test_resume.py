"""A process that is killed again and again ends as one that never was."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.store.files import read_json

pytestmark = pytest.mark.slow

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 2, "n_fewshot": 24,
    "surrogate_epochs": 5, "surrogate_eval_step": 1, "surrogate_train_batch_size": 16, "hessian_samples": 64,
    "tiny_steps": 20, "epochs": 6, "micro_batch_size": 8, "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20,
    "n_surrogates": 2, "untuned": False,
}  # fmt: skip
LEAST_KILLS = 20
REWRITTEN = {"config.yaml", "steps.json", "selection.json", "result.json", "report.html"}  # they hold times


def outputs(folder):
    """Names and checksums of what the folders hold, but for what every start writes and what is being replaced."""
    checksums = [pair for file in Path(folder).glob("*/checksums.json") for pair in read_json(file).items()]
    return {(name, *known) for name, known in checksums if name not in REWRITTEN and len(known) == 1}


def wait_for_an_output(process, folder):
    """Whether the process wrote an output before it ended."""
    before = outputs(folder)
    while process.is_alive():
        if outputs(folder) - before:
            return True
        time.sleep(0.005)
    return False


def test_the_same_command_goes_on_after_every_kill(forkserver, movies_path, tmp_path):
    keys = {**KEYS, "data_path": str(movies_path)}
    unkilled = {**keys, "checkpoint_dir": str(tmp_path / "whole")}
    keys["checkpoint_dir"] = str(tmp_path / "killed")

    def started(keys):
        named = {"dataset": "movies", "config_dict": keys}
        process = forkserver.Process(target=run_recbole_dealrec, kwargs=named, daemon=True)
        process.start()
        return process

    whole = started(unkilled)
    whole.join()
    assert whole.exitcode == 0

    delays, last_output = random.Random(0), []
    while True:
        before = outputs(keys["checkpoint_dir"])
        process = started(keys)
        if not wait_for_an_output(process, keys["checkpoint_dir"]):
            break
        time.sleep(delays.choice([0, 0, 0, 0.01, 0.05]))
        process.kill()
        process.join()
        last_output.append({name for name, _ in outputs(keys["checkpoint_dir"]) - before})
        assert len(last_output) < 90, "the run makes no progress"
    process.join()
    assert process.exitcode == 0
    assert len(last_output) >= LEAST_KILLS
    # There were kills in every step.
    killed_behind = set().union(*last_output)
    assert {"surrogate.safetensors", "surrogate-1.safetensors", "influence-solution-1.npz.unfinished"} <= killed_behind
    assert {"influence.npy", "effort.npy", "scores.csv", "adapter", "fine_tuning.json"} <= killed_behind

    expected, result = (run_recbole_dealrec(dataset="movies", config_dict=each) for each in (unkilled, keys))
    np.testing.assert_array_equal(result["selected"], expected["selected"])
    assert result["test_result"] == expected["test_result"]
    assert result["best_valid_result"] == expected["best_valid_result"]
    for kept in ("training", "selection"):
        assert result[kept] == expected[kept]
    run, whole = Path(result["run_dir"]), Path(expected["run_dir"])
    kept, of_whole = ({str(path.relative_to(each.parent)) for path in each.parent.rglob("*")} for each in (run, whole))
    assert kept == of_whole
    assert not [name for name in kept if ".unfinished" in name or ".scratch" in name]
    compared = [name for name in kept if Path(name).suffix in (".safetensors", ".npy", ".csv", ".jsonl")]
    assert len(compared) >= 7
    for name in compared:
        assert (run.parent / name).read_bytes() == (whole.parent / name).read_bytes(), name
