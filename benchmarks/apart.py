"""One measurement, one process: a script runs itself again, and a process says how much memory it took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_again(*words: str, stderr: int | None = None) -> dict[str, Any]:
    """Run the script in a new process, as it was called and with some words more.

    Args:
        words: Added to its command line.
        stderr: As for `subprocess.run`.

    Returns:
        The JSON on the last line that it printed.
    """
    command = [sys.executable, *sys.argv, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory_bytes(key: str = "VmHWM") -> int:
    """A line of this process's status: by default the most memory that it ever had resident. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024
