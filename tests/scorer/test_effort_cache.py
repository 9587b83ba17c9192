"""Effort scores that are found again by what they depend on."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.distributed import fsdp as fsdp_module
from recbole_dealrec.distributed import processes
from recbole_dealrec.model import BIGRec
from recbole_dealrec.scorer import EffortCache, EffortScorer, effort, effort_cache
from recbole_dealrec.scorer.effort_cache import Entries, sample_keys
from recbole_dealrec.scorer.gradient_norm import gradient_norms
from recbole_dealrec.store import score_checkpoint
from recbole_dealrec.store import step as step_module
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.store.step import records, step

TOKENS = 400  # a batch


class Killed(BaseException):
    pass


class Computed(list):
    """Samples in each batch whose gradients were computed; the batch numbered ``killed_at`` from 1 kills."""

    killed_at = None

    def __call__(self, norms_of, batch):
        if len(self) + 1 == self.killed_at:
            raise Killed
        self.append(len(batch["labels"]))
        return norms_of(batch)


@contextmanager
def counting(computed, patch):
    @contextmanager
    def counted(network, names):
        with gradient_norms(network, names) as norms_of:
            yield lambda batch: computed(norms_of, batch)

    patch.setattr(effort, "fastest_way", lambda trial: counted)
    yield computed


@pytest.fixture
def computed(monkeypatch):
    with counting(Computed(), monkeypatch) as computed:
        yield computed


@pytest.fixture
def keep_every_batch(monkeypatch):
    monkeypatch.setattr(score_checkpoint, "_SECONDS", -1)
    monkeypatch.setattr(score_checkpoint, "_WRITING_SHARE", float("inf"))


@pytest.fixture
def setting(bigrec, randomise_adapter):
    """``setting(kind, **keys)``: a BIGRec whose adapter matters, the same for the same keys, and its candidates."""

    def make(*kind, **keys):
        llm, splits = bigrec(*kind, **{"tokens_per_batch": TOKENS, **keys})
        torch.manual_seed(0)
        randomise_adapter(llm.network)
        return llm, CandidateSamples.from_dataset(splits.train)

    return make


@pytest.fixture
def score(tmp_path):
    """``score(llm, samples)``: effort by the cache in the test's folder."""
    return lambda llm, samples: EffortScorer(llm, llm.config, EffortCache(tmp_path / "effort")).score(samples)


@pytest.fixture
def told(caplog):
    """``told()``: what was logged of known scores since the last call."""
    caplog.set_level("INFO")

    def lines():
        found = [line for line in caplog.messages if line.startswith("effort:")]
        caplog.clear()
        return found

    return lines


def test_a_second_pass_computes_nothing(setting, score, computed, told, tmp_path):
    llm, samples = setting()
    alone = EffortScorer(llm, llm.config).score(samples)
    assert len(computed) > 2 and not (tmp_path / "effort").exists()
    computed.clear()
    first = score(llm, samples)
    assert sum(computed) == len(samples) and first.dtype == np.float64
    np.testing.assert_array_equal(first, alone)
    assert told() == [f"effort: 0 of {len(samples)} scores are known, {len(samples)} to compute"]
    computed.clear()
    again, _ = setting(tokens_per_batch=64)
    back = np.arange(len(samples))[::-1]
    np.testing.assert_array_equal(score(again, samples[back]), first[back])
    assert not computed
    assert told() == [f"effort: {len(samples)} of {len(samples)} scores are known, 0 to compute"]


def test_only_new_samples_are_computed(setting, score, computed, told):
    llm, samples = setting()
    whole = EffortScorer(llm, llm.config).score(samples)
    before = score(llm, samples[np.arange(1, 7)])
    computed.clear()
    found = score(llm, samples)
    assert sum(computed) == len(samples) - 6
    assert told()[-1] == f"effort: 6 of {len(samples)} scores are known, {len(samples) - 6} to compute"
    np.testing.assert_array_equal(found[1:7], before)
    np.testing.assert_allclose(found, whole, rtol=1e-5)


def test_another_network_or_other_parameters_are_computed_anew(setting, score, computed):
    llm, samples = setting()
    first = score(llm, samples)
    others = [setting(effort_parameters="last")[0], setting(lora_alpha=8)[0], setting("qwen2")[0]]
    # The gradient by the last layer's parameters depends on those of the first.
    seed = setting(effort_parameters="last")[0]
    next(value for value in seed.network.parameters() if value.requires_grad).data[0, 0] += 1
    for other in (*others, seed):
        computed.clear()
        found = score(other, samples)
        assert sum(computed) == len(samples)
        assert not np.allclose(found, first)
        np.testing.assert_array_equal(found, EffortScorer(other, other.config).score(samples))
    computed.clear()
    np.testing.assert_array_equal(score(llm, samples), first)
    assert not computed


@pytest.mark.parametrize("killed_at", [1, 2, 4])
def test_an_interrupted_pass_goes_on_and_comes_out_the_same(setting, score, computed, killed_at, keep_every_batch):
    llm, samples = setting()
    whole = EffortScorer(llm, llm.config).score(samples)
    batches = list(computed)
    computed.clear()
    computed.killed_at = killed_at
    with pytest.raises(Killed):
        score(llm, samples)
    computed.clear()
    computed.killed_at = None
    np.testing.assert_array_equal(score(llm, samples), whole)
    assert computed == batches[killed_at - 1 :]


def test_scores_that_are_found_cost_what_they_cost_when_they_were_computed(
    setting, tmp_path, monkeypatch, keep_every_batch
):
    llm, samples = setting()
    clock, batches = [0], len(list(llm.batches(samples)))
    for module in (step_module, effort_cache):
        monkeypatch.setattr(module, "perf_counter", lambda: clock[0])

    def slow(norms_of, batch):
        clock[0] += 10
        if killed_at and clock[0] == 10 * killed_at:
            raise Killed
        return norms_of(batch)

    def seconds():
        folder = RunFolder(tmp_path)
        with step(folder, "effort"):
            EffortScorer(llm, llm.config, EffortCache(tmp_path / "effort")).score(samples)
        return records(folder)["effort"]["seconds"]

    with counting(slow, monkeypatch):
        killed_at = 3
        with pytest.raises(Killed):
            seconds()
        killed_at = None
        assert seconds() == pytest.approx(10 * batches, rel=1e-6)
        before = clock[0]
        assert seconds() == pytest.approx(10 * batches, rel=1e-6)
        assert clock[0] == before


def entries_of(numbers):
    numbers = np.asarray(numbers)
    keys = np.repeat(numbers[:, None], effort_cache.KEY_BYTES, axis=1).astype(np.uint8)
    return Entries(keys, numbers * 10.0, np.ones(len(numbers), np.float32))


def add(path, numbers):
    entries = entries_of(numbers)
    effort_cache._add(path, entries, np.ones(len(entries.keys), dtype=bool))


def test_two_passes_at_a_time_keep_the_scores_of_both(setting, score, computed):
    llm, samples = setting()
    one, other = np.arange(5), np.arange(5, len(samples))
    inner = []

    def while_the_other_computes(norms_of, batch):
        if not inner:
            inner.append(True)
            inner.append(score(setting()[0], samples[other]))
        return norms_of(batch)

    with pytest.MonkeyPatch.context() as patch, counting(while_the_other_computes, patch):
        score(llm, samples[one])
    computed.clear()
    np.testing.assert_array_equal(score(llm, samples)[other], inner[1])
    assert not computed


def test_writers_wait_for_one_another(tmp_path):
    path = tmp_path / "network" / "scores.npz"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: [add(path, [start + step, 0]) for step in range(5)], range(1, 101, 5)))
    kept = effort_cache._read(path)
    assert kept.scores.tolist() == [10.0 * number for number in range(101)]
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "scores.npz"]


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    path = tmp_path / "network" / "scores.npz"
    add(path, [1])
    left = path.parent / ".scores.npz.x.scratch"
    left.mkdir()
    add(path, [2])
    assert not left.exists() and effort_cache._read(path).scores.tolist() == [10, 20]


def test_a_score_that_is_not_finite_is_known_too(setting, score, computed, tmp_path):
    llm, samples = setting()
    score(llm, samples)
    (file,) = (tmp_path / "effort").glob("*/scores.npz")
    keys = sample_keys(llm, llm.fingerprint(), samples, "all")
    kept = effort_cache._read(file)
    kept.scores[(kept.keys == keys[3]).all(axis=1)] = np.nan
    file.unlink()
    effort_cache._add(file, kept, np.ones(len(kept.keys), dtype=bool))
    computed.clear()
    found = score(llm, samples)
    assert not computed and np.flatnonzero(np.isnan(found)).tolist() == [3]


def test_a_broken_file_is_ignored_with_a_warning(setting, score, computed, tmp_path, caplog):
    llm, samples = setting()
    first = score(llm, samples)
    (file,) = (tmp_path / "effort").glob("*/scores.npz")
    whole = file.read_bytes()
    with open(tmp_path / "single.npy", "wb") as stream:
        np.save(stream, first)
    for broken in (b"", b"scores", whole[:-100], whole[: len(whole) // 2], (tmp_path / "single.npy").read_bytes()):
        file.write_bytes(broken)
        computed.clear()
        caplog.clear()
        np.testing.assert_array_equal(score(llm, samples), first)
        assert sum(computed) == len(samples)
        assert all(str(file) in warning.message for warning in caplog.records if warning.levelname == "WARNING")
        assert "cannot be read and is ignored" in caplog.text
        assert len(effort_cache._read(file).keys) == len(samples)


def test_arrays_of_another_kind_are_ignored(tmp_path, caplog):
    good = entries_of([1, 2])._asdict()
    for name, values in [("scores", np.zeros(3)), ("keys", np.zeros((2, 8), np.uint8)), ("seconds", np.zeros(2))]:
        np.savez(tmp_path / "scores.npz", **{**good, name: values})
        assert not len(effort_cache._read(tmp_path / "scores.npz").keys)
    assert caplog.text.count("its arrays are not effort scores") == 3


def test_no_altered_byte_gives_another_score(tmp_path):
    path = tmp_path / "scores.npz"
    add(path, range(5))
    whole, expected = path.read_bytes(), effort_cache._read(path)
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = effort_cache._read(path)
        refused += not len(found.keys)
        assert not len(found.keys) or all(map(np.array_equal, found, expected))
    assert refused > sum(values.nbytes for values in expected)


def _together(keys, known, fsdp, folder):
    """Scores, and how many samples this process computed beside those that are ``known``."""
    if fsdp:
        os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
        os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    config = Config("BIGRec", "ten", config_dict=keys)
    splits = load_splits(config)
    samples = CandidateSamples.from_dataset(splits.train)
    group, patched = processes.process_group(cpu=True), pytest.MonkeyPatch.context()
    with group, patched as patch, counting(Computed(), patch) as computed:
        torch.manual_seed(0)
        llm = BIGRec(config, splits.train)
        fsdp_module.shard(llm.network, "cpu", config["mixed_precision"])
        scorer = EffortScorer(llm, config, EffortCache(folder))
        scorer.score(samples[np.asarray(known, dtype=np.int64)])
        processes.gather(None)
        computed.clear()
        scores = scorer.score(samples)
        counts = sum(computed)
        processes.gather(None)
        computed.clear()
        again = scorer.score(samples)
        assert not computed
        np.testing.assert_array_equal(again, scores)
        return scores, counts


@pytest.mark.parametrize("fsdp", [False, True])
def test_processes_share_what_is_missing(together, ten, checkpoint, tmp_path, fsdp):
    config = ten(llm_path=checkpoint("llama"), lora_target_modules=["q_proj", "v_proj"], tokens_per_batch=64)
    keys = {**config.resolved(), "data_path": str(tmp_path)}
    ((expected, n),) = together(1, _together, keys, [0], False, tmp_path / "one")
    found = together(2, _together, keys, [0, 1, 2], fsdp, tmp_path / "two")
    for scores, _ in found:
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    counts = [count for _, count in found]
    assert abs(counts[0] - counts[1]) <= 1 and (fsdp or sum(counts) == n + 1 - 3)


def keys_of(model, samples, effort_parameters):
    return sample_keys(model, model.fingerprint(), samples, effort_parameters)


def test_a_key_knows_the_sample_and_the_model(bigrec):
    model, splits = bigrec()
    samples = CandidateSamples.from_dataset(splits.train)
    keys = keys_of(model, samples, "all")
    contents = {(tuple(samples.history(row)), samples.titles[item]) for row, item in enumerate(samples.item_id)}
    assert len(np.unique(keys, axis=0)) == len(contents)
    back = np.arange(len(samples))[::-1]
    np.testing.assert_array_equal(keys_of(model, samples[back], "all"), keys[back])
    again, _ = bigrec(tokens_per_batch=64)
    np.testing.assert_array_equal(keys_of(again, samples, "all"), keys)

    def differ(keys_now):
        return (keys_now != keys).any(axis=1).all()

    assert differ(keys_of(model, samples, "last"))
    assert differ(keys_of(bigrec(lora_alpha=8)[0], samples, "all"))
    assert differ(keys_of(bigrec("qwen2")[0], samples, "all"))
    assert differ(keys_of(bigrec(train_on_inputs=True)[0], samples, "all"))
    next(value for value in model.network.parameters() if value.requires_grad).data[0, 0] += 1
    assert differ(keys_of(model, samples, "all"))


def test_a_key_knows_the_semantic_ids(tiger):
    model, splits = tiger()
    samples = CandidateSamples.from_dataset(splits.train)
    keys = keys_of(model, samples, "all")
    again, _ = tiger()
    np.testing.assert_array_equal(keys_of(again, samples, "all"), keys)
    again._item_tokens = np.roll(again._item_tokens, 1, axis=0)
    assert (keys_of(again, samples, "all") != keys).any(axis=1).all()
