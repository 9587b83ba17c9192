"""The processes of one run and the collectives between them.

Every process runs the same program on the same data; only rank 0, the main process, writes to the run folder. Launchers
(torchrun, accelerate, ``--nproc``) set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. When a process dies, the
launcher's agent ends the others on its machine; those on other machines fail in their next collective.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from recbole_dealrec.errors import InputError

T = TypeVar("T")
_TIMEOUT = timedelta(days=365)  # the others wait while the main process trains a surrogate, which may take hours
_AGENT_SECONDS = 10  # more than an agent needs to notice that a process has ended

_solo = threading.local()


def launched_rank() -> int:
    """Return this process's rank as set by the launcher, 0 without one."""
    return int(os.environ.get("RANK", 0))


def launched_local_rank() -> int:
    """Return this process's rank on its machine as set by the launcher, 0 without one."""
    return int(os.environ.get("LOCAL_RANK", 0))


def launched_local_world_size() -> int:
    """Return the number of processes that the launcher started on this machine, 1 without one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def launched_world_size() -> int:
    """Return the number of processes that the launcher started on all machines, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def world_size() -> int:
    """Return the number of processes in the group: 1 outside ``process_group`` and inside ``on_main``."""
    together = dist.is_available() and dist.is_initialized() and not getattr(_solo, "active", False)
    return dist.get_world_size() if together else 1


def rank() -> int:
    """Return the rank of this process, below ``world_size()``."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this process has rank 0."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Return the values of all processes by rank, in every process."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    with _collective():
        dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return the main process's value, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    with _collective():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_parameters(network: nn.Module) -> None:
    """Copy the main process's trainable parameters to every process."""
    if world_size() > 1:
        for parameter in network.parameters():
            if parameter.requires_grad:
                with _collective():
                    dist.broadcast(parameter.data, src=0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their sums over the processes; None counts as zero."""
    if world_size() == 1:
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
    """Call ``compute`` only in the main process, and return its result, or raise its InputError, in every process."""
    if world_size() == 1:
        return compute()
    value, error = None, None
    if is_main():
        _solo.active = True
        try:
            value = compute()
        except InputError as raised:
            error = raised
        finally:
            _solo.active = False
    value, error = broadcast((value, error))
    if error:
        raise error
    return value


@contextmanager
def process_group(cpu: bool) -> Iterator[None]:
    """Join the process group of the launcher, if there is one, until the block ends.

    Args:
        cpu: whether the processes compute on CPUs (gloo) rather than GPUs (nccl).
    """
    if launched_world_size() == 1 or world_size() > 1:
        yield
        return
    if not cpu:
        torch.cuda.set_device(launched_local_rank())
    dist.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    try:
        yield
        gather(None)  # leaving earlier would break the connections of a process still in a collective
    finally:
        dist.destroy_process_group()


@contextmanager
def _collective() -> Iterator[None]:
    """Raise RuntimeError if another process ends during a collective.

    Before that, wait for the agent to end this process with the exit code of the one that failed first. Agents of other
    machines do not do so, because agents do not watch one another (static rendezvous).
    """
    try:
        yield
    except RuntimeError as error:
        time.sleep(_AGENT_SECONDS)
        raise RuntimeError(
            f"another process has ended early, so this one stops; run the same command again to resume ({error})"
        ) from error
