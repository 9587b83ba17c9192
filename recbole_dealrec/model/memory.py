"""Going on with smaller batches where one does not fit into memory."""

from collections.abc import Callable, Sequence
from logging import getLogger
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from recbole_dealrec.distributed import fsdp, processes

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory did not suffice."""
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


def smaller_helps(error: Exception) -> bool:
    """Whether this process can go on after an error with a smaller batch: one of memory, and no other process waits.

    With FSDP the others do, in the middle of the same pass.
    """
    return out_of_memory(error) and not (fsdp.is_requested() and processes.world_size() > 1)


def in_fitting_parts(
    compute: Callable[[Batch], Result],
    batch: Batch,
    size: int,
    cut: Callable[[Batch, slice], Batch],
    join: Callable[[Sequence[Result]], Result],
) -> Result:
    """What ``compute`` gives for a batch, in two halves, and these again, where it runs out of memory.

    Args:
        compute: gives a result for each row.
        batch: the rows.
        size: their number.
        cut: takes some rows of a batch.
        join: puts the results of two halves together.

    Raises:
        Exception: what ``compute`` raises, of memory only if a single row does not fit.
    """
    try:
        return compute(batch)
    except Exception as error:
        if size == 1 or not smaller_helps(error):
            raise
    clear_device_cache(garbage_collection=True)
    half = size // 2
    getLogger().warning(f"a batch of {size} does not fit into memory and is halved")
    parts = (slice(0, half), half), (slice(half, size), size - half)
    return join([in_fitting_parts(compute, cut(batch, rows), count, cut, join) for rows, count in parts])
