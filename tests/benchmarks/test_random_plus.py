"""benchmarks/random_plus.py: the samples that a selection's seconds would have paid for."""

import json
from pathlib import Path

import pandas as pd
import pytest

from recbole_dealrec import compare_samplers
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import read_json

KEYS = {
    "n_fewshot": 4, "surrogate_epochs": 2, "surrogate_hidden_size": 8, "topk": [3], "n_surrogates": 1, "epochs": 1,
    "surrogate_valid_metric": "NDCG@3", "num_beams": 3, "n_valid": 4, "n_test": 4, "valid_metric": "loss",
    "max_new_tokens": 4, "train_batch_size": 2, "warmup_steps": 0, "show_progress": False, "use_gpu": False,
    "untuned": False, "grounding_popularity": 0, "grounding_collaborative": 0,
}  # fmt: skip


@pytest.fixture
def random_plus(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import random_plus

    return random_plus


@pytest.mark.parametrize(
    "selection, fine_tuning, expected",
    [(30.0, 60.0, 150), (0.0, 60.0, 100), (0.59, 60.0, 100), (0.6, 60.0, 101), (6000.0, 60.0, 400)],
)
def test_seconds_are_samples_by_hand(selection, fine_tuning, expected, random_plus):
    assert random_plus.equal_cost_fewshot(100, 400, selection, fine_tuning) == expected


@pytest.fixture
def comparison(tmp_path):
    """Folder of a comparison of two seeds; a sample costs 0.5 s with the first and 1 s with the second."""
    rows = []
    for seed, seconds in ((1, 5.0), (2, 10.0)):
        for sampler, selection in (("DEALRec", 7.9), ("Random", 0.1), ("EL2N", 2.0)):
            rows.append((sampler, seed, f"../{sampler}-{seed}", 0.5, selection, seconds, 1.0))
            (tmp_path / f"{sampler}-{seed}").mkdir()
            result = {"selected": list(range(10)), "n_candidates": 20}
            (tmp_path / f"{sampler}-{seed}" / "result.json").write_text(json.dumps(result))
    columns = [
        "sampler",
        "seed",
        "run_dir",
        "recall@3",
        "selection seconds",
        "fine-tuning seconds",
        "evaluation seconds",
    ]
    (tmp_path / "both").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "both" / "runs.csv", index=False)
    return tmp_path / "both"


def test_each_seed_has_its_own_budget(comparison, random_plus):
    budgets = random_plus.random_budgets(comparison, "DEALRec")
    assert budgets[["seed", "n_fewshot", "n_plus"]].to_numpy().tolist() == [[1, 10, 20], [2, 10, 17]]
    assert [Path(run).name for run in budgets["run_dir"]] == ["Random-1", "Random-2"]
    assert random_plus.random_budgets(comparison, "EL2N")["n_plus"].tolist() == [14, 12]


def test_what_is_no_such_comparison_is_refused(comparison, tmp_path, random_plus):
    with pytest.raises(InputError, match="no run of GraNd with seconds of fine-tuning; compare it with Random"):
        random_plus.random_budgets(comparison, "GraNd")
    with pytest.raises(InputError, match=r"no runs.csv; give the folder of a comparison"):
        random_plus.random_budgets(tmp_path, "DEALRec")


def test_random_is_run_again_on_more_samples(random_plus, write_dataset, tmp_path, checkpoint):
    write_dataset(
        "small", {f"u{user}": [f"i{(user * 7 + place * 3) % 20}" for place in range(6)] for user in range(24)}
    )
    paths = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "llm_path": checkpoint("llama")}
    made = compare_samplers(["EL2N", "Random"], [1, 2], "BIGRec", "small", config_dict={**KEYS, **paths})
    folder = Path(made["comparison_dir"])
    budgets = random_plus.random_budgets(folder, "EL2N").assign(n_plus=[6, 9])
    rows = random_plus.random_plus(budgets)
    for (_, row), count in zip(rows.iterrows(), (6, 9), strict=True):
        result = read_json(Path(row["run_dir"]) / "result.json")
        assert len(result["selected"]) == count and result["selected_by"]["sampler"] == "Random"
        assert row["recall@3"] == result["unrounded"]["recall@3"]
        assert Path(row["run_dir"]).parent == folder.parent and row["sampler"] == "Random+"
    page = random_plus.report("small", "EL2N", budgets, pd.concat([random_plus.compared(folder, "EL2N"), rows]))
    assert "| 2 | 4 | 9 |" in page and "| metric | EL2N | Random | Random+ | p, EL2N and Random+ |" in page
    mean = made["runs"].set_index("sampler").loc["EL2N", "recall@3"].mean()
    assert f"| recall@3 | {mean:.4f} ±" in page
