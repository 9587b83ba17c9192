"""The most memory that this process holds while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

_SECONDS = 0.02  # between two looks at the resident memory
_MIB = 1 << 20


@contextmanager
def watched_memory() -> Iterator[Callable[[], dict[str, float]]]:
    """Watch the memory until the block ends; give a function that returns the peaks so far, in MiB by name.

    ``resident`` is what of the process lies in RAM, libraries and what earlier steps left there included; a thread
    looks at it 50 times a second. ``gpu``, only where CUDA is in use, is what PyTorch had allocated on this process's
    GPU at most, by PyTorch's own account.
    """
    process, ended, highest = psutil.Process(), threading.Event(), [0]

    def look() -> None:
        highest[0] = max(highest[0], process.memory_info().rss)

    def watch() -> None:
        while not ended.wait(_SECONDS):
            look()

    def peaks() -> dict[str, float]:
        look()
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
