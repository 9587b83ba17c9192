"""The page of gpu.py, built from its rows: the answer first, then a table for each part, with its command."""

from collections.abc import Sequence

import common
import datamodel
import gpu_datamodel
import gpu_promise
import pandas as pd
from gpu_cost import CANDIDATES, FEW, FEW_EPOCHS

COMMAND = "python benchmarks/gpu.py --llm PATH --games PATH --parts"
RATES = ["model", "what", "batch", "samples/s", "peak MiB", "weights MiB", "tokens of a sample", "device"]
RIGHT = [
    "row", "samples", "largest relative difference", "rank correlation", "rank correlation with float32",
    "titles alike at their place", "largest difference of log-likelihoods", "recall@10", "peak MiB", "device",
]  # fmt: skip
PROMISE = [
    "row", "recall@10", "recall@10, standard error", "ndcg@10", "test queries", "popularity of the targets", "samples",
    "epochs", "best epoch", "selection, s", "fine-tuning, s", "whole cost, s", "evaluation, s", "peak MiB", "device",
]  # fmt: skip
COST = [
    "model", "effort_parameters", "effort_sample_ratio", "epochs on all", "surrogates, h", "effort, h", "few-shot, h",
    "DEALRec, h", "all, h", "share saved", "as much as so many epochs on all",
]  # fmt: skip
LLAMA = "Llama-3.1-8B"


def page(tables: dict[str, pd.DataFrame]) -> str:
    """Return the rows of all parts as Markdown.

    Args:
        tables: rows by part, ``a`` to ``e``; a part without rows may be empty.
    """
    good = {part: table[table["error"].isna()] if "error" in table else table for part, table in tables.items()}
    machines = dict.fromkeys(text for part in "abce" for text in tables[part].get("machine", []))
    return f"""# On a GPU

{answer(good)}

Measured on: {"; ".join(machines)}.

## Is it right?

`{COMMAND} a`

Effort of batches against a backward pass for each sample on the same device; influence and beam search against the CPU;
a run of each model from surrogates to metrics on made-up data of 160 users. LoRA's matrices are drawn at random.

{frame_table(good["a"], RIGHT)}

## Rates and memory

`{COMMAND} b`

Prompts of Games in the tokens of the language model at `--llm`, whichever model reads them. That model has its own
weights; the others have random ones in bfloat16 in the shape of the model that they are named after (Qwen2 or Llama
architecture). Effort is timed at the default `tokens_per_batch` and at a large one, fine-tuning by an optimiser step of
128 samples, beam search with a trie of all titles. `batch` is the largest that fitted of the first value and its
halves: tokens for effort, samples of a micro batch for fine-tuning, queries for beam search, whose length depends on
the weights: with random ones it is a rough figure. Tokenisation is not counted; the peak holds the weights.

{frame_table(good["b"], RATES)}

## The promise

`{COMMAND} c`

{FEW} samples of Games, one seed, keys beside the defaults: {listed(gpu_promise.KEYS)};
they were not tuned. The whole cost is that of surrogates, scores, selection and fine-tuning, its validations included;
the evaluation is apart. Standard errors are over the test queries. TargetFrequency draws samples whose targets follow
the frequencies of the validation part. Popularity of the targets is Recall@10 of recommending to everybody the ten most
frequent targets of the selection.{full_note(good["c"])}

{frame_table(in_order(good["c"]), PROMISE)}

## Whole cost by size

`{COMMAND} d`

Arithmetic on the fastest rates above, no measurement: {CANDIDATES:,} candidates are scored (or a tenth of them, as
`effort_sample_ratio: 0.1` does), {FEW} samples are fine-tuned on for {FEW_EPOCHS} epochs as in the paper, all
candidates for 1, 3 or 10; so many few-shot epochs are {FEW_EPOCHS * FEW / CANDIDATES:.2f} epochs on all. Surrogates are
those of the table above, if it has DEALRec, else not counted; validations and tokenisation are not.

{frame_table(good["d"], COST)}

## Does a score predict what the model learns?

`{COMMAND} e`

Random subsets of {gpu_datamodel.SIZE} candidates of Games, each tuned on for {datamodel.EPOCHS} epochs. Spearman
correlation of the sum of a score over a subset with what the subset brought on validation queries that no score saw;
in brackets the 95 % bootstrap interval. "Target frequency held" is the partial rank correlation.

{gpu_datamodel.agreement_table(good["e"])}
{failures(tables)}"""


def answer(good: dict[str, pd.DataFrame]) -> str:
    """Return what the rows show, in a sentence for each part that has rows."""
    sentences = [right_answer(good["a"]), promise_answer(good["c"]), cost_answer(good["d"])]
    return " ".join(filter(None, sentences)) or "Rates only so far."


def right_answer(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    by_name = rows.set_index("row")
    parts = []
    for name in ("effort, float32", "effort, bfloat16", "influence"):
        if name in by_name.index:
            parts.append(f"{name} within {by_name.loc[name, 'largest relative difference']:.1e}")
    if "beam search" in by_name.index:
        parts.append(f"{by_name.loc['beam search', 'titles alike at their place']:.1%} of the titles written the same")
    return f"Against reference computations: {', '.join(parts)}." if parts else ""


def promise_answer(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    by_name = in_order(rows).set_index("row")
    parts = [
        f"{name} {row['recall@10']:.4f}"
        + ("" if name in (gpu_promise.POPULAR, "untuned") else f" for {row['whole cost, s']:.0f} s")
        for name, row in by_name.iterrows()
    ]
    return f"Recall@10 on Games and whole cost: {'; '.join(parts)}."


def cost_answer(rows: pd.DataFrame) -> str:
    if rows.empty or LLAMA not in set(rows["model"]):
        return ""
    alike = rows[(rows["model"] == LLAMA) & (rows["epochs on all"] == rows["epochs on all"].min())]
    parts = [
        f"{row['as much as so many epochs on all']:.2f} (`effort_parameters: {row['effort_parameters']}`, "
        f"`effort_sample_ratio: {row['effort_sample_ratio']:g}`)"
        for row in alike.to_dict("records")
    ]
    return (
        f"For {LLAMA}, DEALRec with its scores and {FEW_EPOCHS} few-shot epochs costs as much as so many epochs on all "
        f"candidates: {', '.join(parts)}; fewer than that, and fine-tuning on all is cheaper."
    )


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the promise in the order of its list."""
    names = [gpu_promise.POPULAR, *gpu_promise.RUNS, "Full"]
    return rows.sort_values("row", key=lambda column: column.map(names.index))


def full_note(rows: pd.DataFrame) -> str:
    full = rows[rows["row"] == "Full"] if len(rows) else rows
    if full.empty:
        return ""
    row = full.iloc[0]
    falling = "may have gone on falling" if row["cut"] else "fell no further"
    allowed, run = row["epochs allowed by the time"], row["epochs"]
    return f" Full had time for {allowed:.0f} epochs at most and ran {run:.0f}; its validation loss {falling}."


def failures(tables: dict[str, pd.DataFrame]) -> str:
    failed = [
        [part, row["row"], str(row["error"]).splitlines()[0]]
        for part, table in tables.items() if "error" in table
        for row in table[table["error"].notna()].to_dict("records")
    ]  # fmt: skip
    return f"\n## What failed\n\n{common.table(['part', 'row', 'error'], failed)}\n" if failed else ""


def frame_table(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    """Return those of the columns that the rows have, as Markdown."""
    shown = [name for name in columns if name in rows and rows[name].notna().any()]
    return common.table(shown, [[cell(row[name]) for name in shown] for row in rows.to_dict("records")])


def cell(value: object) -> str:
    """Return a number with four digits, a whole one without a point; an empty text for a missing value."""
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:,.0f}" if abs(value) >= 1000 or value.is_integer() else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def listed(keys: dict) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in keys.items())
