"""Accelerate's trackers for one run: TensorBoard, Weights & Biases and MLflow, each with the report as an artefact."""

import re
from pathlib import Path
from typing import Any

import yaml
from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

from recbole_dealrec.config import Config

_EXPERIMENT = "recbole-dealrec"  # MLFLOW_EXPERIMENT_NAME overrides it
_FOLDER = "tensorboard"


class TensorBoard(TensorBoardTracker):
    """Event files in ``tensorboard/`` of the run folder.

    Args:
        folder: run folder.
        name: name of the run, the same each time it is called.
        config: configuration of the run.

    Attributes:
        known: whether it already has this run.
    """

    def __init__(self, folder: Path, name: str, config: Config) -> None:
        super().__init__(_FOLDER, folder)
        self.known = (folder / _FOLDER).is_dir()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        # As text, because Accelerate's table of hyperparameters would be another run in TensorBoard.
        self.log({"configuration": f"```yaml\n{yaml.safe_dump(values, allow_unicode=True)}```"})

    def log_result(self, values: dict[str, float], report: Path | None) -> None:
        """Log the final values, and the path of the report if there is one."""
        self.log(values, step=0)
        if report:
            self.log({"report": str(report.absolute())}, step=0)

    def finish(self, failed: bool = False) -> None:
        super().finish()


class WandB(WandBTracker):
    """A run of Weights & Biases in ``wandb_project``, found again by its id; arguments as in ``TensorBoard``."""

    known = True  # unknown offline

    def __init__(self, folder: Path, name: str, config: Config) -> None:
        super().__init__(config["wandb_project"], id=name, name=name, resume="allow")

    def start(self) -> None:
        super().start()
        # W&B's own step cannot go back to 0 for the next training.
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")

    def log(self, values: dict[str, float], step: int) -> None:
        super().log({**values, "epoch": step})

    def log_result(self, values: dict[str, float], report: Path | None) -> None:
        """Add the final values to the run's summary, and the report to its artefacts."""
        self.run.summary.update(values)
        if report:
            self.run.log_artifact(str(report), name=f"report-{self.run.id}", type="report")

    def finish(self, failed: bool = False) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow(MLflowTracker):
    """A run of MLflow, found again by its name; arguments as in ``TensorBoard``."""

    def __init__(self, folder: Path, name: str, config: Config) -> None:
        super().__init__(_EXPERIMENT, run_name=name)

    def start(self) -> None:
        import mlflow

        experiments = mlflow.search_experiments(filter_string=f"name = '{self.experiment_name}'")
        if experiments and not self.run_id:
            ids, named = [experiments[0].experiment_id], f"attributes.run_name = '{self.run_name}'"
            runs = mlflow.search_runs(ids, filter_string=named, output_format="list", max_results=1)
            self.run_id = runs[0].info.run_id if runs else None
        self.known = self.run_id is not None
        super().start()

    def log_result(self, values: dict[str, float], report: Path | None) -> None:
        """Log the final values, and the report as an artefact."""
        self.log(values, step=0)
        if report:
            self.log_artifact(str(report))

    def finish(self, failed: bool = False) -> None:
        import mlflow

        mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def plain_name(*parts: str) -> str:
    """Return a name of letters, digits and ``_-./``, which every tracker accepts: ``test/recall_at_10``."""
    return re.sub(r"[^-\w./]", "_", "/".join(parts).replace("@", "_at_"), flags=re.ASCII)
