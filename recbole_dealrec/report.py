"""What a person reads at the end: a table in the terminal and a page in the run folder."""

from html import escape
from logging import getLogger
from typing import Any

import pandas as pd
from texttable import Texttable

from recbole_dealrec.config import Config
from recbole_dealrec.run_folder import RunFolder

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #8886; text-align: right; }
td:first-child, th:first-child { text-align: left; }
"""


def log_summary(config: Config, result: dict[str, Any]) -> None:
    """Log the metrics and the time of each stage as a table."""
    table = Texttable()
    table.set_deco(Texttable.HEADER)
    table.set_cols_dtype(["t", "t", "t", "t"])
    table.set_cols_align(["l", "r", "l", "r"])
    table.set_header_align(["l", "r", "l", "r"])
    metrics = [(metric, f"{value:.4f}") for metric, value in result["test_result"].items()]
    stages = [(stage, f"{seconds:.1f}") for stage, seconds in result["seconds"].items()]
    rows = max(len(metrics), len(stages))
    metrics += [("", "")] * (rows - len(metrics))
    stages += [("", "")] * (rows - len(stages))
    table.header(["test metric", "value", "stage", "seconds"])
    table.add_rows([[*left, *right] for left, right in zip(metrics, stages, strict=True)], header=False)
    title = f"{config['dataset']}, {config['model']}, {config['sampler']}: "
    chosen = f"{len(result['selected'])} of {result['n_candidates']} candidate samples"
    getLogger().info(f"{title}{chosen}\n{table.draw()}")


def write_report(run: RunFolder, config: Config, result: dict[str, Any]) -> None:
    """Write ``report.html``, one file that needs no network: metrics, times, scores, the selected samples marked."""
    scores = pd.read_csv(run / "scores.csv")
    name = f"{config['dataset']}, {config['model']}, {config['sampler']}"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{len(result['selected'])} of {result['n_candidates']} candidate samples were selected.</p>",
        "<h2>Test metrics</h2>",
        _table(("metric", "value"), [(k, f"{v:.4f}") for k, v in result["test_result"].items()]),
        "<h2>Time</h2>",
        _table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in result["seconds"].items()]),
        *_distributions(scores),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    with run.output("report.html") as file:
        file.write_text(page, encoding="utf-8")


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{escape(left)}</td><td>{escape(right)}</td></tr>" for left, right in rows)
    return f"<table><tr><th>{header[0]}</th><th>{header[1]}</th></tr>{cells}</table>"


def _distributions(scores: pd.DataFrame) -> list[str]:
    """A histogram of each score, all candidates and the selected ones, as plotly figures."""
    import plotly.graph_objects as go  # a second to import, and only needed here

    figures = []
    for column in scores.drop(columns=["user", "target", "group"], errors="ignore").select_dtypes("float"):
        figure = go.Figure()
        for label, color, values in (
            ("all candidates", "#0072B2", scores[column]),
            ("selected", "#E69F00", scores.loc[scores["selected"] == 1, column]),
        ):
            figure.add_histogram(x=values, name=label, marker_color=color, nbinsx=50, bingroup=1, opacity=0.75)
        figure.update_layout(
            barmode="overlay", yaxis_type="log", xaxis_title=column, yaxis_title="samples (log)", height=360,
            margin={"l": 50, "r": 10, "t": 30, "b": 40}, legend={"orientation": "h", "y": 1.15},
        )  # fmt: skip
        script = "inline" if not figures else False
        figures.append(f"<h2>{escape(column)}</h2>" + figure.to_html(full_html=False, include_plotlyjs=script))
    return figures
