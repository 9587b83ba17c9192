"""Measure the memory of effort: the peak, and what its backward pass and hooks need.

    python benchmarks/effort_memory.py --llm_path=FILE.gguf --checkpoint_dir=FOLDER

The needed memory is what autograd saves for the backward pass of the batch and what the hooks keep: inputs and output
gradients of LoRA's modules, for the shared prefix of each sample. Each budget is measured in a separate process,
because a process does not always release its memory.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping

import common
import torch
from torch import Tensor

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.model.decoding.prefix import longest_split, prefix_cache, prefix_states, split_prefix
from recbole_dealrec.pipeline import configure, prepare
from recbole_dealrec.scorer.effort import chosen_parameters
from recbole_dealrec.scorer.gradient_norm import gradient_norms, sample_losses
from recbole_dealrec.store.peak_memory import peak_memory

BUDGETS = [2048, 8192]
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, help="measure this one here and print its row")
    arguments, rest = parser.parse_known_args()
    if arguments.budget:
        print(*measure(parse_command_line(rest), arguments.budget))
        return
    rows = [
        subprocess.run(
            [sys.executable, __file__, f"--budget={budget}", *rest], check=True, capture_output=True, text=True
        ).stdout.split()
        for budget in BUDGETS
    ]
    columns = [
        "tokens_per_batch", "samples", "tokens", "before, MiB", "saved for the backward pass, MiB",
        "kept by hooks, MiB", "peak, MiB", "peak / needed",
    ]  # fmt: skip
    common.write(
        "effort-memory",
        f"""# Memory of effort, SmolLM2-135M on ml-100k

At the longest batch of `effort_parameters: all`, float32: at most {max(float(row[-1]) for row in rows):.2f} times
what the backward pass and the hooks need, with what was there before (libraries and weights) counted in both.

{common.table(columns, rows)}

{common.header()}. `python benchmarks/effort_memory.py --llm_path=FILE.gguf --checkpoint_dir=FOLDER`""",
    )


def measure(keys: Mapping[str, object], budget: int) -> list:
    """Return the row of a budget: the batch's size, memory before, needed and at the peak."""
    config = configure(
        "BIGRec", "ml-100k", None, {"samples_per_user": 1, "show_progress": False, **keys, "tokens_per_batch": budget}
    )
    (job,) = prepare([config])
    llm = config.model_class(config, job.splits.train)
    batch = max((batch for _, batch in llm.batches(job.samples)), key=lambda batch: batch["input_ids"].numel())
    names = chosen_parameters(llm.network, "all")
    with gradient_norms(llm.network, names) as norms_of:
        with peak_memory() as peaks:
            before = peaks()["resident"]
            norms_of(batch)
        peak = peaks()["resident"]
        saved = saved_mib(llm.network, batch)
    hooks = hooks_mib(llm.network, batch)
    size = batch["input_ids"].shape
    share = peak / (before + saved + hooks)
    return [budget, size[0], size[0] * size[1], *(f"{x:.0f}" for x in (before, saved, hooks, peak)), f"{share:.2f}"]


def saved_mib(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Return the MiB that autograd saves for the backward pass, without weights."""
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    prefix, rest = split_prefix(batch, longest_split(network))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = [] if prefix is None else prefix_states(network, prefix)
        copies = [state.detach().expand(len(batch["labels"]), *state.shape[1:]) for state in states]
        copies = [copy.requires_grad_(True) for copy in copies]
        losses = sample_losses(network, rest, prefix_cache(copies) if copies else None)
        found = sum(size for place, size in sizes.items() if place not in weights) / MIB
        del losses
    return found


def hooks_mib(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Return the MiB of inputs and output gradients of LoRA's matrices at all tokens; shared inputs count once."""
    tokens = batch["input_ids"].numel()
    widths = [
        value.shape[0] + (value.shape[1] if "lora_B" in name else 0)
        for name, value in network.named_parameters() if "lora_" in name
    ]  # fmt: skip
    return tokens * 4 * sum(widths) / MIB


if __name__ == "__main__":
    main()
