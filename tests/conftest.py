"""Fixtures shared by every test: the command line in-process, real tissue, a prepared synthetic slide, golden files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two pools on few cores hurt

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

# A shared machine makes any deadline flaky. The suite tries the same examples everywhere, so that what fails on one machine
# fails on all; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew instead of comparing with them")


class Outcome(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def cifm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process: `cifm("inspect", path)` gives (code, out, err)."""

    def run(*argv: object) -> Outcome:
        from cifm_cli.app import main

        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tissue, from CIFM_TEST_DATA or beside the checkout."""
    folder = Path(os.environ.get("CIFM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real tissue in {folder}; set CIFM_TEST_DATA to a folder that has some")
    return folder


@pytest.fixture(scope="session")
def xenium_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic tissue in the layout of a Xenium download."""
    from cifm_cli.synthetic.downloads import write_xenium

    folder = tmp_path_factory.mktemp("download") / "tissue"
    write_xenium(folder, 800, seed=0)
    return folder


@pytest.fixture(scope="session")
def prepared_synthetic(xenium_download: Path) -> Path:
    """The small synthetic tissue, prepared: one `.h5ad` file, alone in its folder."""
    from cifm_cli.app import main

    prepared = xenium_download.parent / "prepared"
    assert main(["prepare", str(xenium_download), "--out", str(prepared)]) == 0
    return prepared / "tissue.h5ad"


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture
def golden(regenerate: bool) -> Callable[[str, object], object]:
    """Give a golden JSON file's content back; under `--regenerate` the file is first written from what was computed."""

    def expected(name: str, computed: object) -> object:
        path = REPOSITORY / "tests" / "golden" / f"{name}.json"
        if regenerate:
            path.write_text(json.dumps(computed, indent=2) + "\n", encoding="utf8")
        return json.loads(path.read_text(encoding="utf8"))

    return expected
