"""The processes of one run: what they tell one another, and what becomes of the others when one dies.

Every process runs the same program on the same data; only the main one, number 0, writes to the run folder. Launchers
(torchrun, accelerate, ``--nproc``) set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as accelerate reads them.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from recbole_dealrec.errors import InputError

T = TypeVar("T")
# The main process may train a surrogate for hours while the others wait; a process that died is noticed by the watch.
_FOREVER = timedelta(days=365)
_GRACE = 5  # seconds in which a process can say itself why it ends

_DONE, _FAILED = 1.0, 0.0  # last messages
_GOES_ON = "the same command goes on from here"

_alone = threading.local()


def launched_number() -> int:
    """This process among those of the launcher, 0 without one; known before they are joined."""
    return int(os.environ.get("RANK", 0))


def launched_local_number() -> int:
    """This process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def launched_local_count() -> int:
    """How many processes the launcher started on this machine, 1 without one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def launched_count() -> int:
    """How many processes the launcher started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def count() -> int:
    """Processes that work together at this point of the program."""
    joined = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if joined and not getattr(_alone, "yes", False) else 1


def number() -> int:
    """This process among ``count``."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this process writes."""
    return number() == 0


def gather(value: T) -> list[T]:
    """Every process's value, in the order of their numbers, in every process."""
    if count() == 1:
        return [value]
    values: list = [None] * count()
    with _collective():
        dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """The main process's value, in every process."""
    if count() == 1:
        return value
    values = [value]
    with _collective():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_parameters(network: nn.Module) -> None:
    """Give what trains of a network the main process's values."""
    if count() > 1:
        for parameter in network.parameters():
            if parameter.requires_grad:
                with _collective():
                    dist.broadcast(parameter.data, src=0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their sums over the processes; one that is missing counts as zero."""
    if count() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _collective():
        dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def on_main(compute: Callable[[], T]) -> T:
    """What ``compute`` gives in the main process, which works alone meanwhile; the others wait for it.

    Raises:
        InputError: ``compute`` raised it, in every process.
    """
    if count() == 1:
        return compute()
    value, error = None, None
    if is_main():
        _alone.yes = True
        try:
            value = compute()
        except InputError as raised:
            error = raised
        finally:
            _alone.yes = False
    value, error = broadcast((value, error))
    if error:
        raise error
    return value


@contextmanager
def _collective() -> Iterator[None]:
    """Lets the watch, which knows which process has died, end this one before an error of the connection does."""
    try:
        yield
    except RuntimeError:
        time.sleep(2 * _GRACE)
        raise


@contextmanager
def joined(cpu: bool) -> Iterator[None]:
    """Work together with the other processes of the launcher, if there are any; ends this one if another dies.

    Args:
        cpu: whether the processes compute on CPUs (gloo) rather than GPUs (nccl).
    """
    if launched_count() == 1 or count() > 1:
        yield
        return
    if not cpu:
        torch.cuda.set_device(launched_local_number())
    dist.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=_FOREVER)
    watch = _Watch()
    try:
        yield
    except BaseException:
        watch.leave(_FAILED)
        raise
    else:
        watch.leave(_DONE)
    finally:
        dist.destroy_process_group()


class _Watch:
    """Ends this process, even one that is waiting for another, when that one has died or a signal asks for it.

    A thread waits for a last message from each watched process: the main process watches all others, they watch the
    main one. A process that was killed sends none, and its connections break. Another thread reads the signals that
    come, which Python would not look at before the wait is over.
    """

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo", timeout=_FOREVER)
        self.peers = range(1, count()) if is_main() else [0]
        self.left = False
        self.threads = [self._start(self._wait, peer) for peer in self.peers]
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._signals = self._start(self._obey)

    def leave(self, word: float) -> None:
        """Send the last message and wait for those of the others: for ever if all is well, else for a while."""
        self.left = True
        for peer in self.peers:
            with suppress(RuntimeError):  # it died
                self._send(peer, word)
        for thread in self.threads:
            thread.join(None if word == _DONE else _GRACE)
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        os.close(self._writing)
        self._signals.join(_GRACE)

    def _start(self, work: Callable, *arguments: int) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread

    def _send(self, peer: int, word: float) -> None:
        dist.send(torch.tensor([word]), peer, self.group)

    def _wait(self, peer: int) -> None:
        word = torch.tensor([_FAILED])
        try:
            dist.recv(word, peer, self.group)
            if word == _DONE or self.left:
                return
            self._send(peer, _FAILED)  # it waits for an answer
        except RuntimeError:
            pass
        time.sleep(_GRACE)
        self._stop(f"error: process {peer} has ended early, so this one stops; {_GOES_ON}", 1)

    def _obey(self) -> None:
        while received := os.read(self._reading, 1):
            if received[0] == signal.SIGTERM:
                self._stop(f"error: told to stop, as when another process has ended early; {_GOES_ON}", 143)
            elif received[0] == signal.SIGINT:
                time.sleep(_GRACE)
                self._stop(f"interrupted; {_GOES_ON}", 130)
        os.close(self._reading)

    def _stop(self, line: str, code: int) -> None:
        if not self.left:
            print(line, file=sys.stderr, flush=True)
            os._exit(code)
