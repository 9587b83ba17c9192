"""The model card in the folder of the fine-tuned weights."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from recbole_dealrec.config import Config
from recbole_dealrec.report.answer import answer_metrics, answer_rows
from recbole_dealrec.report.summary import with_error
from recbole_dealrec.store.run_folder import RunFolder

_FILE = "README.md"
_TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def write_card(run: RunFolder, config: Config, result: dict[str, Any]) -> None:
    """Write the model card of a run, ``README.md`` next to the fine-tuned weights, with Hugging Face's metadata.

    Args:
        run: folder of the run.
        config: its configuration.
        result: content of ``result.json``.
    """
    if not run.written:
        return
    name = config.model_class.weights_folder
    about = config.model_class.card(config, run / name)
    card = ModelCard.from_template(
        _metadata(run.path.name, config, result, about["metadata"]),
        str(_TEMPLATE),
        title=f"{config['dataset']}, {config['model']}, {config['sampler']}",
        about=about,
        **{key: config[key] for key in ("dataset", "model", "sampler", "seed")},
        date=result["date"],
        epochs=len(result["training"]["fine-tuning"]["train_loss"]),
        valid=", ".join(f"{metric} {value:.4f}" for metric, value in (result["best_valid_result"] or {}).items()),
        n_selected=len(result["selected"]),
        n_candidates=result["n_candidates"],
        n_test_queries=result["n_test_queries"],
        yardsticks=result["yardsticks"],
        verdict=result.get("verdict", ""),
        table=_table(result),
    )
    file = run / name / _FILE
    if not (file.is_file() and file.read_text(encoding="utf-8") == str(card)):
        with run.amended(name) as folder:
            (folder / _FILE).write_text(str(card), encoding="utf-8")


def _metadata(name: str, config: Config, result: dict[str, Any], metadata: dict[str, Any]) -> ModelCardData:
    """Return the front matter, with the metrics of the test part."""
    task = {"task_type": "sequential-recommendation", "dataset_type": config["dataset"]}
    results = [
        EvalResult(**task, dataset_name=config["dataset"], dataset_split="test", metric_type=metric, metric_value=value)
        for metric, value in result["test_result"].items()
    ]
    tags = ["recommendation", "recbole", "recbole-dealrec", *metadata.get("tags", [])]
    return ModelCardData(**{**metadata, "tags": tags}, model_name=name, eval_results=results)


def _table(result: dict[str, Any]) -> str:
    """Return the run and its yardsticks as a Markdown table, with all metrics at the cut-off of the headline metric."""
    shown = answer_metrics(result) if "headline" in result else list(result["test_result"])
    lines = [["", *shown], ["---", *["---:"] * len(shown)]]
    for row in answer_rows(result):
        values, errors = row["test_result"], row["standard_error"]
        cells = (with_error(values[name], errors.get(name)) if name in values else "" for name in shown)
        lines.append([row["name"], *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
