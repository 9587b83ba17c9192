"""The GPU hours of a run with millions of users, counted from the operations and bytes of its matrices."""

from collections.abc import Mapping
from typing import NamedTuple

import common

from recbole_dealrec.config import Config

EACH, LEAST, USERS_PER_ITEM = 50, 4, 5  # interactions of a user; LEAST: history, training, validation and test row
HELD_OUT = 2  # rows of each user that are not training rows
LONGEST = 50  # items of a history, RecBole's default
SELECTED = 50  # one candidate in 50 is selected
MOST_PRODUCTS = 100  # of conjugate gradients, see scorer/influence.py
PAPER_USERS = 2_000_000  # of the estimate
GPUS = 1, 8
BF16, FP32, BYTES = 989e12, 67e12, 3.35e12  # dense FLOP/s and bytes/s of an H100 SXM, NVIDIA's data sheet
REACHED = 0.4  # share of these rates, an assumption
LLM_PARAMETERS, TOKENS = 7e9, 150  # of a prompt with its answer
EFFORT_PASSES = 1.8  # forward passes, benchmarks/results/effort-cost.md
EPOCHS = 4  # of a surrogate, the least that surrogate_epochs: auto takes
# Times that a logit is read or written: model/surrogate/softmax_loss.py, scorer/surrogate_loss.py.
IN_TRAINING, IN_GRADIENT, IN_CURVATURE = 11, 5, 16


class Step(NamedTuple):
    """A step on paper: how it is counted, its FLOP at a rate, its bytes, and whether several GPUs share it."""

    name: str
    formula: str
    flop: float
    rate: float
    moved: float
    shared: bool

    def seconds(self, gpus: int) -> float:
        alone = self.flop / (REACHED * self.rate) + self.moved / (REACHED * BYTES)
        return alone / gpus if self.shared else alone


def paper(config: Config, on_cpu: Mapping[str, float]) -> str:
    """Return the estimate for ``PAPER_USERS``.

    Args:
        config: the package's defaults.
        on_cpu: seconds of what needs no GPU, by name.
    """
    steps = gpu_steps(config)
    rows = [
        [step.name, step.formula, f"{step.flop:.2g}", f"{step.moved:.2g}", *(duration(step.seconds(n)) for n in GPUS)]
        for step in steps
    ]
    rows += [[part, "CPU, in proportion", "", "", *[duration(now)] * len(GPUS)] for part, now in on_cpu.items()]
    totals = [sum(step.seconds(n) for step in steps) + sum(on_cpu.values()) for n in GPUS]
    rows.append(["in all", "", "", "", *map(duration, totals)])
    names = [f"{n} GPU{'s' * (n > 1)}" for n in GPUS]
    columns = ["step", "counted as", "FLOP", "bytes", *names]
    whole = " and ".join(f"{duration(total)} with {column}" for total, column in zip(totals, names, strict=True))
    return f"""\
**{PAPER_USERS * EACH:,} interactions would take about {whole}.** An estimate, nothing of it was measured on a GPU:
{PAPER_USERS:,} users, {PAPER_USERS // USERS_PER_ITEM:,} items, one candidate a user, the package's defaults otherwise,
a language model of {LLM_PARAMETERS / 1e9:.0f} billion parameters with LoRA and {TOKENS} tokens a sample. Seconds are
FLOP / (share x rate) + bytes / (share x bandwidth) with a share of {REACHED}, an assumption, and the rates of an H100
SXM in NVIDIA's data sheet: {BF16 / 1e12:.0f} TFLOP/s in bf16 (language model), {FP32 / 1e12:.0f} in float32
(surrogate), {BYTES / 1e12} TB/s; bytes are those of the logits in float32. Starting of kernels and evaluation are left
out. Only effort, scores and fine-tuning are shared among GPUs: surrogates, v and products run on the first one.

{common.table(columns, rows)}"""


def gpu_steps(config: Config) -> list[Step]:
    """Return the steps of a run that need a GPU, with the operations and bytes of their matrices."""
    surrogate, users, items = config.surrogate(), PAPER_USERS, PAPER_USERS // USERS_PER_ITEM
    width, inner, layers = (surrogate[key] for key in ("hidden_size", "inner_size", "n_layers"))
    encoder, logit = layers * (4 * width**2 + 2 * width * inner), 2 * width * items
    n, positions, few = config["n_surrogates"], users * (EACH - HELD_OUT - 1), users // SELECTED
    trained, products = n * EPOCHS * positions, n * config["hessian_samples"] * MOST_PRODUCTS
    token = 2 * LLM_PARAMETERS  # FLOP of a forward pass
    per = 4 * items  # bytes of the logits of a position
    return [
        Step(f"{n} surrogates, {EPOCHS} epochs", "surrogates x epochs x positions x (6 x encoder + 6 x width x items)",
             trained * (6 * encoder + 3 * logit), FP32, trained * IN_TRAINING * per, False),
        Step("influence: v", "surrogates x candidates x (6 x encoder x history + 4 x width x items)",
             n * users * (6 * encoder * LONGEST + 2 * logit), FP32, n * users * IN_GRADIENT * per, False),
        Step(f"influence: {MOST_PRODUCTS} products",
             "surrogates x products x samples x (10 x encoder x history + 6 x width x items)",
             products * (10 * encoder * LONGEST + 3 * logit), FP32, products * IN_CURVATURE * per, False),
        Step("influence: scores", "surrogates x candidates x (4 x encoder x history + 4 x width x items)",
             n * users * (4 * encoder * LONGEST + 2 * logit), FP32, n * users * IN_GRADIENT * per, True),
        Step("effort", f"{EFFORT_PASSES} x 2 x parameters x tokens x candidates",
             EFFORT_PASSES * token * TOKENS * users, BF16, 0, True),
        Step(f"fine-tuning, {config['epochs']} epochs at most", "4 x parameters x tokens x selected x epochs",
             2 * token * TOKENS * few * config["epochs"], BF16, 0, True),
    ]  # fmt: skip


def duration(seconds: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= unit or unit == 1
    )
    return f"{seconds / unit:.2g} {name}"
