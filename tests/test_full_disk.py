"""A disk that fills up, at any place of the run: one line, and once there is space the same command goes on."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import RunFolder

pytestmark = pytest.mark.slow

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "samples_per_user": 2, "n_fewshot": 24,
    "surrogate_epochs": 2, "surrogate_eval_step": 1, "hessian_samples": 64, "tiny_steps": 20, "epochs": 2,
    "n_valid": 20, "num_beams": 4, "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 1, "untuned": False,
}  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """A small file system in memory, and ``resize(kilobytes)``."""
    path = tmp_path / "disk"
    path.mkdir()

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(path)], check=True, capture_output=True)

    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield path, resize
    subprocess.run(["umount", "-l", str(path)], check=True)


ZEROS = np.zeros(50_000)
WRITERS = {
    "text": lambda path: path.write_text("0" * 400_000),
    "numpy": lambda path: np.save(path, ZEROS),
    "torch": lambda path: torch.save(torch.from_numpy(ZEROS), path),
    "safetensors": lambda path: save_file({"zeros": torch.from_numpy(ZEROS)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_to_a_full_disk_is_told_and_leaves_the_older_output(disk, writer):
    path, _ = disk
    folder = RunFolder(path / "run")
    folder.output_json("x.npy", "older")
    with pytest.raises(InputError, match="run/x.npy: no space left on the disk; free some, "):
        with folder.output("x.npy") as file:
            WRITERS[writer](file)
    assert RunFolder(path / "run").has("x.npy") and (path / "run" / "x.npy").read_text() == '"older"\n'
    assert not list((path / "run").glob(".x.npy*"))


def test_other_errors_stay_what_they_are(disk):
    folder = RunFolder(disk[0])
    with pytest.raises(ZeroDivisionError), folder.output("x"):
        raise ZeroDivisionError


def test_a_run_goes_on_when_the_disk_has_space_again(disk, movies_path, tmp_path):
    path, resize = disk
    keys = {**KEYS, "data_path": str(movies_path)}
    told, size = set(), 32
    while True:
        resize(size)
        try:
            result = run_recbole_dealrec(dataset="movies", config_dict={**keys, "checkpoint_dir": str(path / "saved")})
            break
        except InputError as error:
            assert "no space left on the disk" in str(error)
            told.add(str(error).split(": no space")[0])
        size = int(size * 1.3)
    assert len(told) >= 4, told  # at several places of the run
    expected = run_recbole_dealrec(dataset="movies", config_dict={**keys, "checkpoint_dir": str(tmp_path / "saved")})
    np.testing.assert_array_equal(result["selected"], expected["selected"])
    assert result["test_result"] == expected["test_result"]
    kept, whole = (
        {str(file.relative_to(Path(each["run_dir"]).parent)) for file in Path(each["run_dir"]).parent.rglob("*")}
        for each in (result, expected)
    )
    assert kept == whole
