"""Peak memory of this process during a step."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch

_SECONDS = 0.02  # between two samples of the resident memory
_MIB = 1 << 20
_NAMES = {"resident": "RAM", "gpu": "GPU"}


@contextmanager
def peak_memory() -> Iterator[Callable[[], dict[str, float]]]:
    """Yield a function that returns the peaks since the block began, in MiB by name.

    ``resident`` is the resident set size of the process, libraries and leftovers of earlier steps included, sampled by
    a thread 50 times a second. ``gpu``, present if CUDA is in use, is PyTorch's peak allocation on this process's GPU.
    """
    process, ended, highest = psutil.Process(), threading.Event(), [0]

    def sample() -> None:
        highest[0] = max(highest[0], process.memory_info().rss)

    def watch() -> None:
        while not ended.wait(_SECONDS):
            sample()

    def peaks() -> dict[str, float]:
        sample()
        found = {"resident": highest[0]}
        if torch.cuda.is_initialized():
            found["gpu"] = torch.cuda.max_memory_allocated()
        return {name: round(size / _MIB, 1) for name, size in found.items()}

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def memory_text(memory: Mapping[str, float]) -> str:
    """Return peaks in words; ``memory`` is in MiB by name, as ``peak_memory`` gives them."""
    return ", ".join(f"{_NAMES[kind]} {size / 1024:.1f} GiB" for kind, size in memory.items())
