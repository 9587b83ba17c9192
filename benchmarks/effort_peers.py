"""Compare the effort score with other exact ways to the gradient norms of samples over the same LoRA matrices.

    python benchmarks/effort_peers.py [--samples 512] [--rounds 5] [--name effort-peers] [--key=value]

The peers are bergson (pip install bergson==2.5.1 "torch<2.14"), torch.func.vmap of torch.func.grad, and a loop over
single samples. All run in turn, in one process and on the CPU, in float32, on the tiny LLM of ml-100k or on the one of
--llm_path with --checkpoint_dir. Any configuration key can follow. Prints a table and writes it to
benchmarks/results/<name>.md. Memory is read from /proc and the allocator is glibc's, which is Linux.
"""

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from effort_cost import clock, forward, largest, resident, shared_tokens
from llama import Batch
from peft import PeftModel
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from transformers.utils.logging import disable_progress_bar

from recbole_dealrec.config import Config
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.loss import IGNORED_LABEL, sample_losses
from recbole_dealrec.scorer import per_sample_gradient_norms
from recbole_dealrec.scorer.effort import chosen_parameters
from recbole_dealrec.scorer.gradient_norm import eval_mode_with_grad
from recbole_dealrec.scorer.gradient_way import gradient_norms_alone

CHOICES = ("all", "last")
MMAP_THRESHOLD = -3  # number of the option in malloc.h
CHUNK = 64  # samples of a vmapped call; whole batches of the tiny LLM are no faster
PACKAGE, LOOP = "the package", "a loop over single samples"
FORWARD = ("", "a forward pass")

Run = tuple[str, str]  # choice of matrices and way
Batches = Sequence[Batch]


def ways() -> dict[str, Callable[[PeftModel, Sequence[str], Batches], np.ndarray]]:
    """Return the ways by name; each returns the norms over the named matrices, one for each sample."""
    return {
        PACKAGE: per_package,
        "bergson's collector with the package's loss": bergson_collector,
        "bergson's collector with its own loss": bergson_whole,
        "vmap of grad": vmapped,
        LOOP: looped,
    }


def per_package(network: PeftModel, names: Sequence[str], batches: Batches) -> np.ndarray:
    return per_sample_gradient_norms(network, batches, parameters=names)


def looped(network: PeftModel, names: Sequence[str], batches: Batches) -> np.ndarray:
    with gradient_norms_alone(network, names) as norms_of:
        return np.concatenate([norms_of(batch) for batch in batches])


def vmapped(network: PeftModel, names: Sequence[str], batches: Batches) -> np.ndarray:
    """Differentiate the loss of a sample, vectorised over samples; the head reads the labelled positions only.

    PyTorch warns that attention falls back to a loop; the kernel with a batching rule is no faster and needs memory.
    """
    parameters = dict(network.named_parameters())
    chosen = {name: parameters[name].detach() for name in names}

    def loss(matrices: dict[str, Tensor], tokens: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        inputs = {"input_ids": tokens[None], "logits_to_keep": positions, "use_cache": False}
        logits = functional_call(network, matrices, (), inputs).logits[0]
        return F.cross_entropy(logits, targets, ignore_index=IGNORED_LABEL)

    gradients_of = vmap(grad(loss), in_dims=(None, 0, 0, 0), chunk_size=CHUNK)
    norms = []
    with eval_mode_with_grad(network, set()):
        for batch in batches:
            tokens, labels = right_padded(batch)
            positions = predicting_positions(batch)
            gradients = gradients_of(chosen, tokens, positions, labels.gather(1, positions + 1))
            norms.append(total_norms(gradients.values()))
    return np.concatenate(norms)


def bergson_collector(network: PeftModel, names: Sequence[str], batches: Batches) -> np.ndarray:
    """Collect gradients with bergson at its least cost: nothing but the chosen modules' inputs needs a gradient."""
    collector, norms = new_collector(network, names), []
    with eval_mode_with_grad(network, set()), graph_from(network, names):
        for batch in batches:
            with collector.with_batch():
                sample_losses(network, batch).sum().backward()
            norms.append(collected_norms(collector))
    return np.concatenate(norms)


def bergson_whole(network: PeftModel, names: Sequence[str], batches: Batches) -> np.ndarray:
    """Collect gradients as bergson's loop does: its loss over all logits, and a graph from the embeddings on."""
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.config import IndexConfig

    step = fwd_bwd_factory(IndexConfig(run_path="", loss_reduction="mean"))
    collector, norms = new_collector(network, names), []
    with eval_mode_with_grad(network, {network.get_input_embeddings().weight}):
        for batch in batches:
            with collector.with_batch():
                step(network, *right_padded(batch), {})
            norms.append(collected_norms(collector))
    return np.concatenate(norms)


def new_collector(network: PeftModel, names: Sequence[str]) -> Any:
    """Return bergson's collector of the gradients of the named matrices, without a random projection."""
    from bergson.collector.gradient_collectors import StreamingGradientCollector

    modules = {name.removesuffix(".weight") for name in names}
    return StreamingGradientCollector(model=network, target_modules=modules, dtype=torch.float32)


def collected_norms(collector: Any) -> np.ndarray:
    """Return the norms of the collected gradients, and discard these."""
    norms = total_norms(collector.mod_grads.values())
    collector.mod_grads.clear()
    return norms


@contextmanager
def graph_from(network: PeftModel, names: Sequence[str]) -> Iterator[None]:
    """Let the graph start at the inputs of the modules that own the named matrices, if it has not started before."""

    def start(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return args if args[0].requires_grad else (args[0].detach().requires_grad_(),)

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(network.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(start).remove)
        yield


def total_norms(gradients: Iterable[Tensor]) -> np.ndarray:
    """Return the norm of each sample's gradients, [B, ...] each, over all matrices."""
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    return squares.double().sum(0).sqrt().numpy()


def right_padded(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return tokens and labels with the padding on the right, where a causal model needs no attention mask."""
    order = batch["attention_mask"].argsort(dim=1, descending=True, stable=True)
    return batch["input_ids"].gather(1, order), batch["labels"].gather(1, order)


def predicting_positions(batch: Batch) -> Tensor:
    """Return the positions of the logits for each row's last tokens, as many as any row has labels, padding right."""
    count = int((batch["labels"] != IGNORED_LABEL).sum(1).max())
    return batch["attention_mask"].sum(1, keepdim=True) - 1 - count + torch.arange(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512, help="about so many, in full batches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="effort-peers", help="name of the page")
    arguments, rest = parser.parse_known_args()
    peer = bergson_version()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        keys = {"checkpoint_dir": folder, "show_progress": False, **parse_command_line(rest)}
        keys |= {"use_gpu": False, "llm_dtype": "float32"}
        config = Config("BIGRec", "ml-100k", config_dict=keys)
        train = load_splits(config).train
        llm = BIGRec(config, train)
    batches = scored_batches(llm, CandidateSamples.from_dataset(train, config["samples_per_user"]), arguments.samples)
    fill_lora(llm.network)
    common.write(arguments.name, report(llm, batches, arguments.rounds, peer))


def bergson_version() -> str:
    try:
        return version("bergson")
    except PackageNotFoundError:
        sys.exit('bergson is missing: pip install bergson==2.5.1 "torch<2.14"')


def scored_batches(llm: BIGRec, samples: CandidateSamples, count: int) -> list[Batch]:
    """Return batches of about ``count`` samples, at even distances in the effort score's pass over all samples."""
    batches = [batch for _, batch in llm.batches(samples)]
    wanted = round(count * len(batches) / len(samples))
    parts = np.array_split(np.arange(len(batches)), np.clip(wanted, 1, len(batches)))
    return [batches[part[len(part) // 2]] for part in parts]


def fill_lora(network: PeftModel) -> None:
    """Fill the second LoRA matrices with random values: while they are 0, the first ones have no gradient."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)


def all_runs(network: PeftModel, batches: Batches) -> dict[Run, Callable[[], Any]]:
    runs: dict[Run, Callable[[], Any]] = {FORWARD: partial(forward, network, batches)}
    for choice in CHOICES:
        names = chosen_parameters(network, choice)
        runs |= {(choice, way): partial(norms, network, names, batches) for way, norms in ways().items()}
    return runs


def differences(runs: dict[Run, Callable[[], Any]]) -> dict[Run, str]:
    """Return the greatest relative difference of each run's norms to those of the loop; also warms up."""
    norms = {run: call() for run, call in runs.items()}
    found = {run: np.abs(norms[run] / norms[run[0], LOOP] - 1).max() for run in runs if run != FORWARD}
    return {FORWARD: "", **{run: f"{difference:.0e}" for run, difference in found.items()}}


def timings(runs: dict[Run, Callable[[], Any]], rounds: int) -> dict[Run, np.ndarray]:
    """Return the seconds of each run in each round; each round has all runs in turn."""
    seconds = [[clock(call) for call in runs.values()] for _ in range(rounds)]
    return dict(zip(runs, np.array(seconds).T, strict=True))


def peaks(runs: dict[Run, Callable[[], Any]]) -> dict[Run, int]:
    """Return the most bytes that each run uses in addition to the loaded model."""
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, 1 << 16)  # large blocks are returned, and the peak is that of live tensors
    found = {}
    for run, call in runs.items():
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = resident("VmRSS")
        call()
        found[run] = resident("VmHWM") - before
    return found


def report(llm: BIGRec, batches: Batches, rounds: int, peer: str) -> str:
    network, config = llm.network.eval(), llm.config
    runs = all_runs(network, batches)
    wrong, seconds = differences(runs), timings(runs, rounds)
    memory = peaks(all_runs(network, [largest(batches)]))
    ratios = {run: median(each / seconds[FORWARD]) for run, each in seconds.items()}
    count = sum(len(batch["labels"]) for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    rows = [
        [*run, f"{1000 * median(each) / count:.2f}", f"{ratios[run]:.2f}", f"{memory[run] / 1e6:.0f}", wrong[run]]
        for run, each in seconds.items()
    ]
    columns = ["matrices", "way", "ms a sample", "times the forward pass", "peak, MB", "difference to the loop"]
    return f"""# Effort beside its peers, {Path(config["llm_path"]).name} on {config["dataset"]}

{" ".join(answer(choice, ratios) for choice in CHOICES)}

{common.table(columns, rows)}

Medians of {rounds} rounds with all rows in turn, in float32, on {count} samples in {len(batches)} batches of at most
{config["tokens_per_batch"]} tokens, {tokens / count:.0f} tokens a sample,
{shared_tokens(network, batches) / tokens:.0%} of them in the prefix that the package shares. The forward pass is a
plain one over these batches. The peak is above the loaded model of {network.num_parameters():,} parameters, on the
largest batch. The difference is the greatest relative one of any sample's norm. The matrices are LoRA's of rank
{config["lora_r"]} on {" and ".join(config["lora_target_modules"])}: `all`, or those of the `last` layer; B is random,
since A has no gradient while B is 0.

{EXPLANATION}

{common.header()}, bergson {peer}.
"""


EXPLANATION = f"""\
- The package runs a batch's common prefix once, and computes norms without gradients where that is cheaper.
- bergson's collector forms the gradients of each sample without a random projection. With the package's loss it is as
  cheap as it can be: logits at labelled positions only, and a graph that starts at the first chosen matrices. With its
  own loss it computes all logits, and the graph starts at the embeddings, as bergson's loader sets it.
- vmap of grad runs {CHUNK} samples at a time, with logits at labelled positions only.
- The loop runs forward and backward for each sample, without padding."""


def answer(choice: str, ratios: dict[Run, float]) -> str:
    """Return who is fastest with these matrices, and by how much."""
    times = {way: ratio for (chosen, way), ratio in ratios.items() if chosen == choice}
    first, second = sorted(times, key=times.get)[:2]
    other = second if first == PACKAGE else PACKAGE
    lead = f"`{choice}`: {first} is fastest, at {times[first]:.2f} times the forward pass"
    return f"{lead}; {other} takes {times[other] / times[first]:.2f} times as long."


if __name__ == "__main__":
    main()
