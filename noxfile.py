"""Checks of the repository: `nox` runs the usual ones, `nox -s NAME` one of them, `nox -l` lists all.

They share the environment that nox runs in, so torch is installed once; only `build` makes one of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "layers", "tests", "build"]

CPU = ("-c", "constraints/cpu.txt")
PROGRAMS = Path(sys.executable).parent


def run(session: nox.Session, program: str, *words: str) -> None:
    """Run a program of the environment that nox runs in."""
    session.run(str(PROGRAMS / program), *words, env={"OMP_NUM_THREADS": "1"}, external=True)


@nox.session(venv_backend="none")
def install(session: nox.Session) -> None:
    """Install the checkout, editable, with the dgl extra and the tools of every check."""
    groups = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test", "lint")
    run(session, "python", "-m", "pip", "install", "--quiet", *CPU, "--editable", ".[dgl]", *groups)


@nox.session(venv_backend="none", requires=["install"])
def lint(session: nox.Session) -> None:
    """Style, formatting and spelling."""
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")
    run(session, "codespell")


@nox.session(venv_backend="none", requires=["install"])
def types(session: nox.Session) -> None:
    """Types, strictly."""
    run(session, "mypy")


@nox.session(venv_backend="none", requires=["install"])
def layers(session: nox.Session) -> None:
    """The import rule: one direction, from the command line down to the kernels."""
    run(session, "lint-imports", "--no-logo")


@nox.session(venv_backend="none", requires=["install"])
def tests(session: nox.Session) -> None:
    """The test suite; further words go to pytest, as in `nox -s tests -- -k recipe`."""
    run(session, "pytest", *session.posargs)


@nox.session(venv_backend="none", requires=["install"])
def bench(session: nox.Session) -> None:
    """Timings: every `benchmarks/bench_*.py`."""
    for script in sorted(Path("benchmarks").glob("bench_*.py")):
        run(session, "python", str(script), *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel, install it where nothing else is, and use it."""
    folder = Path(session.create_tmp()).resolve()
    for old in folder.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    session.install("--quiet", "--no-compile", *CPU, *map(str, folder.glob("*.whl")))
    session.chdir(folder)  # out of the checkout, so that only the wheel can be imported
    session.run("cifm", "--help", silent=True)
    session.run("cifm", "recipes", "list")
    session.run("cifm", "backends")
