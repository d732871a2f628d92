"""The process that writes a file, and whether it has ended. Names of files that are not complete contain it."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

_FORM: Final = re.compile(r"([0-9a-f]{6})-([0-9]+)-([0-9]+)")
PATTERN: Final = "[0-9a-f]{6}-[0-9]+-[0-9]+"
"""Regular expression of `Owner.encode`."""


@dataclass(frozen=True)
class Owner:
    """A process on some machine."""

    machine: str  # six hexadecimal digits of a hash of the host, and of the container if there is one
    pid: int  # number of the process
    started: int  # time at which it was started, as numbers are used again; 0 where the system does not tell it

    @classmethod
    def current(cls) -> Self:
        """This process."""
        return cls(_machine(), os.getpid(), _start_time(os.getpid()) or 0)

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """The owner that `encode` turned into a text; None for any other text."""
        match = _FORM.fullmatch(text)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    def encode(self) -> str:
        """A text of letters, digits and hyphens."""
        return f"{self.machine}-{self.pid}-{self.started}"

    def is_here(self) -> bool:
        """Whether the process is one of this machine, so that `has_ended` can tell."""
        return self.machine == _machine()

    def has_ended(self) -> bool:
        """Whether the process is known to have ended: False for one that runs, and for one of another machine."""
        if not self.is_here() or not hasattr(os, "getuid"):  # on Windows, signal 0 would end the process
            return False
        started = _start_time(self.pid)
        if started is not None:
            # A process with another start time has got the number of one that has ended.
            return self.started not in (0, started)
        try:
            os.kill(self.pid, 0)  # sends nothing
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # a process of another user
            return False
        return _is_defunct(self.pid)


@cache
def _machine() -> str:
    """Hash of the host, and on Linux of its last start and of the space of process numbers, as containers have their own."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:6]


def _start_time(pid: int) -> int | None:
    """Start of a running process in clock ticks since the start of the system; None if unknown, or if it has ended."""
    fields = _status(pid)
    # A defunct process has ended, but its parent has not asked for its exit code yet.
    return int(fields[19]) if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def _is_defunct(pid: int) -> bool:
    return _status(pid)[:1] in (["Z"], ["X"])


def _status(pid: int) -> list[str]:
    """Fields of `/proc/PID/stat` from the third on (man proc_pid_stat); empty where there is no such file."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf8", errors="replace")
    except OSError:
        return []
    return content.rpartition(")")[2].split()  # the second field, the name, may contain spaces and brackets
