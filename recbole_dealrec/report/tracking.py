"""Tracking of a run: its curves while it trains, its metrics, yardsticks, costs and report at the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from secrets import token_hex
from typing import Any

from accelerate import PartialState

from recbole_dealrec.config import Config
from recbole_dealrec.config.kind import tracker_names
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.report.run_page import REPORT
from recbole_dealrec.report.tracker import TRACKERS, plain_name
from recbole_dealrec.store.run_folder import RunFolder

_RECORD = "tracking.json"


def check_tracking(config: Config, kept: bool) -> None:
    """Raise InputError if a tracked run is not kept: its folder records what is already logged."""
    if config["log_with"] and not kept:
        raise InputError("log_with: a run has to be kept to be tracked; set saved=True or checkpoint_dir")


class Tracking:
    """The trackers of a run, in its main process; none without ``log_with``.

    ``tracking.json`` in the run folder has the run's name in all trackers, and the number of points of each curve that
    each tracker has. A run that is called again resumes there and logs nothing twice. Values that a tracker fails to
    log are logged with the next ones.

    Args:
        config: configuration of the run.
        folder: run folder.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        names = tracker_names(config["log_with"]) if folder.written else []
        new = {"name": f"{plain_name(folder.path.name)}-{token_hex(3)}", "logged": {}}
        self._record = folder.read_json(_RECORD, new)
        self._logged: dict[str, dict[str, int]] = self._record["logged"]
        self._trackers = {name: TRACKERS[name](folder.path, self._record["name"], config) for name in names}
        self._started: list[str] = []

    def start(self) -> None:
        """Start the trackers, and log the configuration if it is not logged yet.

        Raises:
            InputError: a tracker cannot be started, for example because its server does not answer.
        """
        self._save()  # the name, before a tracker gets it
        PartialState(cpu=self.config["device"].type == "cpu")  # the trackers ask it for the main process
        for name, tracker in self._trackers.items():
            try:
                tracker.start()
                self._started.append(name)
                if name not in self._logged or not tracker.known:
                    tracker.store_init_configuration(self.config.resolved())
                    self._logged[name] = {}
            except Exception as error:  # each tracker has its own errors
                reason = str(error).partition("\n")[0]
                raise InputError(f"log_with: {name} cannot be started ({reason}); fix it or leave it out") from error
            self._save()

    def log_curve(self, step: str, curve: Mapping[str, Any]) -> None:
        """Log the points of a training that the trackers do not have yet.

        Args:
            step: the training's step, such as "surrogate 1"; its metrics are ``surrogate_1/train_loss`` and the like.
            curve: a ``TrainingCurve`` as plain values.
        """
        points = _points(curve)
        for name, tracker in self._trackers.items():
            logged = self._logged[name]
            with _warned(name):
                for epoch, values in points[logged.get(step, 0) :]:
                    tracker.log({plain_name(step, key): value for key, value in values.items()}, step=epoch)
                    logged[step] = logged.get(step, 0) + 1
        self._save()

    def log_result(self, curves: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Log a run that has ended.

        Args:
            curves: curve of each of its trainings, by step.
            result: result of ``Pipeline.run``, whose metrics, yardsticks and costs are logged, if it has them.
        """
        for step, curve in curves.items():
            self.log_curve(step, curve)
        report = self.folder / REPORT if self.folder.has(REPORT) else None
        for name, tracker in self._trackers.items():
            with _warned(name):
                tracker.log_result(_values(result), report)

    def _save(self) -> None:
        if self._trackers:
            self.folder.output_json(_RECORD, self._record)

    def finish(self, failed: bool) -> None:
        """End the trackers that have started; ``failed`` is the run's state in them."""
        for name in self._started:
            with _warned(name):
                self._trackers[name].finish(failed)


@contextmanager
def tracked(config: Config, folder: RunFolder) -> Iterator[Tracking]:
    """Track a run while the block lasts.

    Raises:
        InputError: a tracker of ``log_with`` cannot be started.
    """
    tracking = Tracking(config, folder)
    failed = True
    try:
        if config["log_with"]:
            processes.on_main(tracking.start)
        yield tracking
        failed = False
    finally:
        tracking.finish(failed)


@contextmanager
def _warned(name: str) -> Iterator[None]:
    """Warn if a tracker fails, so that a long run continues."""
    try:
        yield
    except Exception as error:  # each tracker has its own errors
        getLogger().warning(f"{name} failed ({error}); run the same command again to log the missing values")


def _points(curve: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """Return epochs and values of a curve in the order of time."""
    losses = [(epoch, {"train_loss": loss}) for epoch, loss in enumerate(curve["train_loss"])]
    results = [
        (epoch, {f"valid_{metric}": values[place] for metric, values in curve["valid_result"].items()})
        for place, epoch in enumerate(curve["valid_epoch"])
    ]
    return sorted([*losses, *results], key=lambda point: point[0])  # stable: the loss is first


def _values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run's result by their names in the trackers."""
    groups = {
        "valid": result.get("best_valid_result"),
        "test": result.get("unrounded"),
        "test_standard_error": result.get("test_standard_error"),
        "test_reweighted": result.get("reweighting", {}).get("test_result"),
        **{f"yardstick/{row['name']}": row["unrounded"] for row in result.get("yardsticks", ())},
        "seconds": result["seconds"],
        **{f"memory_mib/{step}": peaks for step, peaks in result.get("memory_mib", {}).items()},
    }
    known = {group: values for group, values in groups.items() if values}
    return {plain_name(group, name): value for group, values in known.items() for name, value in values.items()}
