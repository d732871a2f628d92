"""The command line as a whole: light help, exit codes, signals, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cifm_cli import __version__
from cifm_cli.app import EXAMPLES, THREADS, app
from cifm_cli.errors import CifmError, StopRequested

HEAVY = ("torch", "numpy", "anndata", "scipy", "matplotlib", "pandas", "sklearn", "h5py")


def python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["recipes", "list"], ["--version"]])
def test_help_and_recipes_import_no_large_packages(words: list[str]) -> None:
    code = f"""
import sys
from cifm_cli.app import main
code = main(sys.argv[1:])
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)"""
    done = python(code, *words)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


def test_help_names_every_command_and_how_to_start(cifm) -> None:
    code, out, _ = cifm("--help")
    assert code == 0
    commands = [
        "prepare",
        "train",
        "evaluate",
        "embed",
        "predict",
        "probe",
        "simulate",
        "recipes",
        "backends",
        "demo",
        "inspect",
        "doctor",
    ]
    assert not [name for name in commands if not re.search(rf"^│ {name} ", out, re.MULTILINE)]
    assert "cifm demo" in out


def test_without_arguments_the_help_is_printed(cifm) -> None:
    assert cifm() == cifm("--help")


def test_version(cifm) -> None:
    assert cifm("--version") == (0, f"cifm {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "no such command 'fly'"),
        (["recipes"], "missing command"),
        (["recipes", "show"], "missing argument"),
        (["recipes", "list", "--fast"], "no such option: --fast"),
        (["evaluate", "--geometry", "blocks"], "invalid value for '--geometry': 'blocks' is not one of 'scattered'"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_2(cifm, words: list[str], message: str) -> None:
    code, out, err = cifm(*words)
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith(f"error: {message}")
    assert re.fullmatch(r"hint: see `cifm.* --help`", second)


def test_a_missing_argument_is_shown_in_an_example(cifm) -> None:
    # The download was taken for the recipe, which the message alone does not tell.
    code, _, err = cifm("run", "DOWNLOAD/")
    assert (code, err.splitlines()[1]) == (2, "hint: for example `cifm run xenium DOWNLOAD/`; see `cifm run --help`")


def test_a_slide_in_the_place_of_a_command_gets_the_command_that_takes_slides(cifm, tmp_path: Path) -> None:
    code, _, err = cifm("annotate", str(tmp_path))
    assert code == 2
    assert err.splitlines()[1] == f"hint: to assign types: cifm annotate apply {tmp_path}"
    assert "annotate --help" in cifm("annotate", str(tmp_path / "missing"))[2]


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_examples_are_complete(example: str) -> None:
    root = get_command(app)
    words = example.split()[1:]
    root.commands[words[0]].make_context(words[0], words[1:])


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `cifm recipes list` raise `error`."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("cifm_cli.recipe.shipped", fail)


def test_user_errors_are_one_line_each(cifm, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, CifmError("slide.h5ad: bad\n  [red]row[/red] :x: 3", "look\nat it"))
    assert cifm("recipes", "list") == (1, "", "error: slide.h5ad: bad [red]row[/red] :x: 3\nhint: look at it\n")


def test_a_backend_that_is_missing_is_a_user_error(cifm, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifm_backends import BackendUnavailableError

    raising(monkeypatch, BackendUnavailableError("unknown backend warp"))
    code, _, err = cifm("recipes", "list")
    assert (code, err.splitlines()[0]) == (1, "error: unknown backend warp")
    assert "cifm backends" in err


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_keeps_the_traceback(cifm, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    raising(monkeypatch, CifmError("bad", "mend it"))
    if how == "environment":
        monkeypatch.setenv("CIFM_DEBUG", "1")
    with pytest.raises(CifmError, match="bad"):
        cifm(*(["--debug"] if how == "option" else []), "recipes", "list")


def test_a_bug_keeps_its_traceback(cifm, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cifm("recipes", "list")


def test_an_interruption_before_the_command_starts_is_reported(cifm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_app: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cifm_cli.app.get_command", interrupt)
    code, _, err = cifm("--version")
    assert (code, err) == (130, "interrupted; no incomplete file is left\n")


@pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt(), 130), (StopRequested(), 143)])
def test_an_interruption_is_reported(
    cifm, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: int
) -> None:
    raising(monkeypatch, error)
    code, out, err = cifm("recipes", "list")
    assert (code, out) == (expected, "")
    assert err.startswith("interrupted; ")


def test_sigterm_unwinds_the_stack_and_restores_the_handler() -> None:
    code = """
import os, signal, sys
from cifm_cli import app, recipe
def stop():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        import time; time.sleep(30)
    finally:
        print("unwound")
before = signal.getsignal(signal.SIGTERM)
recipe.shipped = stop
code = app.main(["recipes", "list"])
assert signal.getsignal(signal.SIGTERM) == before
sys.exit(code)"""
    done = python(code)
    assert (done.returncode, done.stdout) == (143, "unwound\n")
    assert done.stderr.startswith("interrupted; ")


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_closed_pipe_gives_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cifm_cli", "recipes", "show", "xenium"]
    # pytest and Python ignore SIGPIPE, so the child has to handle the broken pipe itself
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode != -signal.SIGPIPE


@pytest.mark.parametrize("user", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_idle_threads_do_not_spin_unless_the_user_asks_for_it(user: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | user
    code = (
        "import json, os; from cifm_cli import app; app.main = lambda: print(json.dumps(dict(os.environ))); app.run()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert THREADS | user == {name: seen[name] for name in THREADS}


def test_backends_and_doctor_describe_the_installation(cifm) -> None:
    code, out, _ = cifm("backends", "--json")
    by_name = {backend["name"]: backend for backend in json.loads(out)}
    assert code == 0
    assert "cpu" in by_name["torch"]["devices"]
    assert sum("cpu" in backend["auto"] for backend in by_name.values()) == 1
    code, out, _ = cifm("doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["cifm"] == __version__
    assert set(facts["backends"]) == set(by_name)
    assert facts["threads"] >= 1
    assert facts["memory_gb"] > 0
    assert min(facts["speed_of_a_core"].values()) > 0
    assert facts["training_estimate"]["seconds_per_step"] > 0


@pytest.mark.parametrize("command", ["backends", "doctor"])
def test_readable_forms_go_to_stdout(cifm, command: str) -> None:
    code, out, err = cifm(command)
    assert (code, err) == (0, "")
    assert re.search(r"^(backends\.)?torch +", out, re.MULTILINE)


def test_quiet_before_the_command_silences_messages(
    cifm, prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("demo", "--data", prepared_synthetic, "--set", "train.steps=1", "--set", "model.width=8")
    words += ("--set", "objective.linear_rank=0", "--backend", "torch", "--json")
    code, out, err = cifm("--quiet", "train", *words, "-o", "run")
    assert (code, err) == (0, "")
    assert json.loads(out)["steps"] == 1
    code, _, err = cifm("train", "--quiet", *words)
    assert code == 2
    assert err.startswith("error: no such option: --quiet")
    assert err.endswith("\nhint: it stands before the command: cifm --quiet train\n")
