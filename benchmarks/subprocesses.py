"""Run a benchmark script again in a new process, so that each measurement has its own memory and caches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_self(*arguments: str, stderr: int | None = None) -> dict[str, Any]:
    """Run the current script in a new process with its own command line and additional arguments.

    Args:
        arguments: Added to the command line of this process.
        stderr: As for `subprocess.run`.

    Returns:
        The JSON object on the last line of its stdout.
    """
    command = [sys.executable, *sys.argv, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory_bytes(key: str = "VmHWM") -> int:
    """A memory size from `/proc/self/status`, by default the peak of the resident memory of this process. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024
