"""Runs that stop after a stage, and go on from there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_dealrec import compare_samplers, run_recbole_dealrec
from recbole_dealrec.cli.dry_run import dry_run_text
from recbole_dealrec.config.registry import SAMPLERS
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler import get_sampler

KEYS = {
    "title_field": "movie_title", "show_progress": False, "use_gpu": False, "n_fewshot": 24, "surrogate_epochs": 1,
    "surrogate_train_batch_size": 16, "hessian_samples": 64, "tiny_steps": 5, "epochs": 1, "n_valid": 10,
    "num_beams": 2, "topk": [1, 2], "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 20, "n_surrogates": 1,
}  # fmt: skip


@pytest.fixture
def keys(movies_path, tmp_path):
    return {**KEYS, "data_path": str(movies_path), "checkpoint_dir": str(tmp_path / "saved")}


def test_each_stage_goes_on_from_the_one_before(keys):
    written = {
        "score": {"influence.npy", "effort.npy"},
        "select": {"scores.csv", "fewshot.jsonl"},
        "finetune": {"adapter", "fine_tuning.json"},
        "evaluate": {"test_result.json", "result.json", "report.html"},
    }
    known = {"score": set(), "select": {"selected"}, "finetune": {"selected", "best_valid_result"}}
    results, there = {}, {}
    for stage in written:
        result = run_recbole_dealrec(dataset="movies", config_dict=keys, stage=stage)
        folder, before = Path(result["run_dir"]), there
        there = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        assert written[stage] <= there.keys()
        for later in list(written)[list(written).index(stage) + 1 :]:
            assert not written[later] & there.keys()
        for earlier in list(written)[: list(written).index(stage)]:
            assert all(there[name] == before[name] for name in written[earlier]), "an earlier stage ran again"
        if stage in known:
            assert set(result) == {"seconds", "run_dir", *known[stage]}
        results[stage] = result

    direct = {**keys, "checkpoint_dir": keys["checkpoint_dir"] + "-direct"}
    whole = run_recbole_dealrec(dataset="movies", config_dict=direct)
    assert Path(whole["run_dir"]).name == Path(results["score"]["run_dir"]).name
    for name in ("select", "finetune", "evaluate"):
        np.testing.assert_array_equal(results[name]["selected"], whole["selected"])
    assert results["evaluate"]["test_result"] == whole["test_result"]
    assert set(results["evaluate"]["seconds"]) == set(whole["seconds"])


def test_a_comparison_stops_after_a_stage(keys):
    result = compare_samplers(["CCS", "Random"], [1, 2], dataset="movies", config_dict=keys, stage="select")
    assert set(result) == {"runs"}
    runs = result["runs"]
    assert list(zip(runs["sampler"], runs["seed"], strict=True)) == [
        ("CCS", 1), ("Random", 1), ("CCS", 2), ("Random", 2)
    ]  # fmt: skip
    for folder in runs["run_dir"]:
        assert pd.read_csv(Path(folder) / "scores.csv")["selected"].sum() == 24
        assert not (Path(folder) / "fine_tuning.json").exists()


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


def test_an_unknown_stage_lists_the_known_ones(keys, tmp_path):
    with pytest.raises(InputError, match="no stage 'train'; the stages are score, select, finetune, evaluate"):
        run_recbole_dealrec(dataset="movies", config_dict=keys, stage="train")
    assert not any(tmp_path.iterdir())


class _Asked(dict):
    """Scorers that note in ``names`` which of them were asked."""

    def __init__(self):
        self.names = []

    def __missing__(self, name):
        asked = self.names

        class Scorer:
            def score(self, samples):
                asked.append(name)
                columns = {"influence": 1, "effort": 1, "grand": 1, "el2n": 1}.get(name, 4)
                scores = np.random.default_rng(len(name)).random((len(samples), columns))
                return scores[:, 0] if columns == 1 else scores

        return Scorer()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_needs_what_it_asks_for(name):
    class Samples:
        item_length = np.arange(1, 61)

        def __len__(self):
            return 60

    config = {
        "n_fewshot": 8, "seed": 1, "n_groups": 5, "hard_prune_ratio": 0.1, "effort_weight": 0.5
    }  # fmt: skip
    asked = _Asked()
    get_sampler(name)(config, asked).sample(Samples())
    assert tuple(asked.names) == get_sampler(name).needs
