"""A function in several processes, as torchrun would start them, forked from one that has imported everything."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from torch.distributed import TCPStore


def in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what the function returned, or the exception that it raised, in each of so many processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flashtrader.training.loop", "torch._dynamo"])
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_as_rank, args=(rank, size, agent.port, sender, function, arguments))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    answers = [
        receiver.recv() if receiver.poll(60) else TimeoutError(f"rank {rank}")
        for rank, (receiver, _) in enumerate(pipes)
    ]
    for process in processes:
        process.join(10)
        process.kill()
    return answers


def _as_rank(
    rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    try:
        sender.send(function(*arguments))
    except Exception as error:
        sender.send(error)
