"""Measure the cost of the effort score, against a forward pass over the same batches and a loop over single samples.

    python benchmarks/effort_cost.py [--sizes 256x4 512x8 1024x12] [--samples N] [--threads 1] [--data_path PATH]

Llamas with random weights (the cost does not depend on their values), of sizes HIDDENxLAYERS, read prompts of ml-100k,
or of Games if PATH contains its folder. On a GPU they are in bfloat16, one of 7 billion parameters is added, and the
whole cost of DEALRec, including scoring, is compared with fine-tuning on all samples. Prints tables and writes them to
benchmarks/results/effort-cost.md. On the CPU, memory is read from /proc, which is Linux.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import common
import numpy as np
import torch
from llama import CUDA, Batch, Bench
from peft import PeftModel
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from recbole_dealrec.data import train_loader
from recbole_dealrec.model.decoding.prefix import longest_split, split_prefix
from recbole_dealrec.model.loss import sample_losses
from recbole_dealrec.scorer import EffortScorer, per_sample_gradient_norms
from recbole_dealrec.scorer.effort import chosen_parameters
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import LLMTrainer

SEVEN_BILLION = "4096x32"
REPETITIONS = 3
ALONE = 8  # one sample in so many goes through the loop over single samples
SCORED = 2048  # samples of the timed effort score
STEPS = 4  # optimiser steps that are timed
EPOCHS = 50  # of the paper

MEMORY = ["size", "effort", "model", "forward", "hooks", "graph", "effort", "to hooks", "to hooks and graph"]


def variants(model: PeftModel) -> dict[str, Callable[[list[Batch]], object]]:
    """Return what is measured, by name; each function receives the batches."""
    last, everything = (chosen_parameters(model, choice) for choice in ("last", "all"))
    return {
        "forward": partial(forward, model),
        "last": partial(per_sample_gradient_norms, model, parameters=last),
        "all": partial(per_sample_gradient_norms, model, parameters=everything),
        "alone": partial(norms_alone, model),
    }


@torch.no_grad()
def forward(model: PeftModel, batches: list[Batch]) -> None:
    for batch in batches:
        sample_losses(model, batch).cpu()


def norms_alone(model: PeftModel, batches: list[Batch]) -> list[float]:
    """Return the gradient norms of one sample in ``ALONE``, each by its own passes without padding."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = []
    for batch in batches:
        for row in range(0, len(batch["labels"]), ALONE):
            seen = batch["attention_mask"][row].bool()
            loss = sample_losses(model, {name: tensor[row : row + 1, seen] for name, tensor in batch.items()})
            gradients = torch.autograd.grad(loss.sum(), trained)
            norms.append(math.sqrt(sum(gradient.float().square().sum() for gradient in gradients)))
    return norms


def clock(run: Callable[[], object]) -> float:
    """Return the seconds of a call, including its work on a GPU."""
    if CUDA:
        torch.cuda.synchronize()
    start = perf_counter()
    run()
    if CUDA:
        torch.cuda.synchronize()
    return perf_counter() - start


def timings(model: PeftModel, batches: list[Batch]) -> dict[str, np.ndarray]:
    """Return the seconds of each variant in each repetition; each repetition runs all variants in turn."""
    runs = variants(model)
    for run in runs.values():
        run(batches[:1])
    rounds = [[clock(partial(run, batches)) for run in runs.values()] for _ in range(REPETITIONS)]
    seconds = dict(zip(runs, np.array(rounds).T, strict=True))
    rows = [len(batch["labels"]) for batch in batches]
    return {**seconds, "alone": seconds["alone"] * sum(rows) / sum(math.ceil(count / ALONE) for count in rows)}


def peak_memory(model: PeftModel, batches: list[Batch], variant: str) -> int:
    """Return the most bytes that a variant uses, in addition to the loaded model, on the largest batch."""
    batch, run = largest(batches), variants(model)[variant]
    if CUDA:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run([batch])
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    run([batch])
    return resident("VmHWM") - before


def resident(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry))


def peak_in_new_process(arguments: argparse.Namespace, size: str, variant: str) -> int:
    options = ["--sizes", size, "--samples", str(arguments.samples), "--threads", str(arguments.threads)]
    options += ["--data_path", arguments.data_path] if arguments.data_path else []
    # With a fixed threshold the allocator returns all large blocks, and the peak is that of live tensors.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--peak", variant, *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def kept_for_backward(model: PeftModel, batches: list[Batch], choice: str) -> int:
    """Return the bytes that autograd keeps of the effort pass over the largest batch, without the model's tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        variants(model)[choice]([largest(batches)])
    return sum(kept.values())


def hooks_need(model: PeftModel, batches: list[Batch], choice: str) -> int:
    """Return the bytes of the chosen matrices' inputs and output gradients, for all tokens of the largest batch."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in chosen_parameters(model, choice)]
    return largest(batches)["labels"].numel() * sum(sum(matrix.shape) * matrix.element_size() for matrix in chosen)


def largest(batches: list[Batch]) -> Batch:
    return max(batches, key=lambda batch: batch["labels"].numel())


def shared_tokens(model: PeftModel, batches: list[Batch]) -> int:
    """Return the number of tokens in a prefix that the samples of a batch share."""
    prefixes = [(len(batch["labels"]), split_prefix(batch, longest_split(model))[0]) for batch in batches]
    return sum(size * prefix["input_ids"].shape[1] for size, prefix in prefixes if prefix)


def step_seconds(bench: Bench, folder: Path) -> float:
    """Return the seconds of an optimiser step of fine-tuning, with the package's trainer."""
    trainer, size = LLMTrainer(bench.config, bench.llm, RunFolder(folder), "adapter"), bench.config["train_batch_size"]
    for steps in (1, STEPS):
        data = train_loader(bench.config, bench.train, bench.candidates.rows[: steps * size])
        seconds = clock(partial(trainer.fit, data, verbose=False, saved=False))
    return seconds / STEPS


def effort_seconds(bench: Bench, choice: str) -> float:
    """Return the seconds of the effort score of a sample, including tokenisation."""
    bench.config["effort_parameters"] = choice
    scorer = EffortScorer(bench.llm, bench.config)
    samples = bench.candidates[np.random.default_rng(0).permutation(len(bench.candidates))[:SCORED]]
    return min(clock(partial(scorer.score, samples)) for _ in range(2)) / len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x4", "512x8", "1024x12"], help="HIDDENxLAYERS")
    parser.add_argument("--samples", type=int, default=1024 if CUDA else 108, help="about so many, in full batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data_path", help="folder that contains games/")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.build(arguments.data_path, Path(folder))
        if arguments.peak:
            model = bench.load(arguments.sizes[0])
            print(peak_memory(model, bench.batches(arguments.samples), arguments.peak))
        else:
            common.write("effort-cost", report(arguments, bench, Path(folder)))


def report(arguments: argparse.Namespace, bench: Bench, folder: Path) -> str:
    times, memory, batches = [], [], bench.batches(arguments.samples)
    for size in [*arguments.sizes, *([SEVEN_BILLION] if CUDA else [])]:
        model = bench.load(size)
        times.append(times_row(size, model, batches))
        memory += memory_rows(arguments, size, model, batches)
    count = sum(len(batch["labels"]) for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    dataset = bench.config["dataset"] + ("" if arguments.data_path else ", for want of --data_path with Games")
    skipped = "No GPU at hand: the model of 7 billion parameters and the whole cost are left out."
    return f"""# Cost of the effort score

{common.header()}.

Prompts: {dataset}; {count} of {len(bench.candidates)} samples in {len(batches)} batches of at most
{bench.config["tokens_per_batch"]} tokens, {tokens / count:.0f} tokens a sample,
{shared_tokens(model, batches) / tokens:.0%} of them in the shared prefix. Models: Llamas with random weights in
{model.dtype}, LoRA of rank {bench.config["lora_r"]} on {" and ".join(bench.config["lora_target_modules"])}.

## Time

Against a plain forward pass over the same batches, which runs the prefix for each sample; medians of
{REPETITIONS} rounds with all variants in turn. The loop over single samples, a forward and a backward pass each,
is timed on one sample in {ALONE}.

{common.table(["size", "parameters", "forward, samples/s", "last", "all", "loop over single samples"], times)}

## Memory

MB on the largest batch, above the loaded model, each in a process of its own. The hooks need the inputs and output
gradients of the chosen matrices, here for all tokens; the graph is what autograd keeps between them (for `last`, of one
layer and the head). The ratios are those of model and effort to model, forward pass and need.

{common.table(MEMORY, memory)}

## Whole cost

{whole_cost(bench, folder) if CUDA else skipped}
"""


def times_row(size: str, model: PeftModel, batches: list[Batch]) -> list[str]:
    seconds = timings(model, batches)
    rate = sum(len(batch["labels"]) for batch in batches) / np.median(seconds["forward"])
    ratios = [np.median(seconds[name] / seconds["forward"]) for name in ("last", "all", "alone")]
    return [size, f"{model.num_parameters():,}", f"{rate:.1f}", *(f"{ratio:.2f}" for ratio in ratios)]


def memory_rows(arguments: argparse.Namespace, size: str, model: PeftModel, batches: list[Batch]) -> list[list[str]]:
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    peak = partial(peak_memory, model, batches) if CUDA else partial(peak_in_new_process, arguments, size)
    plain, rows = peak("forward"), []
    for choice in ("last", "all"):
        needs = hooks_need(model, batches, choice), kept_for_backward(model, batches, choice)
        effort = peak(choice)
        ratios = [(whole + effort) / (whole + plain + need) for need in (needs[0], sum(needs))]
        megabytes = (f"{value / 1e6:.0f}" for value in (whole, plain, *needs, effort))
        rows.append([size, choice, *megabytes, *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def whole_cost(bench: Bench, folder: Path) -> str:
    """Return the hours of DEALRec and of fine-tuning on all samples, for the loaded network."""
    effort = {choice: effort_seconds(bench, choice) for choice in ("last", "all")}
    step, size = step_seconds(bench, folder), bench.config["train_batch_size"]
    few, full = (EPOCHS * math.ceil(n / size) * step for n in (bench.config["n_fewshot"], len(bench.candidates)))
    rows = []
    for choice, seconds in effort.items():
        scoring = seconds * len(bench.candidates)
        hours = (f"{value / 3600:.2f}" for value in (scoring, few, scoring + few, full))
        rows.append([choice, f"{1 / seconds:.0f}", *hours, f"{1 - (scoring + few) / full:.1%}"])
    columns = ["effort", "samples/s", "scoring, h", "few-shot, h", "both, h", "all samples, h", "saved"]
    return f"""A step of fine-tuning, {size} samples, takes {step:.2f} s.
{EPOCHS} epochs over {bench.config["n_fewshot"]} of {len(bench.candidates)} samples are set against {EPOCHS} over all.
Tokenisation is counted, the surrogate is not.

{common.table(columns, rows)}"""


if __name__ == "__main__":
    main()
