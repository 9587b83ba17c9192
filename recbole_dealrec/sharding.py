"""A language model larger than one GPU: its parameters lie in shards, one with each process (PyTorch's FSDP2).

A forward or backward pass needs the shards of all processes, so these have to run as many passes as one another: those
that have less to do repeat some work, see :func:`in_step`. The settings are those of an Accelerate configuration file.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from logging import getLogger
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from recbole_dealrec import processes
from recbole_dealrec.config import Config
from recbole_dealrec.errors import InputError

T = TypeVar("T")


def is_wanted() -> bool:
    """Whether the launcher asked for FSDP, for more than one process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and processes.launched_count() > 1


def check(config: Config) -> None:
    """Refuse settings under which a language model cannot be sharded.

    Raises:
        InputError: they are such.
    """
    if not is_wanted():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("the Accelerate configuration asks for FSDP 1; write fsdp_version: 2 under fsdp_config")
    if not FullyShardedDataParallelPlugin().reshard_after_forward:
        raise InputError("the Accelerate configuration leaves parameters whole; write fsdp_reshard_after_forward: true")
    if config["llm_quantization"]:
        raise InputError("llm_quantization: quantised weights cannot be sharded; leave out it or FSDP")


def shard(network: nn.Module, config: Config) -> None:
    """Leave each process its part of every parameter, in place; nothing without FSDP.

    Args:
        network: the same in all processes, on the CPU.
        config: of the run.
    """
    if not is_wanted():
        return
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=config["device"].type == "cpu", mixed_precision=config["mixed_precision"])
    # Accelerate itself shards on GPUs alone.
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    fsdp2_prepare_model(accelerator, network)
    network.set_reshard_after_forward(True)  # Accelerate leaves some parameters whole, which would then be trained
    parameters = list(network.parameters())
    here, all_together = sum(value.to_local().numel() for value in parameters), sum(map(torch.numel, parameters))
    getLogger().info(f"FSDP: this process keeps {here} of the language model's {all_together} parameters")


def is_sharded(network: nn.Module) -> bool:
    return isinstance(network, FSDPModule)


def whole(value: Any) -> Any:
    """A sharded tensor in one piece, in every process, all of which have to ask for it; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value``, which every process has in one piece, in the shards of ``parameter``."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def in_step(items: Iterable[T], spare: Callable[[], T]) -> Iterator[tuple[T, bool]]:
    """Items of this process with True, then, with FSDP, one of them with False until no process has any left.

    Args:
        items: each stands for the same passes through the model.
        spare: an item for a process that has none.
    """
    if not is_wanted():
        yield from ((item, True) for item in items)
        return
    last = None
    for last in items:  # noqa: B007  it is repeated below
        any_process(True)
        yield last, True
    while any_process(False):
        last = spare() if last is None else last
        yield last, False


def any_process(value: bool) -> bool:
    """Whether ``value`` is true in some process; all have to ask."""
    return any(processes.gather(value))
