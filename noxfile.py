"""Checks of the repository. `nox` runs the default sessions, `nox -s NAME` runs one, `nox -l` lists all.

The sessions share the environment that nox is installed in, so that torch is installed once. Only `build` creates its own.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "layers", "docs", "tests", "bounds", "build"]

CPU = ("-c", "constraints/cpu.txt")
PROGRAMS = Path(sys.executable).parent


def run(session: nox.Session, program: str, *words: str, **environment: str) -> None:
    """Run a program of the environment that nox is installed in, with one thread per process."""
    session.run(str(PROGRAMS / program), *words, env={"OMP_NUM_THREADS": "1", **environment}, external=True)


def group(name: str) -> list[str]:
    """Requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name))


@nox.session(venv_backend="none")
def install(session: nox.Session) -> None:
    """Install the checkout in editable mode with the dgl extra and the tools of all checks."""
    groups = [*group("test"), *group("lint")]
    # Python compiles the modules that are imported, a small part of what is installed.
    run(session, "python", "-m", "pip", "install", "--quiet", "--no-compile", *CPU, "--editable", ".[dgl]", *groups)


@nox.session(venv_backend="none", requires=["install"])
def lint(session: nox.Session) -> None:
    """Check style, formatting and spelling."""
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")
    run(session, "codespell")


@nox.session(venv_backend="none", requires=["install"])
def types(session: nox.Session) -> None:
    """Check types with mypy in strict mode."""
    run(session, "mypy")


@nox.session(venv_backend="none", requires=["install"])
def layers(session: nox.Session) -> None:
    """Check that imports follow the layers, from the command line down to the kernels."""
    run(session, "lint-imports", "--no-logo")


@nox.session(venv_backend="none", requires=["install"])
def tests(session: nox.Session) -> None:
    """Run the test suite with one worker process per core.

    Arguments after `--` are passed to pytest, as in `nox -s tests -- -k recipe`; `-- -n 0` uses a single process, and
    `-- --hypothesis-profile=thorough` tries many more examples.
    """
    # worksteal gives each worker a contiguous part of the tests, so that few module fixtures are built twice.
    run(session, "pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session(venv_backend="none", requires=["install"])
def extended(session: nox.Session) -> None:
    """Run the tests that take long and are rarely relevant: all notebooks, torchrun, and Triton's interpreter in bfloat16."""
    run(session, "pytest", "-n", "auto", "-m", "extended", *session.posargs)


@nox.session(venv_backend="none", requires=["install"])
def bounds(session: nox.Session) -> None:
    """Run damaged slides through compiled code that checks the bounds of arrays."""
    # A cache of its own, as the compiled code is another one.
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": session.create_tmp()}
    damaged = [f"tests/hostile/test_damaged_{what}.py" for what in ("slides", "texts")]
    run(session, "pytest", "-n", "0", *damaged, "tests/unit/test_kernels.py", **checked)


@nox.session(venv_backend="none", requires=["install"])
def bench(session: nox.Session) -> None:
    """Run every benchmark, `benchmarks/bench_*.py`."""
    for script in sorted(Path("benchmarks").glob("bench_*.py")):
        run(session, "python", str(script), *session.posargs)


@nox.session(venv_backend="none", requires=["install"])
def docs(session: nox.Session) -> None:
    """Build the documentation site into site/; a warning, such as a link to a missing heading, is an error."""
    # The package index is not asked again if everything is there.
    run(session, "python", "-m", "pip", "install", "--quiet", *CPU, *group("docs"))
    run(session, "mkdocs", "build", "--strict", *session.posargs, NO_MKDOCS_2_WARNING="1")


@nox.session(venv_backend="none", requires=["install"])
def notebooks(session: nox.Session) -> None:
    """Execute the tutorial notebooks; `nox -s docs` then shows their outputs."""
    run(session, "python", "-m", "pip", "install", "--quiet", *CPU, *group("notebooks"))
    folder = Path("build/notebooks")  # what the notebooks write is there too
    folder.mkdir(parents=True, exist_ok=True)
    names = session.posargs or sorted(map(str, Path("docs/notebooks").glob("*.ipynb")))
    copies = [shutil.copy(name, folder) for name in names]
    run(session, "jupyter-nbconvert", "--to", "notebook", "--execute", "--inplace", *map(str, copies))


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel, check what they contain, install the wheel in an empty environment and run it there."""
    folder = Path(session.create_tmp()).resolve()
    for old in (*folder.glob("*.whl"), *folder.glob("*.tar.gz")):
        old.unlink()
    session.install("--quiet", "build")
    # The wheel is built from the sdist, so that a file which the sdist lacks is noticed.
    session.run("python", "-m", "build", "--outdir", str(folder), silent=True)
    session.run("python", "tools/check_distributions.py", str(folder))
    session.install("--quiet", "--no-compile", *CPU, *map(str, folder.glob("*.whl")))
    session.run("python", "-m", "pip", "check")
    session.chdir(folder)  # outside the checkout, so that only the wheel can be imported
    session.run("cifm", "--help", silent=True)
    session.run("cifm", "recipes", "list")
    session.run("cifm", "backends")
