"""Tables in LaTeX, for booktabs."""

from collections.abc import Sequence

import pandas as pd

_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--"}
)
_FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return text.translate(_ESCAPES)


def latex_table(groups: Sequence[pd.DataFrame], caption: str) -> str:
    """Return a table that shrinks to the width of the page; it needs the packages booktabs and graphicx.

    Args:
        groups: groups of rows with a rule between them; all have the same columns. Names of rows and columns are text,
            cells are LaTeX.
        caption: LaTeX.
    """
    columns = list(groups[0])
    lines = [_line(["Method", *columns]), r"\midrule"]
    for place, group in enumerate(groups):
        lines += [r"\midrule"] * (place > 0)
        lines += [_line([name], cells) for name, cells in zip(group.index, group.to_numpy(), strict=True)]
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", _FITTED,
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}}",
        r"\end{table}", "",
    ])  # fmt: skip


def _line(text: Sequence[str], cells: Sequence[str] = ()) -> str:
    return " & ".join([*map(escape, text), *cells]) + r" \\"
