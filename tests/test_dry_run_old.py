"""What a dry run tells of a run."""

import re
from pathlib import Path

import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.cli.dry_run import dry_run_text

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 1,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 1, "n_valid": 10,
    "num_beams": 2, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 1,
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": str(tmp_path / "saved")}


def test_a_dry_run_tells_what_is_cached_and_writes_nothing(keys, tmp_path, small_rehearsals):
    def planned(samplers, stage="evaluate"):
        text = dry_run_text(samplers, None, "BIGRec", "movies", [], keys, stage)
        kept = re.compile(r"\S|  (score|select|finetune|evaluate) ")
        return [" ".join(line.split()) for line in text.splitlines() if kept.match(line)]

    lines = planned(["CCS"])
    assert not any(tmp_path.iterdir())
    assert "n_fewshot: 24" in lines and "sampler: CCS" in lines
    done = ["score el2n", "select selection"]
    to_do = ["finetune fine-tuning to do", "evaluate evaluation to do"]
    assert lines[-4:] == [*(f"{name} to do" for name in done), *to_do]
    assert planned(["CCS"], "select")[-2:] == [f"{name} to do" for name in done]

    result = run_recbole_dealrec(dataset="movies", sampler="CCS", config_dict=keys, stage="select")
    lines = planned(["CCS"])
    assert lines[-4:] == [*(f"{name} cached" for name in done), *to_do]
    assert lines[-5].endswith(result["run_dir"])
    (Path(result["run_dir"]) / "el2n.npy").write_bytes(b"altered")
    assert planned(["CCS"])[-4] == "score el2n to do"
    compared = planned(["CCS", "Random"])
    assert [line.split(",")[0] for line in compared if "run folder" in line] == ["CCS", "Random"]
