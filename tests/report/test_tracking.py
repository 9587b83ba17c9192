"""Trackers are told of a run once: each is read back from what it wrote without a network."""

import importlib.util
import json
import struct
from collections import defaultdict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from recbole_dealrec import compare_samplers, run_recbole_dealrec, select_fewshot
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.report.run_page import REPORT
from recbole_dealrec.report.tracker import plain_name
from recbole_dealrec.report.tracking import tracked
from recbole_dealrec.store.opening import opened
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import LLMTrainer

NAMES = ("tensorboard", "wandb", "mlflow")
CURVE = {"train_loss": [3.0, 2.0], "valid_epoch": [1], "valid_result": {"recall@10": [0.25]}}
LONGER = {"train_loss": [3.0, 2.0, 1.0, 0.5], "valid_epoch": [1, 3], "valid_result": {"recall@10": [0.25, 0.5]}}
LOGGED = {
    "surrogate_1/train_loss": [(0, 3), (1, 2), (2, 1), (3, 0.5)],
    "surrogate_1/valid_recall_at_10": [(1, 0.25), (3, 0.5)],
    "fine-tuning/train_loss": [(0, 3), (1, 2)],
    "fine-tuning/valid_recall_at_10": [(1, 0.25)],
}
RESULT = {
    "unrounded": {"recall@10": 0.125},
    "reweighting": {"test_result": {"recall@10": 0.5}},
    "yardsticks": [{"name": "item kNN", "unrounded": {"recall@10": 0.0625}}],
    "seconds": {"effort": 2.0},
    "memory_mib": {"effort": {"resident": 512.0}},
}
VALUES = {
    "test/recall_at_10": 0.125, "test_reweighted/recall_at_10": 0.5, "yardstick/item_kNN/recall_at_10": 0.0625,
    "seconds/effort": 2, "memory_mib/effort/resident": 512,
}  # fmt: skip
KEYS = {
    "sampler": "EL2N", "topk": [2], "n_surrogates": 2, "surrogate_hidden_size": 8, "surrogate_inner_size": 16,
    "surrogate_epochs": 2, "surrogate_eval_step": 1, "surrogate_valid_metric": "NDCG@2", "MAX_ITEM_LIST_LENGTH": 8,
    "n_fewshot": 3, "epochs": 2, "num_beams": 2, "log_with": "tensorboard",
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_network(tmp_path, monkeypatch):
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    yield
    wandb.teardown()  # it reads its variables once


def values_of(folder):
    """Steps and values of each tag in the event files of a run folder."""
    events = EventAccumulator(str(Path(folder) / "tensorboard"), {"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(folder):
    """Records of all offline runs, in order: LevelDB's log format, protocol buffers in it."""
    wandb.teardown()  # waits until its own process has written all
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, place, record = file.read_bytes(), 7, b""
        while place + 7 <= len(content):
            if (left := -place % 2**15) < 7 and left:
                place += left
                continue
            _, size, kind = struct.unpack_from("<IHB", content, place)
            record += content[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (1, 4):  # a whole record, or its last part
                yield Record.FromString(record)
                record = b""


def read_tensorboard(folder):
    values = values_of(folder / "run")
    curves = {tag: values.pop(tag) for tag in LOGGED}
    texts = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    (report,) = {event.tensor_proto.string_val[0].decode() for event in texts.Tensors("report/text_summary")}
    (config,) = (event.tensor_proto.string_val[0].decode() for event in texts.Tensors("configuration/text_summary"))
    assert "seed: 2020" in config
    return curves, {tag: points[-1][1] for tag, points in values.items()}, Path(report).read_text()


def read_wandb(folder):
    curves, summary, names, files = defaultdict(list), {}, set(), {}
    for record in wandb_records(folder):
        names |= {record.run.run_id} - {""}
        row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for tag in row.keys() & LOGGED.keys():
            curves[tag].append((row["epoch"], row[tag]))
        summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key in VALUES}
        files |= {entry.path: entry.local_path for entry in record.artifact.manifest.contents}
    assert len(names) == 1
    return dict(curves), summary, Path(files[REPORT]).read_text()


def read_mlflow(folder):
    (run,) = mlflow.search_runs(experiment_names=["recbole-dealrec"], output_format="list")
    client = mlflow.MlflowClient()
    history = {tag: client.get_metric_history(run.info.run_id, tag) for tag in LOGGED}
    curves = {tag: [(metric.step, metric.value) for metric in metrics] for tag, metrics in history.items()}
    assert run.data.params["seed"] == "2020" and run.info.status == "FINISHED"
    report = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=REPORT)
    others = {tag: value for tag, value in run.data.metrics.items() if tag not in LOGGED}
    return curves, others, Path(report).read_text()


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_logged_once_however_often_it_is_called(ten, tmp_path, name):
    config = ten(log_with=name)
    with opened(tmp_path / "run") as folder, tracked(config, folder) as tracking:
        tracking.log_curve("surrogate 1", CURVE)
    with opened(tmp_path / "run") as folder, tracked(ten(log_with=[name], worker=1), folder) as tracking:
        tracking.log_curve("surrogate 1", LONGER)
        with folder.output(REPORT) as file:
            file.write_text("the report")
        tracking.log_result({"surrogate 1": LONGER, "fine-tuning": CURVE}, RESULT)
    with opened(tmp_path / "run") as folder, tracked(config, folder) as tracking:
        tracking.log_result({"surrogate 1": LONGER, "fine-tuning": CURVE}, RESULT)
    assert READERS[name](tmp_path) == (LOGGED, VALUES, "the report")


def test_folders_of_one_name_are_runs_of_their_own(ten, tmp_path):
    for parent in ("one", "other"):
        with (
            opened(tmp_path / parent / "run") as folder,
            tracked(ten(log_with="mlflow", checkpoint_dir=parent), folder) as tracking,
        ):
            tracking.log_curve("fine-tuning", CURVE)
    runs = mlflow.search_runs(experiment_names=["recbole-dealrec"], output_format="list")
    assert len({run.info.run_name for run in runs}) == len(runs) == 2


def test_a_server_that_does_not_know_the_run_is_told_all_of_it(ten, tmp_path, monkeypatch):
    for store in ("one", "other"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/{store}")
        with opened(tmp_path / "run") as folder, tracked(ten(log_with="mlflow"), folder) as tracking:
            tracking.log_curve("fine-tuning", CURVE)
        (run,) = mlflow.search_runs(experiment_names=["recbole-dealrec"], output_format="list")
        assert run.data.metrics["fine-tuning/train_loss"] == 2


def test_what_a_tracker_fails_to_take_is_logged_with_the_next_values(ten, tmp_path, monkeypatch, caplog):
    with opened(tmp_path / "run") as folder, tracked(ten(log_with=["mlflow", "tensorboard"]), folder) as tracking:
        with monkeypatch.context() as broken:
            broken.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens
            broken.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            tracking.log_curve("fine-tuning", CURVE)
        assert "mlflow failed" in caplog.text and "tensorboard failed" not in caplog.text
        tracking.log_curve("fine-tuning", CURVE)
    (run,) = mlflow.search_runs(experiment_names=["recbole-dealrec"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "fine-tuning/train_loss")
    points = [(metric.step, metric.value) for metric in history]
    assert points == values_of(tmp_path / "run")["fine-tuning/train_loss"] == LOGGED["fine-tuning/train_loss"]


def test_a_run_that_fails_is_marked_as_failed(ten, tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "run") as folder:
        with tracked(ten(log_with="mlflow,wandb"), folder):
            raise KeyboardInterrupt
    (run,) = mlflow.search_runs(experiment_names=["recbole-dealrec"], output_format="list")
    assert run.info.status == "FAILED"
    assert [record.exit.exit_code for record in wandb_records(tmp_path) if record.HasField("exit")] == [1]


def test_a_tracker_that_cannot_be_started_is_an_error_before_anything_is_trained(ten, checkpoint, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    config = ten(**{**KEYS, "log_with": "tensorboard,mlflow"}, llm_path=checkpoint("llama"))
    with pytest.raises(InputError, match=r"log_with: mlflow cannot be started \(.*nonsense.*\); fix it or"):
        run_recbole_dealrec(dataset="ten", config_dict=config.resolved())
    assert not list(Path(config["checkpoint_dir"]).glob("*surrogates*"))


def _track(config, run):
    with processes.process_group(cpu=True), opened(run) as folder, tracked(config, folder) as tracking:
        tracking.log_curve("fine-tuning", CURVE)


def test_the_main_process_alone_logs(ten, tmp_path, together):
    together(2, _track, ten(log_with="tensorboard"), tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert values_of(tmp_path / "run")["fine-tuning/train_loss"] == LOGGED["fine-tuning/train_loss"]


def test_without_log_with_nothing_is_written(ten, tmp_path, checkpoint):
    folder = RunFolder(tmp_path / "run")
    with tracked(ten(), folder) as tracking:
        tracking.log_result({"fine-tuning": CURVE}, RESULT)
    assert not list(folder.path.iterdir())
    keys = {**KEYS, "log_with": None, "llm_path": checkpoint("llama")}
    run = run_recbole_dealrec(dataset="ten", config_dict=ten(**keys).resolved(), last_step="finetune")["run_dir"]
    assert not {"tensorboard", "tracking.json"} & {file.name for file in Path(run).iterdir()}
    assert not Path("log_tensorboard").exists()


class Killed(BaseException):
    pass


def test_a_run_is_followed_while_it_trains_and_goes_on_in_the_same_place(ten, checkpoint, monkeypatch):
    keys = ten(**KEYS, llm_path=checkpoint("llama")).resolved()
    original = LLMTrainer._train_epoch

    def killed(trainer, train_data, epoch, *args, **kwargs):
        if epoch == 1:
            trainer._save_state(train_data, epoch)
            raise Killed
        return original(trainer, train_data, epoch, *args, **kwargs)

    monkeypatch.setattr(LLMTrainer, "_train_epoch", killed)
    with pytest.raises(Killed):
        run_recbole_dealrec(dataset="ten", config_dict=keys)
    (run,) = (path.parent for path in Path(keys["checkpoint_dir"]).glob("*/tensorboard"))
    before = values_of(run)
    assert {tag.split("/")[0] for tag in before} == {"surrogate", "surrogate_1", "fine-tuning"}
    assert len(before["surrogate_1/train_loss"]) == 2 and len(before["fine-tuning/train_loss"]) == 1
    monkeypatch.setattr(LLMTrainer, "_train_epoch", original)
    result = run_recbole_dealrec(dataset="ten", config_dict=keys)
    assert result["run_dir"] == str(run)
    after = values_of(run)
    for step, curve in result["training"].items():
        points = after[f"{step.replace(' ', '_')}/train_loss"]
        assert [epoch for epoch, _ in points] == [0, 1]
        assert [value for _, value in points] == pytest.approx(curve["train_loss"])
    assert after["test/recall_at_2"][-1][1] == pytest.approx(result["unrounded"]["recall@2"])
    assert after["seconds/fine-tuning"][-1][1] == pytest.approx(result["seconds"]["fine-tuning"])
    assert {f"yardstick/{plain_name(row['name'])}/ndcg_at_2" for row in result["yardsticks"]} <= after.keys()


def test_a_run_that_has_ended_is_logged_in_full_when_it_is_called_with_a_tracker(ten, checkpoint):
    keys = {**KEYS, "llm_path": checkpoint("llama"), "yardsticks": False}
    for last in ("score", "finetune"):
        untracked = ten(**{**keys, "log_with": None}).resolved()
        plain = run_recbole_dealrec(dataset="ten", config_dict=untracked, last_step=last)
        result = run_recbole_dealrec(dataset="ten", config_dict=ten(**keys).resolved(), last_step=last)
        assert plain["run_dir"] == result["run_dir"]  # what is tracked changes no result
        tuned = {"fine-tuning"} if last == "finetune" else set()
        curves = {tag.split("/")[0] for tag in values_of(result["run_dir"]) if tag.endswith("train_loss")}
        assert curves == {"surrogate", "surrogate_1", *tuned}


def test_each_run_of_a_comparison_has_all_its_curves(ten, checkpoint):
    keys = ten(**KEYS, llm_path=checkpoint("llama"), yardsticks=False).resolved()
    keys = {name: value for name, value in keys.items() if name != "sampler"}
    runs = compare_samplers(["EL2N", "InfluenceOnly"], dataset="ten", config_dict=keys)["runs"]
    steps = [{tag.split("/")[0] for tag in values_of(run) if tag.endswith("train_loss")} for run in runs["run_dir"]]
    assert steps == [{"surrogate", "surrogate_1", "fine-tuning"}] * 2


@pytest.mark.parametrize("value", [5, [], "tensorboard,", "wandb,wandb", "neptune", ["wandb", 5], {"wandb": 1}])
def test_a_tracker_that_there_is_not_is_refused(ten, value):
    with pytest.raises(InputError, match="'log_with' has to be ~ or one or more of tensorboard, wandb, mlflow whose"):
        ten(log_with=value)


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_needs_its_package(ten, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == name else found(wanted))
    with pytest.raises(InputError, match=r'installed: pip install -e "\.\[tracking\]", not '):
        ten(log_with=f"tensorboard,{name}" if name != "tensorboard" else name)


def test_a_run_that_is_not_kept_is_not_tracked(ten):
    with pytest.raises(InputError, match="log_with: a run has to be kept"):
        run_recbole_dealrec(dataset="ten", config_dict=ten(log_with="tensorboard").resolved(), saved=False)
    rows = [(user, item, item) for user in range(4) for item in range(5)]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": range(5), "title": list("abcde")})
    with pytest.raises(InputError, match="log_with: a run has to be kept"):
        select_fewshot(interactions, items, log_with="tensorboard")


def test_recboles_own_key_names_this_one(ten):
    with pytest.raises(InputError, match="'log_wandb' has no effect with this package, which uses log_with=wandb"):
        ten(log_wandb=True)
    assert ten(log_with="wandb", wandb_project="mine")["wandb_project"] == "mine"
