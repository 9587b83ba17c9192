"""The most memory that this process holds while something runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_SECONDS = 0.02  # between two looks at the resident memory
_MIB = 1 << 20


class PeakMemory:
    """Peaks between one ``take`` and the next.

    ``resident`` is what of the process lies in RAM, libraries and what earlier stages left there included; a thread
    looks at it 50 times a second while something is ``watched``. ``gpu`` is what PyTorch had allocated on this
    process's GPU at most, by PyTorch's own account.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._resident = 0
        self._watched = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def take(self) -> dict[str, float]:
        """Peaks in MiB by name since the last call; ``gpu`` only where CUDA is in use."""
        self._look()
        with self._lock:
            peaks, self._resident = {"resident": self._resident}, 0
        if torch.cuda.is_initialized():
            peaks["gpu"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        return {name: round(size / _MIB, 1) for name, size in peaks.items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Looks at the memory until the block ends; blocks inside share one thread."""
        self._watched += 1
        thread = None
        if self._watched == 1:
            self._ended.clear()
            thread = threading.Thread(target=self._watch, daemon=True)
            thread.start()
        try:
            yield
        finally:
            self._watched -= 1
            if thread:
                self._ended.set()
                thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        with self._lock:
            self._resident = max(self._resident, self._process.memory_info().rss)
