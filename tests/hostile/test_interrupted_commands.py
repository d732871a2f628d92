"""A command that is stopped at random moments, and that runs twice at once; `run_kills.py` and `run_pairs.py` try all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from example_counts import num_examples

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_nothing_is_lost_or_mixed() -> None:
    """In a process of its own: commands are forked from it, which is safe only without other threads."""
    counts = [f"--count={num_examples(3, thorough=30)}", f"--pairs={num_examples(1, thorough=10)}"]
    roots = [str(HERE.parents[1]), str(HERE.parents[1] / "backends")]
    done = subprocess.run(
        [sys.executable, HERE / "run_kills.py", "--only=probe", *counts],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
