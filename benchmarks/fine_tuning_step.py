"""How long does an optimiser step of fine-tuning take, in the package and in TRL's SFTTrainer?

    python benchmarks/fine_tuning_step.py [--dataset ml-100k] [--steps 8] [--rounds 5]
    python benchmarks/fine_tuning_step.py --name fine-tuning-step-smollm2 --llm_path=FILE.gguf --checkpoint_dir=FOLDER

Any configuration key can follow. Both trainers train copies of the same network on the same samples, drawn by the seed,
in turn, with the same tokens and optimiser steps, without evaluation, logging or saving. SFTTrainer computes the output
head at all tokens without Triton, at the titles' tokens with it; both are timed. Needs the packages trl and datasets.
Also counts how often the package tokenises a prompt in three epochs, and the seconds of it. Prints a table and writes
it to benchmarks/results/fine-tuning-step.md, or --name.
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import common
import numpy as np
import torch
import trl
from beam_search import keys_text, model_name
from datasets import Dataset
from peft import PeftModel
from recbole.utils import init_seed
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, Splits, load_splits, train_loader
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.loss import IGNORED_LABEL, sample_losses
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import LLMTrainer

PACKAGE, SFT, SHORT = "package", "SFTTrainer", "SFTTrainer, head at the titles alone"
EPOCHS = 3  # in which tokenisation is measured
TOLERANCE = 1e-2  # of the first loss, relative; bfloat16 rounds to 4e-3


class Measured(NamedTuple):
    """Seconds of each step, [rounds, steps], and the mean number of tokens that the network reads in a step."""

    seconds: np.ndarray
    tokens: float


class Losses(NamedTuple):
    """The first step's loss: the package's, the mean of its losses over tokens, and SFTTrainer's.

    The package's loss is the mean over samples of each sample's mean over tokens; SFTTrainer's is the mean over tokens.
    """

    package: float
    over_tokens: float
    sft: float


class Tokenised(NamedTuple):
    """How often the text of a prompt is tokenised in ``EPOCHS``; seconds of the tokenizer and of the training."""

    times: float
    seconds: float
    training: float


class TimedTokenizer:
    """A tokenizer that counts its texts and seconds."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, self.texts, self.seconds = tokenizer, Counter(), 0.0

    def __call__(self, texts: list[str], **options: Any) -> Any:
        start = perf_counter()
        encoded = self._tokenizer(texts, **options)
        self.seconds += perf_counter() - start
        self.texts.update(texts)
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


class Bench:
    """The two trainers, each with a copy of the network, and their samples, enough for some optimiser steps.

    Args:
        config: configuration of BIGRec.
        splits: data of the run.
        steps: optimiser steps of an epoch.
        folder: folder for files of the trainers.
    """

    def __init__(self, config: Config, splits: Splits, steps: int, folder: Path) -> None:
        self.config, self._train, self._folder = config, splits.train, folder
        self.size = config["train_batch_size"]
        candidates = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
        if steps * self.size > len(candidates):
            raise InputError(f"--steps: {steps} steps need {steps * self.size} samples, there are {len(candidates)}")
        drawn = np.random.default_rng(config["seed"]).choice(len(candidates), steps * self.size, replace=False)
        self.samples = candidates[drawn]
        init_seed(config["seed"], config["reproducibility"])
        self.llm = BIGRec(config, splits.train)
        self.copy = deepcopy(self.llm.network)  # SFTTrainer changes the forward method of its network
        self.package = LLMTrainer(config, self.llm, RunFolder(folder), self.llm.weights_folder)

    def fit(self, samples: CandidateSamples, epochs: int = 1) -> float:
        """Train with the package; return the loss of the last epoch."""
        self.package.epochs = epochs
        self.package.fit(train_loader(self.config, self._train, samples.rows), verbose=False, saved=False)
        return self.package.curve.train_loss[-1]

    def sft_trainer(self, samples: CandidateSamples) -> SFTTrainer:
        arguments = sft_arguments(self.config, self._folder)
        tokenizer = deepcopy(self.llm.tokenizer)  # SFTTrainer sets its padding token
        return SFTTrainer(self.copy, arguments, train_dataset=token_rows(self.llm, samples), processing_class=tokenizer)


def sft_arguments(config: Config, folder: Path) -> SFTConfig:
    """Return the arguments for the steps that the package does, in the same precision and order."""
    size, micro, clipping = (config[key] for key in ("train_batch_size", "micro_batch_size", "clip_grad_norm"))
    if size % micro:
        raise InputError(f"micro_batch_size: SFTTrainer needs a divisor of train_batch_size {size}, got {micro}")
    if clipping or config["train_on_inputs"] or config["chat_template"] or config["learner"] != "adamw":
        raise InputError("clip_grad_norm, train_on_inputs, chat_template, learner: only the defaults are compared")
    return SFTConfig(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=micro,
        gradient_accumulation_steps=size // micro, learning_rate=config["learning_rate"],
        warmup_steps=config["warmup_steps"], weight_decay=config["weight_decay"], max_grad_norm=0.0,
        bf16=config["mixed_precision"] == "bf16", fp16=config["mixed_precision"] == "fp16",
        gradient_checkpointing=False, completion_only_loss=True, max_length=None,
        train_sampling_strategy="sequential", use_cpu=config["device"].type == "cpu", dataloader_pin_memory=False,
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip


def token_rows(llm: BIGRec, samples: CandidateSamples) -> Dataset:
    """Return the samples in TRL's format, with the tokens that the package trains on."""
    prompts = llm.encoder.prompts([samples.history(row) for row in range(len(samples))])
    titles = [llm.encoder.response(item) for item in samples.item_id]
    pairs = zip(prompts, titles, strict=True)
    rows = [{"input_ids": [*p, *t], "completion_mask": [0] * len(p) + [1] * len(t)} for p, t in pairs]
    return Dataset.from_list(rows)


def step_seconds(train: Callable[[], Any]) -> np.ndarray:
    """Return the seconds between the optimiser's steps in a training."""
    ends: list[float] = []

    def ended(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(perf_counter())

    hook = register_optimizer_step_post_hook(ended)
    train()
    hook.remove()
    return np.diff(ends)


@contextmanager
def counted_tokens(network: PeftModel) -> Iterator[list[int]]:
    """Collect the number of tokens of each forward pass, including padding."""
    counts: list[int] = []
    embedding = network.get_base_model().get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].numel()))
    yield counts
    hook.remove()


def first_losses(bench: Bench) -> Losses:
    """Train the first step with both trainers, and return its losses."""
    first = bench.samples[np.arange(bench.size)]
    batch = bench.llm.batch([first.history(row) for row in range(len(first))], first.item_id)
    counts = (batch["labels"] != IGNORED_LABEL).sum(1)
    micro = bench.config["micro_batch_size"]
    bench.llm.network.eval()
    with torch.no_grad(), bench.package.accelerator.autocast():
        parts = [{name: rows[i : i + micro] for name, rows in batch.items()} for i in range(0, len(first), micro)]
        losses = torch.cat([sample_losses(bench.llm.network, part).cpu() for part in parts])
    over_tokens = float((losses * counts).sum() / counts.sum())
    sft = bench.sft_trainer(first).train().training_loss
    if abs(over_tokens - sft) > TOLERANCE * abs(over_tokens):
        raise SystemExit(f"error: the first loss over tokens is {over_tokens} in the package and {sft} in SFTTrainer")
    return Losses(bench.fit(first), over_tokens, sft)


def measure(bench: Bench, rounds: int) -> dict[str, Measured]:
    """Return what each trainer takes for the same steps; all take turns in each round."""
    sft = bench.sft_trainer(bench.samples)
    runs = {PACKAGE: lambda: bench.fit(bench.samples), SFT: sft.train, SHORT: lambda: with_short_head(sft)}
    seconds, tokens = defaultdict(list), {}
    for _ in range(rounds):
        for name, run in runs.items():
            with counted_tokens(bench.llm.network if name == PACKAGE else bench.copy) as counts:
                seconds[name].append(step_seconds(run))
            tokens[name] = sum(counts) * bench.size / len(bench.samples)
    return {name: Measured(np.stack(seconds[name]), tokens[name]) for name in runs}


def with_short_head(trainer: SFTTrainer) -> None:
    """Train with the output head at the labelled tokens alone, as SFTTrainer does with Triton."""
    with patch.object(utils, "_use_triton", lambda device: True):
        trainer.train()


def tokenisation(bench: Bench) -> Tokenised:
    """Train some epochs with the package; return how often it tokenises a prompt, and the seconds."""
    encoder = bench.llm.encoder
    prompts = encoder.prompt_texts([bench.samples.history(row) for row in range(len(bench.samples))])
    encoder._cached_prompts.clear()  # those of the steps before
    encoder.tokenizer = timed = TimedTokenizer(bench.llm.tokenizer)
    start = perf_counter()
    bench.fit(bench.samples, EPOCHS)
    seconds = perf_counter() - start
    encoder.tokenizer = bench.llm.tokenizer
    return Tokenised(mean(timed.texts[prompt.text] for prompt in prompts), timed.seconds, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a round; the first is not timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="fine-tuning-step", help="name of the page")
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        given = parse_command_line(rest)
        keys = {"checkpoint_dir": folder, "show_progress": False, **given, "shuffle": False}
        config = Config("BIGRec", arguments.dataset, config_dict=keys)
        bench = Bench(config, load_splits(config), arguments.steps, Path(folder))
        losses = first_losses(bench)
        measured = measure(bench, arguments.rounds)
        text = report(bench, given, losses, measured, tokenisation(bench))
    common.write(arguments.name, text)


def report(
    bench: Bench, given: dict[str, Any], losses: Losses, measured: dict[str, Measured], tokenised: Tokenised
) -> str:
    config, (rounds, steps) = bench.config, measured[PACKAGE].seconds.shape
    columns = ["trainer", "seconds of a step", "quartiles", "times the package's", "tokens of a step, with padding"]
    lora = ", ".join(f"{key} {config[key]}" for key in ("lora_r", "lora_dropout", "lora_target_modules"))
    return f"""# A step of fine-tuning, {model_name(config)} on {config["dataset"]}

{answer(bench, losses, measured, tokenised)}

{common.header()}, trl {trl.__version__}. Steps of {bench.size} samples in forward passes of
{config["micro_batch_size"]}; network in {str(bench.copy.dtype).removeprefix("torch.")}; {lora}. {rounds} rounds; in
each, all train the same {steps + 1} steps in turn, the first one not timed. The seconds are medians of
{rounds * steps} steps, the ratio is the median over pairs of steps. The samples are {len(bench.samples)} random ones.
Keys: {keys_text(given)}.

{common.table(columns, [row(name, each, measured[PACKAGE]) for name, each in measured.items()])}

With Triton, thus on most GPUs, SFTTrainer computes the output head at the tokens of the titles alone, as the package
does everywhere; without it, at all tokens. The last row has the computation with Triton, on this machine. SFTTrainer
gets token ids and computes entropy and accuracy in each pass. The package's step includes its tokenisation; the package
sorts the samples of a step by the length of their histories before it divides them into passes.

## First loss

| mean over | package | SFTTrainer |
| --- | --- | --- |
| tokens | {losses.over_tokens:.7f} | {losses.sft:.7f} |
| samples, of each one's mean over tokens | {losses.package:.7f} | |

The package trains on the second mean, SFTTrainer on the first.

## Tokenisation

In {EPOCHS} epochs over these samples the package tokenised each prompt {tokenised.times:.1f} times on average, which
took {tokenised.seconds:.2f} of {tokenised.training:.1f} s.
"""


def answer(bench: Bench, losses: Losses, measured: dict[str, Measured], tokenised: Tokenised) -> str:
    """Return the answers in words."""
    seconds = {name: np.median(each.seconds) for name, each in measured.items()}
    again = "again in each epoch" if tokenised.times > 1.5 else "only once"
    return f"""A step of {bench.size} samples takes {seconds[PACKAGE]:.2f} s in the package and {seconds[SFT]:.2f} s in
TRL's SFTTrainer, {ratio(measured[SFT], measured[PACKAGE]):.2f} times as long; {seconds[SHORT]:.2f} s,
{ratio(measured[SHORT], measured[PACKAGE]):.2f} times as long, if SFTTrainer computes the output head at the titles
alone. The first losses, over the same tokens, differ by {abs(losses.over_tokens - losses.sft):.0e}. The package
tokenises a prompt {again}, {tokenised.seconds / tokenised.training:.1%} of its training time."""


def ratio(measured: Measured, base: Measured) -> float:
    return float(np.median(measured.seconds / base.seconds))


def row(name: str, measured: Measured, base: Measured) -> list[str]:
    low, middle, high = np.percentile(measured.seconds, [25, 50, 75])
    quartiles = f"{low:.3f} to {high:.3f}"
    return [name, f"{middle:.3f}", quartiles, f"{ratio(measured, base):.2f}", f"{measured.tokens:,.0f}"]


if __name__ == "__main__":
    main()
