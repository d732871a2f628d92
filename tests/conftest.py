"""Configuration and fixtures of the whole test suite.

Fixtures run the command line in this process, locate the real tissue, and provide a prepared synthetic slide and the golden
files. The suite runs in one process (`pytest`) or in one worker process per core (`pytest -n auto`, which `nox -s tests`
uses); everything that is expensive to make is made once per run with `build_once`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# Set before torch is imported. The workers already occupy the cores, and several thread pools on few cores slow each
# other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jinja2
import pytest
from filelock import FileLock
from hypothesis import settings
from page_laws import broken_laws

from cifm_cli.path_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cifm_cli.data.slide import Slide

    BuildOnce = Callable[[str, Callable[[Path], object]], Path]

# Deadlines would fail at random on a machine that runs other programs. The "suite" profile tries the same examples on every
# machine, so that a failure can be repeated, and few of them; `pytest --hypothesis-profile=thorough` tries more of the same,
# and `--hypothesis-profile=explore` draws new ones.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=300)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=100)
settings.load_profile("suite")

NUM_THREADS = int(os.environ["OMP_NUM_THREADS"])
REPOSITORY = Path(__file__).resolve().parent.parent
BLANK_PNG = base64.b64decode(  # one white pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="
)
MAX_WORKERS = 8  # a worker imports torch and collects all tests, which takes longer than it saves beyond this number


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite the golden files instead of comparing with them"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Number of worker processes for `-n auto`: one per core, none when golden files are rewritten."""
    if config.getoption("--regenerate"):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--regenerate") and config.getoption("numprocesses", 0):
        raise pytest.UsageError("--regenerate writes golden files from a single process: add -n 0")


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    """Fail a test that leaves torch with another number of threads: sums of later tests would depend on the order."""
    yield
    if torch := sys.modules.get("torch"):
        threads = torch.get_num_threads()
        torch.set_num_threads(NUM_THREADS)
        assert threads == NUM_THREADS, f"the test leaves torch with {threads} threads instead of {NUM_THREADS}"


@pytest.fixture(autouse=True, scope="session")
def pages_obey_laws() -> Iterator[None]:
    """Fail a test in which a page is written that breaks one of the laws of `page_laws`.

    Where CIFM_KEEP_PAGES names a folder, all pages are kept there, for the tests in a browser.
    """
    render = jinja2.Template.render

    def checked(template: jinja2.Template, *args: object, **content: object) -> str:
        text = render(template, *args, **content)
        if template.name == "report.html.jinja":
            assert broken_laws(text) == []
            if folder := os.environ.get("CIFM_KEEP_PAGES"):
                name = f"{zlib.crc32(text.encode(errors='replace')):08x}.html"
                (Path(folder) / name).write_text(printable(text), encoding="utf8")
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Template, "render", checked)
        yield


class Outcome(NamedTuple):
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def cifm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process: `cifm("inspect", path)` returns an `Outcome`."""

    def run(*argv: object) -> Outcome:
        from cifm_cli.app import main

        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> BuildOnce:
    """Build a folder once per test run and share it between the worker processes.

    `build_once(name, build)` calls `build(folder)` on an empty folder in the process that asks first, makes the other
    processes wait, and returns the folder. Tests must not write into it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "shared"
    shared.mkdir(exist_ok=True)

    def get_folder(name: str, build: Callable[[Path], object]) -> Path:
        folder, complete = shared / name, shared / f"{name}.complete"
        with FileLock(shared / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a build that failed
                folder.mkdir()
                build(folder)
                complete.touch()
        return folder

    return get_folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real tissue: CIFM_TEST_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("CIFM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real tissue in {folder}; set CIFM_TEST_DATA to a folder with real tissue")
    return folder


@pytest.fixture(scope="session")
def xenium_download(build_once: BuildOnce) -> Path:
    """A synthetic tissue of 800 cells in the layout of a Xenium download."""
    from cifm_cli.synthetic.downloads import write_xenium

    return build_once("download", lambda folder: write_xenium(folder / "tissue", 800, seed=0)) / "tissue"


@pytest.fixture(scope="session")
def prepared_synthetic(build_once: BuildOnce, xenium_download: Path) -> Path:
    """The synthetic tissue of `xenium_download` as a prepared slide, the only `.h5ad` file in its folder."""
    from cifm_cli.app import main

    def prepare(folder: Path) -> None:
        with drawing_nothing():
            assert main(["prepare", str(xenium_download), "--out", str(folder)]) == 0

    return build_once("prepared", prepare) / "tissue.h5ad"


@pytest.fixture(scope="session")
def download_few_genes(build_once: BuildOnce) -> Path:
    """The tissue of `xenium_download` with half of the genes, for tests that use models: most fits are to all genes."""
    from cifm_cli.synthetic.downloads import write_xenium

    def write(folder: Path) -> None:
        write_xenium(folder / "tissue", 800, seed=0, num_genes=90)

    return build_once("download-few-genes", write) / "tissue"


@pytest.fixture(scope="session")
def prepared_few_genes(build_once: BuildOnce, download_few_genes: Path) -> Path:
    """The same as a prepared slide."""
    from cifm_cli.app import main

    def prepare(folder: Path) -> None:
        with drawing_nothing():
            assert main(["prepare", str(download_few_genes), "--out", str(folder)]) == 0

    return build_once("prepared-few-genes", prepare) / "tissue.h5ad"


@pytest.fixture(scope="session")
def prepared_small(build_once: BuildOnce) -> Path:
    """A prepared slide of 250 cells and 100 genes, for tests that train: fits to the whole slide take most of a short run."""
    from cifm_cli.app import main
    from cifm_cli.synthetic.downloads import write_xenium

    def prepare(folder: Path) -> None:
        write_xenium(folder / "download" / "tissue", 250, seed=0, num_genes=100)
        with drawing_nothing():
            assert main(["prepare", str(folder / "download" / "tissue"), "--out", str(folder / "prepared")]) == 0

    return build_once("prepared-small", prepare) / "prepared" / "tissue.h5ad"


@pytest.fixture(scope="session")
def slide(prepared_few_genes: Path) -> Slide:
    """The slide `prepared_few_genes`, opened with its counts in memory."""
    from cifm_cli.data.slide import open_slide

    return open_slide(prepared_few_genes)


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Replace every figure by one blank image within the block."""
    from cifm_cli.report import canvas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "render", lambda *_: BLANK_PNG)
        patch.setattr(canvas, "render_frames", lambda *_: BLANK_PNG)
        yield


@pytest.fixture(autouse=True, scope="module")
def figures_of_marked_modules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw figures only in modules with the mark `figures`: drawing takes half of a preparation or an evaluation.

    These modules test every function that draws, and the report of every command; for other tests it is enough that a
    report is written.
    """
    if request.node.get_closest_marker("figures"):
        yield
        return
    with drawing_nothing():
        yield


@pytest.fixture
def blank_figures() -> Iterator[None]:
    """Draw no figures in a test of a module with the mark `figures`."""
    with drawing_nothing():
        yield


@pytest.fixture(scope="module")
def brief_adaptation() -> Iterator[None]:
    """Adapt models on 200 hidden cells of a slide, for modules that do not test how good an adaptation is.

    An adaptation is most of the time of a prediction: without this, all cells of a small slide are hidden in turn.
    """
    from cifm_cli.inference.adaptation import adapt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt, "MAX_PRACTICE_CELLS", 200)
        yield


@pytest.fixture(scope="module")
def few_practice_cells() -> Iterator[None]:
    """Let baselines and adaptations of an evaluation learn from 120 hidden cells, where only which cells they are matters."""
    from cifm_cli.evaluation import dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "MAX_EXAMPLE_CELLS", 120)
        yield


@pytest.fixture
def few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate only some of the baselines, in tests that do not depend on which there are."""
    from builders import use_few_baselines

    use_few_baselines(monkeypatch)


@pytest.fixture
def workspace(prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new working directory whose folder `prepared` holds the slide `prepared_synthetic`."""
    (tmp_path / "prepared").symlink_to(prepared_synthetic.parent, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are rewritten (`--regenerate`)."""
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture
def golden(regenerate: bool) -> Callable[[str, object], object]:
    """Read a golden JSON file: `golden(name, computed)` returns its content.

    With `--regenerate` the file is first overwritten with `computed`.
    """

    def read(name: str, computed: object) -> object:
        path = REPOSITORY / "tests" / "golden" / f"{name}.json"
        if regenerate:
            path.write_text(json.dumps(computed, indent=2) + "\n", encoding="utf8")
        return json.loads(path.read_text(encoding="utf8"))

    return read
