"""Part d of gpu.py: cost of DEALRec, including its scores, against fine-tuning on all; computed from part b."""

from itertools import product

import pandas as pd
from gpu_rows import Row

CANDIDATES, FEW, FEW_EPOCHS = 45_774, 1024, 50  # Games and the paper
EPOCHS = (1, 3, 10)
RATIOS = (1.0, 0.1)


def whole_cost(effort: float, tuning: float, epochs: int, ratio: float, surrogates: float = 0.0) -> Row:
    """Return the hours of DEALRec and of fine-tuning on all candidates.

    Args:
        effort: samples per second of the effort score.
        tuning: samples per second of fine-tuning.
        epochs: epochs of fine-tuning on all candidates; the few samples get ``FEW_EPOCHS``.
        ratio: ``effort_sample_ratio``, the share of candidates that the language model scores.
        surrogates: seconds of surrogates and influence.
    """
    scoring = ratio * CANDIDATES / effort
    few = FEW_EPOCHS * FEW / tuning
    both, epoch = surrogates + scoring + few, CANDIDATES / tuning
    return {
        "surrogates, h": surrogates / 3600,
        "effort, h": scoring / 3600,
        "few-shot, h": few / 3600,
        "DEALRec, h": both / 3600,
        "all, h": epochs * epoch / 3600,
        "share saved": 1 - both / (epochs * epoch),
        "as much as so many epochs on all": both / epoch,
    }


def cost_rows(rates: pd.DataFrame, surrogates: float) -> list[Row]:
    """Return a row for each model, ``effort_parameters``, ``effort_sample_ratio`` and number of epochs.

    The rates are the fastest measured ones, for any batch size.
    """
    rows = []
    for model, part in rates[rates["error"].isna()].groupby("model", sort=False):
        tuning = fastest(part, "fine-tuning")
        for choice, ratio, epochs in product(("last", "all"), RATIOS, EPOCHS):
            effort = fastest(part, f"effort {choice}")
            if effort and tuning:
                name = f"{model}, {choice}, ratio {ratio:g}, {epochs} epochs"
                keys = {"effort_parameters": choice, "effort_sample_ratio": ratio, "epochs on all": epochs}
                cost = whole_cost(effort, tuning, epochs, ratio, surrogates)
                device = part["device"].iloc[0]
                rows.append({"row": name, "model": model, **keys, **cost, "device": device, "error": None})
    return rows


def fastest(rates: pd.DataFrame, what: str) -> float:
    """Return samples per second of the fastest row whose name begins so, 0 if there is none."""
    return max(rates.loc[rates["what"].str.startswith(what), "samples/s"], default=0.0)
