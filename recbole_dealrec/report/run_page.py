"""The page of one run, ``report.html``."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.model.surrogate.surrogate import surrogate_labels
from recbole_dealrec.report import figure
from recbole_dealrec.report.answer import NORMAL_95, answer_metrics, answer_rows, metric_table
from recbole_dealrec.report.full_cost import full_cost
from recbole_dealrec.report.page import render
from recbole_dealrec.report.statistic import score_columns
from recbole_dealrec.store.run_folder import RunFolder

REPORT = "report.html"


def write_report(run: RunFolder, config: Config, result: dict[str, Any], scores: pd.DataFrame) -> None:
    """Write the self-contained page.

    Args:
        run: folder of the run, with ``examples.json`` and ``users.json``.
        config: its configuration.
        result: content of ``result.json``.
        scores: content of ``scores.csv``.
    """
    selection, examples = result["selection"], run.read_json("examples.json")
    labels = surrogate_labels(result["seconds"])
    page = render(
        "run.html",
        title=f"{config['dataset']}, {config['model']}, {config['sampler']}",
        config=config.resolved(),
        result=result,
        about=_about(config, result),
        answer=_answer(result),
        full_cost=full_cost(run.path, config, result),
        users=run.read_json("users.json"),
        metrics=metric_table(result["test_result"], result["test_standard_error"]),
        histograms=_histograms(selection["scores"]),
        groups=selection.get("groups"),
        group_figure=figure.group_bars(selection["groups"]) if "groups" in selection else "",
        coverage=selection["coverage"],
        coverage_figures=_coverage_figures(selection["coverage"]),
        ranked_by=examples["ranked_by"],
        examples=[_example(example, scores) for example in examples["samples"]],
        trainings=_trainings({labels.get(name, name): curve for name, curve in result["training"].items()}, config),
        step_figure=figure.step_bars({labels[name]: spent for name, spent in result["seconds"].items()}),
        labels=labels,
        gpu=any("gpu" in peak for peak in result["memory_mib"].values()),
    )
    with run.output(REPORT) as file:
        file.write_text(page, encoding="utf-8")


def _answer(result: dict[str, Any]) -> dict[str, Any]:
    """Return the run and its yardsticks for the page; empty without yardsticks.

    Returns:
        ``metric``, the headline metric; ``rows``, the run's first; ``shown``, the metrics at the same cut-off;
        ``recall``, the name of Recall there; ``figure``, the headline metric with 95 % intervals.
    """
    if "headline" not in result:
        return {}
    metric = result["headline"]
    rows = answer_rows(result)
    drawn = [row for row in rows if metric in row["test_result"]]
    values = np.array([row["test_result"][metric] for row in drawn])
    errors = NORMAL_95 * np.array([row["standard_error"].get(metric, np.nan) for row in drawn])
    low, high = np.maximum(values - errors, 0).tolist(), (values + errors).tolist()
    return {
        "metric": metric,
        "rows": rows,
        "shown": answer_metrics(result),
        "recall": f"recall@{metric.rpartition('@')[2]}",
        "figure": figure.intervals([row["name"] for row in drawn], values.tolist(), low, high, metric),
    }


def _about(config: Config, result: dict[str, Any]) -> str:
    """Return dataset, model, sampler, seed and date in one line."""
    path = Path(config["llm_path"]).name if "llm_path" in config else ""
    named = f"{config['model']} with {'the tiny LLM' if path == 'tiny' else path}" if path else config["model"]
    origin = f" for {result['selected_by']['model']}, read from {config['selection']}" if config["selection"] else ""
    return f"{config['dataset']}; {named}; {config['sampler']}{origin}, seed {config['seed']}; {result['date']}"




def _histograms(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "not_finite": values["not_finite"],
            "figure": figure.histogram(values["edges"], values["candidates"], values["selected"], name),
        }
        for name, values in scores.items()
    ]


def _coverage_figures(coverage: dict[str, Any]) -> list[tuple[str, str]]:
    figures = []
    for name, (title, axis) in figure.COVERAGE.items():
        counts = coverage[name]
        series = {"all candidates": counts["candidates"], "selected": counts["selected"]}
        figures.append((title, figure.shares(series, counts["first"], counts["last"], axis)))
    return figures


def _example(example: dict[str, Any], scores: pd.DataFrame) -> dict[str, Any]:
    sample = example["sample"]
    return {
        **example,
        "user": scores.at[sample, "user"],
        "scores": score_columns(scores).loc[sample].to_dict(),
        "group": int(scores.at[sample, "group"]) if "group" in scores else None,
        "selected": bool(scores.at[sample, "selected"]),
    }


def _trainings(trainings: dict[str, Any], config: Config) -> list[tuple[str, str]]:
    """Return titles and figures of losses and validation results, fine-tuning first, then the surrogates."""
    fine_tuning = {name: curve for name, curve in trainings.items() if name == "fine-tuning"}
    surrogates = {name: curve for name, curve in trainings.items() if name != "fine-tuning"}
    chosen_by = {"Fine-tuning": (fine_tuning, config["valid_metric"].lower())}
    chosen_by["Surrogates"] = surrogates, str(config["surrogate_valid_metric"]).lower()
    figures = []
    for title, (curves, metric) in chosen_by.items():
        losses, results = [], []
        for name, curve in curves.items():
            if loss := curve["train_loss"]:
                losses.append(figure.Curve(_curve_name(name, "training", metric), list(range(len(loss))), loss))
            if epochs := curve["valid_epoch"]:
                values = curve["valid_result"][metric]
                validation = _curve_name(name, "validation", metric)
                results.append(figure.Curve(validation, epochs, values, curve.get("kept_epoch")))
        if metric == "loss" and losses:
            figures.append((f"{title}: loss", figure.curves(losses + results, "mean loss")))
        elif losses:
            figures.append((f"{title}: training loss", figure.curves(losses, "mean loss")))
            if results:
                figures.append((f"{title}: validation", figure.curves(results, metric)))
    return figures


def _curve_name(step: str, part: str, metric: str) -> str:
    """Return the name of a curve; if both parts are losses, they share a figure."""
    return f"{step}: {part}" if metric == "loss" else step
