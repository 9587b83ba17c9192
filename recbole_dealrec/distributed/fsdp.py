"""A language model larger than one GPU, its parameters sharded over the processes (PyTorch's FSDP2).

A forward or backward pass needs the shards of all processes, so all have to run the same number of passes: a process
with fewer batches repeats one (``in_lockstep``). The settings come from an Accelerate configuration file.
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

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError

T = TypeVar("T")


def is_requested() -> bool:
    """Return whether the launcher set FSDP and more than one process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and processes.launched_world_size() > 1


def check_settings(quantization: str | None) -> None:
    """Raise InputError if FSDP is requested with settings, or a quantization of the weights, that cannot be sharded."""
    if not is_requested():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("the Accelerate configuration asks for FSDP 1; write fsdp_version: 2 under fsdp_config")
    if not FullyShardedDataParallelPlugin().reshard_after_forward:
        raise InputError("the Accelerate configuration disables resharding; write fsdp_reshard_after_forward: true")
    if quantization:
        raise InputError("llm_quantization: quantised weights cannot be sharded; use either llm_quantization or FSDP")


def shard(network: nn.Module, device_type: str, mixed_precision: str) -> None:
    """Shard every parameter over the processes, in place, if FSDP is requested.

    Args:
        network: the same in all processes, on the CPU.
        device_type: device that it will run on: "cpu" or "cuda".
        mixed_precision: Accelerate's name of the precision: "no", "bf16", ...
    """
    if not is_requested():
        return
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device_type == "cpu", mixed_precision=mixed_precision)
    # Accelerate itself shards on GPUs only.
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    fsdp2_prepare_model(accelerator, network)
    network.set_reshard_after_forward(True)  # otherwise Accelerate leaves some parameters unsharded
    parameters = list(network.parameters())
    local, total = sum(value.to_local().numel() for value in parameters), sum(map(torch.numel, parameters))
    getLogger().info(f"FSDP: this process keeps {local} of the language model's {total} parameters")


def is_sharded(network: nn.Module) -> bool:
    """Return whether ``shard`` has sharded the network."""
    return isinstance(network, FSDPModule)


def full_tensor(value: Any) -> Any:
    """Return the full tensor of a sharded one, in every process (a collective); anything else unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a full tensor, the same in every process, on the device and in the dtype and shards of ``parameter``."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def in_lockstep(items: Iterable[T], spare: Callable[[], T]) -> Iterator[tuple[T, bool]]:
    """Yield this process's items with True, then, with FSDP, the last one with False until every process has finished.

    Args:
        items: batches, each with the same number of passes through the model.
        spare: returns an item for a process without any.
    """
    if not is_requested():
        yield from ((item, True) for item in items)
        return
    last = None
    for last in items:  # noqa: B007  repeated below
        any_process(True)
        yield last, True
    while any_process(False):
        last = spare() if last is None else last
        yield last, False


def any_process(value: bool) -> bool:
    """Return whether ``value`` is true in any process (a collective)."""
    return any(processes.gather(value))
