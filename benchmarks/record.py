"""Write the results of a benchmark as JSON with date, machine and package versions, and update the tables of docs/backends.md."""

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
PAGE = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
RESULTS = Path(__file__).resolve().parent / "results"

Result = dict[str, Any]


def write_record(path: Path, packages: Iterable[str], result: Result) -> None:
    """Write a result as JSON.

    Args:
        path: The file to write; its folder is created if it does not exist.
        packages: Packages whose versions are recorded; packages that are not installed are left out.
        result: The measurements.
    """
    header = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "packages": {name: metadata.version(name) for name in packages if find_spec(name)},
        "python": platform.python_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(header | result, indent=1) + "\n")


def read_newest(name: str) -> Result | None:
    """The newest result of a benchmark by the date in its file name, or None if there is no result."""
    paths = sorted(RESULTS.glob(f"????-??-??-{name}.json"))
    return dict(json.loads(paths[-1].read_text())) if paths else None


def replace_section(name: str, text: str) -> None:
    """Replace a generated section of docs/backends.md.

    Args:
        name: The section is between the lines `<!-- name: begin -->` and `<!-- name: end -->`.
        text: New content of the section.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def cpu_name() -> str:
    """Model name of the CPU from `/proc/cpuinfo`, or the machine architecture where that file does not exist."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
