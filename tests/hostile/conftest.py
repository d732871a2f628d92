"""Makes the modules of this folder importable without a prefix, as the runner imports them; the runner of its tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from outcomes import MutationRunner


@pytest.fixture(scope="session")
def runner(build_once, tmp_path_factory: pytest.TempPathFactory) -> MutationRunner:
    """The runner of all tests, which knows the results of commands on the intact workspace after the first use of each."""
    from intact import build_intact
    from outcomes import MutationRunner

    return MutationRunner(build_once("hostile", build_intact), tmp_path_factory.mktemp("damaged"))
