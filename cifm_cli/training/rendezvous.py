"""How the processes of a training find each other: their ranks, the address of the first one, and the wait for all.

torchrun, srun and `cifm train --devices` set variables of the environment. Those of srun are also set where nothing else
was started: in an interactive step, or for a task that is started by hand.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch._C._distributed_c10d import Store, TCPStore

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S: Final = 60.0
"""How long a process waits for the next one to appear, unless the environment variable below says otherwise."""
TIMEOUT_VARIABLE: Final = "CIFM_JOIN_TIMEOUT_S"
ALONE: Final = "to train in this process alone, add --single-process"

_TELL_AFTER_S: Final = 5.0
_POLL_S: Final = 0.1
_CONNECT_TIMEOUT: Final = timedelta(seconds=20)  # of a host that answers
_COUNTER: Final = "joined"
_DEFAULT_PORTS: Final = range(20_000, 40_000)


@dataclass(frozen=True)
class Rank:
    """Number of a process among those that train together."""

    rank: int = 0  # number among all processes
    size: int = 1  # number of processes
    local_rank: int = 0  # number among the processes of this machine, which is also the number of its GPU


class Address(NamedTuple):
    """Where the first process waits for the others."""

    host: str
    port: int


def find_rank(environment: Mapping[str, str]) -> Rank:
    """Read the rank from the variables that torchrun, srun or `cifm train --devices` set.

    Args:
        environment: `os.environ`.

    Returns:
        The rank; that of a single process where no variable is set.

    Raises:
        CifmError: A variable is missing, is no number, or contradicts another one.
    """
    rank, size = (_integer(environment, name) for name in ("RANK", "WORLD_SIZE"))
    # torchrun inside of a SLURM job sets its own variables, which take precedence.
    if rank is not None and size is not None:
        return _checked(Rank(rank, size, _integer(environment, "LOCAL_RANK") or 0), "RANK", "WORLD_SIZE")
    if (size or 1) > 1 or (rank or 0) > 0:
        present, missing = ("RANK", "WORLD_SIZE") if size is None else ("WORLD_SIZE", "RANK")
        raise CifmError(
            f"{present}={environment[present]} is set without {missing}", f"start with torchrun or srun; {ALONE}"
        )
    # The number of tasks of the step, not of the job: a script that sbatch runs without srun is one process.
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    if (_integer(environment, names[1]) or 1) == 1:
        return Rank()
    numbers = {name: _integer(environment, name) for name in names}
    absent = [name for name, number in numbers.items() if number is None]
    if absent:
        raise CifmError(f"{names[1]}={environment[names[1]]} is set without {', '.join(absent)}", f"use srun; {ALONE}")
    return _checked(Rank(*(number or 0 for number in numbers.values())), names[0], names[1])


def find_address(environment: Mapping[str, str]) -> Address:
    """Address at which the first process waits for the others.

    Args:
        environment: `os.environ`. MASTER_ADDR and MASTER_PORT take precedence over the variables of SLURM.

    Returns:
        The address.

    Raises:
        CifmError: MASTER_PORT is not the number of a port.
    """
    host = environment.get("MASTER_ADDR") or first_node(environment.get("SLURM_STEP_NODELIST") or "127.0.0.1")
    port = _integer(environment, "MASTER_PORT")
    if port is None:
        # Every process computes the same port, without messages, from the numbers of job and step.
        numbers = [environment.get(name) or "" for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
        number = sum(int(text) for text in numbers if text.isdecimal())
        port = _DEFAULT_PORTS[number % len(_DEFAULT_PORTS)]
    if not 0 < port < 1 << 16:
        raise CifmError(f"MASTER_PORT={port} is not a port", "set it to a number from 1024 to 65535")
    return Address(host, port)


def first_node(nodes: str) -> str:
    """The first name of a SLURM node list, such as `gpu03` of `gpu[03-05,09],cpu1`."""
    # Commas inside of brackets separate numbers, not names.
    name, bracket, numbers = re.split(r",(?![^\[]*\])", nodes)[0].partition("[")
    return name + re.split(r"[-,\]]", numbers)[0] if bracket else name


def meet(this: Rank, address: Address) -> Store:
    """Wait until all processes of a training have appeared. Signals are obeyed while this process waits.

    Args:
        this: The rank of this process; there are several processes.
        address: Where the first process waits.

    Returns:
        The store through which the processes connect to each other.

    Raises:
        CifmError: The port is taken, or for `JOIN_TIMEOUT_S` no further process has appeared.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore  # some builds of torch lack it

    # torchrun keeps the store in a process of its own, also for a second attempt.
    hosts_store = this.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        if hosts_store:
            store = _open_store(address)
        else:
            _wait_for_port(this, address)
            store = TCPStore(*address, is_master=False, timeout=_CONNECT_TIMEOUT)
        joined = PrefixStore(f"cifm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        joined.add(_COUNTER, 1)
        _wait(this, address, lambda: joined.add(_COUNTER, 0))
    except RuntimeError as error:
        raise CifmError(f"no contact with the training process at {address.host}:{address.port}", _hint()) from error
    return joined


def _open_store(address: Address) -> TCPStore:
    """The store of the first process, at a port of this machine."""
    from torch._C._distributed_c10d import TCPStore

    # Asked first, as torch's own message about a taken port is long and the server would wait for it.
    try:
        with socket.create_server(("", address.port)):
            pass
    except OSError as error:
        raise CifmError(
            f"port {address.port} of this machine is taken, at which the training processes meet",
            f"set MASTER_PORT to another port, for all processes alike; {ALONE}",
        ) from error
    return TCPStore("127.0.0.1", address.port, is_master=True, wait_for_workers=False)


def _wait_for_port(this: Rank, address: Address) -> None:
    """Wait until the first process listens."""

    def connects() -> int:
        """The number of processes that are known to be there: all, as the next step counts them."""
        try:
            with socket.create_connection(address, timeout=2.0):
                return this.size
        except OSError:  # not yet, or the host is unknown
            return 1

    _wait(this, address, connects)


def _wait(this: Rank, address: Address, count: Callable[[], int]) -> None:
    """Wait until all processes are there, with a message after some seconds and an error after a minute."""
    limit, known = _timeout(), 1
    started = since_last = time.monotonic()
    told = False
    while (present := count()) < this.size:
        now = time.monotonic()
        if present > known:
            known, since_last = present, now
        waiting = f"{this.size - present} of {this.size} processes"
        if now - since_last > limit:
            raise CifmError(
                f"{waiting} did not appear at {address.host}:{address.port} within {limit:.0f} seconds", _hint()
            )
        if not told and now - started > _TELL_AFTER_S:
            logger.info(f"waiting for {waiting} at {address.host}:{address.port}; {ALONE}")
            told = True
        time.sleep(_POLL_S)


def _hint() -> str:
    return f"start all processes at once, with srun or torchrun (and MASTER_ADDR, on several machines); {ALONE}"


def _timeout() -> float:
    return float(_integer(os.environ, TIMEOUT_VARIABLE) or JOIN_TIMEOUT_S)


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    """A variable as a number; None if it is empty or not set."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    # More digits than any of these numbers has; Python refuses to convert thousands of them.
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise CifmError(
            f"the environment variable {name}={text[:40]!r} is not a number", f"correct or unset it; {ALONE}"
        )
    return int(text)


def _checked(rank: Rank, rank_name: str, size_name: str) -> Rank:
    if not rank.rank < rank.size:
        raise CifmError(
            f"{rank_name}={rank.rank} is not below {size_name}={rank.size}", f"start with torchrun or srun; {ALONE}"
        )
    return rank
