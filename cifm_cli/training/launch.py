"""Starting the processes of a training run on this machine, and watching over them: one clear end, whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from cifm_backends import BackendUnavailableError
from cifm_cli.errors import CifmError, StopRequested, raising_on_stop_signals
from cifm_cli.training import loop
from cifm_cli.training.distributed import LostContactError, check_shares, find_meeting_point, find_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from types import FrameType

    from cifm_cli.training.session import Setup

GRACE = 20.0  # seconds that the others have to end by themselves when one has failed
DONE, STOPPED, FAILED, LOST = "done", "stopped", "failed", "lost"


@dataclass
class Worker:
    """A training process, the end of a pipe to it, and what came out of that.

    Args:
        rank: Its number among all.
        process: The process.
        pipe: Where it says how it ended.
        ended: `(how, ...)` as `_end` says it; None while it runs, or where it could not say.
    """

    rank: int
    process: BaseProcess
    pipe: Connection
    ended: tuple[Any, ...] | None = None


def launch(setup: Setup) -> dict[str, Any] | None:
    """Train with as many processes as are asked for; they are started here unless torchrun or srun has done so.

    Args:
        setup: What to train, on what, and where to.

    Returns:
        What `loop.train` returns; None in all processes but the first.

    Raises:
        CifmError: The processes that are asked for are not the ones that are there, or one of them failed.
        BackendUnavailableError: There is no such backend here.
    """
    place, devices = find_place(os.environ), setup.devices or 1
    wanted = devices * setup.nodes
    if place.size > 1 and devices > 1 and place.size == setup.nodes and "RANK" not in os.environ:
        return _watch(_start(setup, devices, place.rank))  # srun started one task on each machine
    if place.size > 1 and wanted not in (place.size, 1):
        raise CifmError(
            f"--devices {devices} on --nodes {setup.nodes} makes {wanted} processes, and {place.size} were started",
            "start one task for each device, or leave --devices and --nodes away",
        )
    if place.size == 1 and setup.nodes > 1:
        raise CifmError(
            f"--nodes {setup.nodes}: this is one process on one machine",
            "start it on every machine: srun cifm train ..., or torchrun --nnodes N ... -m cifm_cli train ...",
        )
    if place.size == 1 and devices > 1:
        return _watch(_start(setup, devices, 0))
    result = loop.train(setup)
    return result if place.rank == 0 else None


def _start(setup: Setup, devices: int, node: int) -> list[Worker]:
    """Start the processes of this machine; each gets its share of the threads."""
    check_shares(setup.recipe.train.tiles_per_step, devices * setup.nodes)
    context = get_context("spawn")  # a fork of a process with threads may hang
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack of C++ frames when a process goes away
    host, _, port = find_meeting_point(os.environ).removeprefix("tcp://").rpartition(":")
    meeting = {"MASTER_ADDR": host, "MASTER_PORT": port if setup.nodes > 1 else str(_free_port())}
    workers = []
    for number in range(devices):
        rank = node * devices + number
        place = {"RANK": rank, "WORLD_SIZE": devices * setup.nodes, "LOCAL_RANK": number}
        mine, theirs = context.Pipe(duplex=False)
        environment = {name: str(value) for name, value in place.items()} | meeting
        threads = max(1, torch.get_num_threads() // devices)
        process = context.Process(target=_work, args=(setup, environment, threads, theirs), name=f"cifm-{rank}")
        process.start()
        theirs.close()
        workers.append(Worker(rank, process, mine))
    return workers


def _work(setup: Setup, environment: Mapping[str, str], threads: int, pipe: Connection) -> None:
    """What a process does. A bug keeps its traceback, which multiprocessing prints."""
    os.environ.update(environment)
    torch.set_num_threads(threads)
    Thread(target=_follow_parent, daemon=True).start()
    with suppress(BrokenPipeError):  # who started us is gone
        pipe.send(_end(setup))


def _end(setup: Setup) -> tuple[Any, ...]:
    """Train, and say how that ended."""
    try:
        with raising_on_stop_signals():
            return DONE, loop.train(setup)
    except LostContactError as error:
        return LOST, error.message, error.hint
    except CifmError as error:
        return FAILED, error.message, error.hint
    except BackendUnavailableError as error:
        return FAILED, str(error), "see which backends work here with `cifm backends`"
    except KeyboardInterrupt:
        return STOPPED, KeyboardInterrupt
    except StopRequested:
        return STOPPED, StopRequested


def _follow_parent() -> None:
    """Stop as politely as after SIGTERM when the process that started us is killed."""
    parent = parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _watch(workers: Sequence[Worker]) -> dict[str, Any] | None:
    """Wait for the end of all; when one fails, the others follow it soon."""
    latest = float("inf")
    with _passing_signals_on(workers) as passed_on:
        while running := [worker for worker in workers if worker.process.is_alive()]:
            connection.wait([worker.process.sentinel for worker in running], timeout=1.0)
            for worker in workers:
                _hear(worker)
                if worker.process.exitcode is not None and (worker.ended or (FAILED,))[0] != DONE:
                    latest = min(latest, time.monotonic() + GRACE)
            if time.monotonic() > latest:
                for worker in running:
                    worker.ended = worker.ended or (LOST, "stopped because another training process failed", "")
                    worker.process.kill()
    for worker in workers:
        if passed_on and worker.ended is None:  # the signal came before the process could take it
            worker.ended = (STOPPED, KeyboardInterrupt if passed_on[0] == signal.SIGINT else StopRequested)
    return _conclude(workers)


def _hear(worker: Worker) -> None:
    """Take what a process said; one that is gone has closed its end."""
    try:
        if worker.ended is None and worker.pipe.poll():
            worker.ended = worker.pipe.recv()
    except EOFError:
        return


def _conclude(workers: Sequence[Worker]) -> dict[str, Any] | None:
    """The one outcome of all: what went wrong first and foremost, or the first process's result."""
    for worker in workers:
        if worker.ended is None and worker.process.exitcode:
            code = worker.process.exitcode
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else "ended with the error above"
            hint = "the last state is whole: go on with --resume" + ("; was the memory used up?" if code < 0 else "")
            raise CifmError(f"training process {worker.rank} {how}", hint)
    ends = {worker.ended[0]: worker for worker in reversed(workers) if worker.ended}
    if STOPPED in ends and FAILED not in ends:
        raise (ends[STOPPED].ended or ())[1]
    for how in (FAILED, LOST):
        if how in ends:
            _, message, hint = ends[how].ended or ()
            raise CifmError(message, hint)
    first = ends[DONE]
    return (first.ended or ())[1] if first.rank == 0 else None


@contextmanager
def _passing_signals_on(workers: Sequence[Worker]) -> Iterator[list[int]]:
    """Within the block a signal that asks us to stop goes to every process instead; they stop after a whole step.

    Yields:
        The signals that were passed on.
    """
    passed_on: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        passed_on.append(number)
        for worker in workers:
            if worker.process.pid and worker.process.is_alive():
                os.kill(worker.process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in loop.STOPS}
    try:
        yield passed_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
