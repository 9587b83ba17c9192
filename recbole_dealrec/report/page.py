"""Rendering of a template, the style sheet and plotly's script to one self-contained HTML page."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **shown: Any) -> str:
    """Return the page of a template; text is escaped, and ``<data value=...>`` has all digits of a number."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, plotly=Markup(get_plotlyjs()), **shown)


def number(value: float, form: str = ",.0f") -> Markup:
    """Return a number in a readable form; a dash for NaN."""
    if value != value:
        return Markup("–")
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), format(value, form))
