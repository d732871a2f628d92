"""Print the version of cifm, without importing it: `python tools/version.py`."""

from __future__ import annotations

import re
from pathlib import Path

VERSION_FILE = Path(__file__).resolve().parent.parent / "cifm_cli" / "version.py"


def read_version() -> str:
    """The version in `cifm_cli/version.py`."""
    (version,) = re.findall(r'^__version__ = "([^"]+)"$', VERSION_FILE.read_text(encoding="utf8"), re.MULTILINE)
    return str(version)


if __name__ == "__main__":
    print(read_version())
