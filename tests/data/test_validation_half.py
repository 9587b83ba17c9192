"""The validation part in two halves: what each step of a run is given of it."""

import json
from pathlib import Path

import pytest

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.cli import estimate
from recbole_dealrec.cli.dry_run import dry_run_text
from recbole_dealrec.data import CandidateSamples, load_splits, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.scorer import InfluenceScorer
from recbole_dealrec.store.files import read_json
from recbole_dealrec.training import exponent
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.training.safetensors_trainer import SafetensorsTrainer
from recbole_dealrec.yardstick.yardsticks import Yardsticks

SMALL = {
    "sampler": "DEALRec", "influence_on": "valid", "n_fewshot": 8, "n_groups": 2, "surrogate_epochs": 2, "topk": [3],
    "surrogate_hidden_size": 8, "n_surrogates": 1, "surrogate_valid_metric": "NDCG@3", "epochs": 1, "num_beams": 3,
    "n_valid": 0, "valid_metric": "NDCG@3", "yardsticks": False, "max_new_tokens": 4, "train_batch_size": 4,
    "warmup_steps": 0, "show_progress": False, "use_gpu": False,
}  # fmt: skip


@pytest.fixture
def movies(movies_path, make_config):
    """``movies(**keys)``: configuration on the first 200 users of ml-100k."""
    return lambda **keys: make_config("movies", movies_path, title_field="movie_title", **keys)


def rows_of(part):
    """(user, target) of each row."""
    samples = CandidateSamples.from_dataset(part)
    return list(zip(samples.user_id.tolist(), samples.item_id.tolist(), strict=True))


@pytest.mark.parametrize("by", ["user", "time"])
def test_halves_are_disjoint_and_cover_all(by, movies):
    splits = load_splits(movies(selection_part=by))
    seen, tuned = splits.for_selection.valid, splits.for_tuning.valid
    assert sorted(rows_of(seen) + rows_of(tuned)) == sorted(rows_of(splits.valid)) and len(splits.valid) == 200
    assert not set(rows_of(seen)) & set(rows_of(tuned)) and len(seen) == len(tuned) == 100
    for parts in (splits.for_selection, splits.for_tuning):
        assert parts.train is splits.train and parts.test is splits.test


def test_half_of_the_users_is_drawn_by_the_seed(movies, write_benchmark, make_config, split):
    users = [
        {user for user, _ in rows_of(load_splits(movies(selection_part="user", seed=seed)).for_selection.valid)}
        for seed in (1, 1, 2)
    ]
    assert users[0] == users[1] != users[2]
    splits = load_splits(split(selection_part="user"))  # u1 has two rows of validation, u2 one
    halves = [{user for user, _ in rows_of(part)} for part in splits.halves]
    assert len(halves[0]) == len(halves[1]) == 1 and halves[0] != halves[1]


def test_the_earlier_half_is_seen(movies, movies_path):
    splits = load_splits(movies(selection_part="time"))
    lines = (movies_path / "movies" / "movies.inter").read_text(encoding="utf-8").splitlines()[1:]
    times = {(user, item): float(time) for user, item, _, time in (line.split("\t") for line in lines)}
    part = splits.valid
    found = [
        [times[part.id2token("user_id", user), part.id2token("item_id", item)] for user, item in rows_of(half)]
        for half in splits.halves
    ]
    assert max(found[0]) <= min(found[1])


def test_by_default_all_is_for_both(movies):
    splits = load_splits(movies())
    assert splits.for_selection is splits and splits.for_tuning is splits


def test_data_that_cannot_be_halved(split, write_benchmark, make_config):
    with pytest.raises(InputError, match="'selection_part': time needs the times of the interactions, which benchm"):
        load_splits(split(selection_part="time"))
    keys = {name: split()[name] for name in ("benchmark_filename", "load_col", "alias_of_item_id")}
    path = write_benchmark(
        "one", {part: [("u", ["i1"], "i2"), ("u", ["i1"], "i3")] for part in ("train", "valid", "test")}
    )
    with pytest.raises(InputError, match="'selection_part' is user, but validation has one user alone; leave it out"):
        load_splits(make_config("one", path, **keys, selection_part="user"))


def queries_of(loader):
    """(user, item) of each right answer of the queries."""
    users = loader._dataset.inter_feat["user_id"].tolist()
    return [(user, item) for user, items in zip(users, loader.positives, strict=True) for item in items.tolist()]


@pytest.fixture
def small(write_dataset, tmp_path, checkpoint):
    """``small(**keys)``: keys of a run on 24 users of 6 items each."""
    write_dataset(
        "small", {f"u{user}": [f"i{(user * 7 + place * 3) % 20}" for place in range(6)] for user in range(24)}
    )
    paths = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "llm_path": checkpoint("llama")}
    return lambda **keys: {**SMALL, **paths, **keys}


@pytest.mark.parametrize("by", ["none", "user", "time"])
def test_scores_are_on_the_first_half_and_tuning_is_on_the_second(by, small, monkeypatch):
    given, validate = {}, SafetensorsTrainer.fit

    def scored(cls, inputs):
        given["influence"] = rows_of(inputs.splits.valid)
        return original(inputs)

    def fitted(trainer, train_data, valid_data, **options):
        given["fine-tuning" if isinstance(trainer, LLMTrainer) else "surrogate"] = queries_of(valid_data)
        return validate(trainer, train_data, valid_data, **options)

    def chosen(trainer, reweighting, queries):
        given["exponents"] = queries_of(queries)
        choose(trainer, reweighting, queries)

    original, choose = InfluenceScorer.from_inputs, exponent.choose_exponents
    monkeypatch.setattr(InfluenceScorer, "from_inputs", classmethod(scored))
    monkeypatch.setattr(SafetensorsTrainer, "fit", fitted)
    monkeypatch.setattr(exponent, "choose_exponents", chosen)
    result = run_recbole_dealrec("BIGRec", "small", config_dict=small(selection_part=by))
    splits = load_splits(configure("BIGRec", "small", None, small(selection_part=by)))
    for name in ("influence", "surrogate"):
        assert sorted(given[name]) == sorted(rows_of(splits.for_selection.valid)), name
    for name in ("fine-tuning", "exponents"):
        assert sorted(given[name]) == sorted(rows_of(splits.for_tuning.valid)), name
    seen = {
        "none": "all, 24 of 24 rows",
        "user": "half of its users, drawn by the seed, 12 of 24 rows",
        "time": "its earlier half, 12 of 24 rows",
    }
    card = read_json(Path(result["run_dir"]) / "selection.json")
    assert card["validation_seen"] == seen[by] and card["keys"]["selection_part"] == by


@pytest.mark.parametrize("by", ["user", "time"])
def test_a_dry_run_estimates_each_step_on_its_half(by, small, monkeypatch):
    given, measure = [], estimate.query_seconds

    def measured(config, dataset, *rest):
        given.append(rows_of(dataset))
        return measure(config, dataset, *rest)

    monkeypatch.setattr(estimate, "query_seconds", measured)
    dry_run_text(None, None, "BIGRec", "small", [], small(selection_part=by), "evaluate")
    splits = load_splits(configure("BIGRec", "small", None, small(selection_part=by)))
    seen, tuned = map(rows_of, splits.halves)
    assert given[0] == seen and given[1:] == [tuned, tuned, rows_of(splits.test)]


def test_each_way_has_folders_of_its_own(small):
    folders = [
        prepare([configure("BIGRec", "small", None, small(selection_part=by))], check_llm=False)[0].folders()
        for by in ("none", "user", "time")
    ]
    for name in ("run", "surrogates", "surrogate_scores", "llm_scores"):
        assert len({getattr(each, name) for each in folders}) == 3, name


def test_item_knn_is_tuned_on_what_the_model_is_tuned_on(small):
    (job,) = prepare([configure("BIGRec", "small", None, small(selection_part="user"))], check_llm=False)
    config, splits = job.config, job.splits
    own = Yardsticks(config, splits, None, train_loader(config, splits.train, job.samples.rows))
    given = []
    own._ranking.evaluate = lambda rank, queries: given.append(queries_of(queries)) or {"ndcg@3": 1.0}
    own._item_knn()
    assert sorted(given[0]) == sorted(rows_of(splits.for_tuning.valid))


def test_a_run_sees_the_half_that_the_selection_it_takes_has_seen(small):
    made = run_recbole_dealrec(
        "BIGRec", "small", config_dict=small(sampler="TargetFrequency", selection_part="user"), last_step="select"
    )
    path = Path(made["run_dir"]) / "selection.json"
    keys = small(selection=str(path))
    config = configure("BIGRec", "small", None, {**keys, "sampler": "TargetFrequency"})
    assert config["selection_part"] == "user"
    for key, value in {"selection_part": "none", "seed": 7}.items():
        with pytest.raises(InputError, match=f"configuration key '{key}' is {value}, but selection '.*' was made with"):
            configure("BIGRec", "small", None, {**keys, "sampler": "TargetFrequency", key: value})
    card = read_json(path)
    del card["keys"]["selection_part"]  # a card of before
    path.write_text(json.dumps(card))
    assert configure("BIGRec", "small", None, {**keys, "sampler": "TargetFrequency"})["selection_part"] == "none"
    card["keys"] = {**card["keys"], "selection_part": "user"}
    del card["keys"]["seed"]
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match="'keys' has no seed"):
        configure("BIGRec", "small", None, {**keys, "sampler": "TargetFrequency"})
