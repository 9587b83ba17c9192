"""The page of one run, ``report.html``, made of what its folder holds."""

from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.report import figure
from recbole_dealrec.report.page import render
from recbole_dealrec.report.statistic import score_columns
from recbole_dealrec.store.run_folder import RunFolder


def write_report(
    run: RunFolder, config: Config, result: dict[str, Any], scores: pd.DataFrame, examples: dict[str, Any]
) -> None:
    """Write the page; it needs no network.

    Args:
        run: folder of the run.
        config: its configuration.
        result: content of ``result.json``.
        scores: content of ``scores.csv``.
        examples: content of ``examples.json``.
    """
    selection = result["selection"]
    page = render(
        "run.html",
        title=f"{config['dataset']}, {config['model']}, {config['sampler']}",
        config=config.resolved(),
        result=result,
        metrics=metric_table(result["test_result"], result["test_standard_error"]),
        histograms=_histograms(selection["scores"]),
        groups=selection.get("groups"),
        group_figure=figure.group_bars(selection["groups"]) if "groups" in selection else "",
        coverage=selection["coverage"],
        coverage_figures=_coverage_figures(selection["coverage"]),
        ranked_by=examples["ranked_by"],
        examples=[_example(example, scores) for example in examples["samples"]],
        trainings=_trainings(result["training"], config),
        stage_figure=figure.stage_bars(result["seconds"]),
        gpu=any("gpu" in peak for peak in result["memory_mib"].values()),
    )
    with run.output("report.html") as file:
        file.write_text(page, encoding="utf-8")


def metric_table(
    result: dict[str, float], errors: dict[str, float]
) -> tuple[list[str], dict[str, dict[str, tuple[float, float | None]]]]:
    """Metrics and their standard errors by name and cut-off, as RecBole names them (``recall@10``).

    A metric without a cut-off has the cut-off ''.
    """
    table: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, value in result.items():
        metric, _, cutoff = name.partition("@")
        table.setdefault(metric, {})[cutoff] = value, errors.get(name)
    return list(dict.fromkeys(cutoff for values in table.values() for cutoff in values)), table


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
    shown = {"Popularity of the target": "popularity", "Length of the history": "history_length"}
    axes = {"popularity": "times the item occurs in training", "history_length": "items in the history"}
    return [
        (title, figure.shares(*_split(coverage[name]), axes[name]))
        for title, name in shown.items()
    ]  # fmt: skip


def _split(counts: dict[str, list[int]]) -> tuple[dict[str, list[int]], list[int], list[int]]:
    series = {"all candidates": counts["candidates"], "selected": counts["selected"]}
    return series, counts["first"], counts["last"]


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
    """Titles and figures of the losses and validation results, fine-tuning first, then all surrogates together."""
    fine_tuning = {name: curve for name, curve in trainings.items() if name == "fine-tuning"}
    surrogates = {name: curve for name, curve in trainings.items() if name != "fine-tuning"}
    chosen_by = {"Fine-tuning": (fine_tuning, config["valid_metric"].lower())}
    chosen_by["Surrogates"] = surrogates, str(config["surrogate_valid_metric"]).lower()
    figures = []
    for title, (curves, metric) in chosen_by.items():
        losses = [
            figure.Curve(_part(name, "training", metric), list(range(len(curve["train_loss"]))), curve["train_loss"])
            for name, curve in curves.items()
            if curve["train_loss"]
        ]
        results = [
            figure.Curve(
                _part(name, "validation", metric),
                curve["valid_epoch"],
                curve["valid_result"][metric],
                _kept(curve, metric),
            )
            for name, curve in curves.items()
            if curve["valid_epoch"]
        ]
        if metric == "loss" and losses:
            figures.append((f"{title}: loss", figure.curves(losses + results, "mean loss")))
        elif losses:
            figures.append((f"{title}: training loss", figure.curves(losses, "mean loss")))
            if results:
                figures.append((f"{title}: validation", figure.curves(results, metric)))
    return figures


def _part(stage: str, part: str, metric: str) -> str:
    """Name of a curve; where both parts are losses, they share a figure."""
    return f"{stage}: {part}" if metric == "loss" else stage


def _kept(curve: dict[str, Any], metric: str) -> int:
    """Epoch of the best result, of equal ones the last, as RecBole's early stopping keeps it."""
    values = np.array(curve["valid_result"][metric])
    best = values.min() if metric == "loss" else values.max()
    return curve["valid_epoch"][int(np.flatnonzero(values == best)[-1])]
