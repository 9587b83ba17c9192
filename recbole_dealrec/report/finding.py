"""Results of the tests of a comparison, in words."""

import pandas as pd

AGAINST = "p against "  # a sampler, in the name of a column of p values
LEAST_SEEDS = 3  # for a test
SIGNIFICANT = 0.05


def findings(table: pd.DataFrame, metric: str) -> list[str]:
    """Return a sentence for each test of a sampler against a reference, or one sentence if seeds are too few.

    Args:
        table: the result of ``comparison_table``.
        metric: the metric to report.
    """
    columns = [name for name in table if name.startswith(AGAINST)]
    if columns and (few := too_few_seeds(table)):
        return [f"{few} A test needs {LEAST_SEEDS}."]
    rows = table[(table["quantity"] == metric) & (table["kind"] == "sampler")].set_index("method")
    return [
        _finding(metric, name, reference, rows["mean"], rows.at[name, f"{AGAINST}{reference}"])
        for reference in (column.removeprefix(AGAINST) for column in columns)
        for name in rows.index
        if name != reference
    ]


def too_few_seeds(table: pd.DataFrame) -> str:
    """Return "no conclusion" as a sentence if there are too few seeds for a test, else an empty text."""
    seeds = int(table.loc[table["kind"] == "sampler", "seeds"].min())
    return f"{['One seed', 'Two seeds'][seeds - 1]}: no conclusion." if seeds < LEAST_SEEDS else ""


def validation_note(table: pd.DataFrame) -> str:
    """Return a sentence that names the samplers whose choice depends on the validation part; empty if there is none.

    Args:
        table: the result of ``comparison_table``.
    """
    seen = table[table["kind"] == "sampler"].set_index("method")["sees"].str.partition(", ")[2]
    told = [f"{method} ({parts.replace('validation ', '')})" for method, parts in seen.to_dict().items() if parts]
    return f"Samplers that see the validation part: {', '.join(told)}." if told else ""


def _finding(metric: str, name: str, reference: str, means: pd.Series, p: float) -> str:
    shown = f"{means[name]:.4f} to {means[reference]:.4f}"
    if p != p:
        return f"{name} against {reference} on {metric}: no conclusion, all seeds have the same difference ({shown})."
    if p >= SIGNIFICANT:
        return f"{name} against {reference} on {metric}: no conclusion ({shown}, p = {p:.3g})."
    word = "above" if means[name] > means[reference] else "below"
    return f"{name} is {word} {reference} on {metric} ({shown}, p = {p:.3g})."
