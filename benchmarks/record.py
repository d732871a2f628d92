"""What a benchmark leaves: what was found, under the day, the machine and the versions it was found with; and the README."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

CPU_INFO = Path("/proc/cpuinfo")
README = Path(__file__).resolve().parent.parent / "README.md"
RESULTS = Path(__file__).resolve().parent / "results"

Result = dict[str, Any]


def write_record(path: Path, packages: Iterable[str], found: Result) -> None:
    """Write a result as JSON.

    Args:
        path: The file; its folder is made if missing.
        packages: Whose versions matter; those that are not installed are left out.
        found: What was measured.
    """
    header = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "packages": {name: metadata.version(name) for name in packages if find_spec(name)},
        "python": platform.python_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(header | found, indent=1) + "\n")


def newest(name: str) -> Result | None:
    """The latest result of a benchmark, by the date in front of its name."""
    paths = sorted(RESULTS.glob(f"????-??-??-{name}.json"))
    return dict(json.loads(paths[-1].read_text())) if paths else None


def write_between(mark: str, text: str) -> None:
    """Put a text between two marks of the README.

    Args:
        mark: The README holds `<!-- mark: begin -->` and `<!-- mark: end -->`.
        text: What stands between them from now on.
    """
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, _, rest = README.read_text().partition(begin)
    README.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def cpu_name() -> str:
    """As the kernel calls it; Python knows the architecture at best."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
