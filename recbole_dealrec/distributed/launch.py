"""RecBole's options for several processes: ``--nproc``, ``--world_size``, ``--ip``, ``--port``, ``--group_offset``."""

import logging
import os
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recbole_dealrec.errors import InputError


def launch(script: str, arguments: Sequence[str], nproc: int, world_size: int, ip: str, port: int, offset: int) -> int:
    """Run a script in several processes, as torchrun does, and wait for them.

    Args:
        script: path of the script.
        arguments: its arguments, without the options for several processes.
        nproc: processes on this machine.
        world_size: processes on all machines, each of which has ``nproc``; below 1: ``nproc``.
        ip: address of the machine with offset 0.
        port: free port there.
        offset: rank of this machine's first process.

    Returns:
        Exit code: 0, that of the process that failed first (1 if it was killed), or 128 + the received signal.

    Raises:
        InputError: ``nproc``, ``world_size`` and ``offset`` contradict each other.
    """
    world_size = world_size if world_size > 0 else nproc
    if nproc < 1 or world_size % nproc or offset % nproc or not 0 <= offset < world_size:
        raise InputError(
            f"--nproc={nproc}, --world_size={world_size}, --group_offset={offset}: every machine runs nproc of the "
            "world_size processes, and group_offset is 0, nproc, 2 nproc, ..."
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes log their own errors
    try:
        elastic_launch(_launch_config(nproc, world_size, ip, port, offset), sys.executable)("-u", script, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} was killed by signal {-failure.exitcode}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        print(f"stopped by signal {error.sigval:d}; run the same command again to resume", file=sys.stderr)
        return 128 + error.sigval
    return 0


def _launch_config(nproc: int, world_size: int, ip: str, port: int, offset: int) -> LaunchConfig:
    """Return torchrun's configuration with a static rendezvous and no restarts."""
    nodes = world_size // nproc
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=nproc,
        run_id="recbole-dealrec",
        rdzv_backend="static",
        rdzv_endpoint=f"{ip}:{port}",
        rdzv_configs={"rank": offset // nproc, "timeout": 900},
        max_restarts=0,
        monitor_interval=1,
    )
