"""`python -m cifm_backends.conformance`: the conformance checks for authors of backends."""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import TYPE_CHECKING

import torch

from cifm_backends import BackendUnavailableError, select
from cifm_backends.base import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cifm_backends.conformance_cases import CheckResult

    Check = Callable[[Backend, Sequence[torch.dtype], str], list[CheckResult]]

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_SHOWN = 20  # failures of one precision; a mistake usually fails in many cases
PASSED, FAILED, UNUSABLE = 0, 1, 2  # exit codes; argparse also exits with 2


def main(check: Check, arguments: Sequence[str] | None = None) -> int:
    """Check a registered backend and write one line per precision and failure to stdout.

    Args:
        check: `conformance.check`, whose module runs this one.
        arguments: Words of the command line; those of the process if None.

    Returns:
        Exit code: 0 if every check passed, 1 if one failed, 2 if the backend cannot be used.
    """
    options = _parser().parse_args(arguments)
    try:
        backend = select(options.backend, options.device)
    except BackendUnavailableError as error:
        sys.stderr.write(f"error: {error}\nhint: `cifm backends` lists the installed backends and their problems\n")
        return UNUSABLE
    problems = _interface_problems(options.backend, backend)
    for problem in problems:
        _say(f"FAILED: {problem}")
    outcomes = [_check_precision(check, backend, name, options.device) for name in options.dtype]
    passed = all(outcomes) and not problems
    _say(f"{backend.name} ({backend.version()}) on {options.device}: {'passed' if passed else 'FAILED'}")
    return PASSED if passed else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifm_backends.conformance",
        description="Compare a backend with a dense float64 reference: outputs, gradients, repeatability.",
        epilog="Exit code: 0 if every check passed, 1 if one failed, 2 if the backend cannot be used.",
        allow_abbrev=False,
    )
    parser.add_argument("--backend", required=True, metavar="NAME", help="name of its entry point in cifm.backends")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="device to run on (default: cpu)")
    parser.add_argument(
        "--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES), help="precisions of features (default: all)"
    )
    return parser


def _interface_problems(registered: str, backend: Backend) -> list[str]:
    """Problems of the attributes that the checks of numbers do not use."""
    problems = []
    if not isinstance(backend, Backend):
        problems.append("it lacks a method or an attribute of cifm_backends.base.Backend; inherit from it")
    if registered not in {"auto", backend.name}:
        problems.append(f"its `name` is {backend.name!r}, but its entry point is called {registered!r}")
    return problems


def _check_precision(check: Check, backend: Backend, name: str, device: str) -> bool:
    """Run all checks in one precision, say the outcome, and return whether all passed."""
    try:
        results = check(backend, (DTYPES[name],), device)
    except Exception as error:  # noqa: BLE001 - a backend of another package may raise anything
        # The author needs to see where it was raised.
        traceback.print_exc()
        _say(f"FAILED: {name}: raised {type(error).__name__}")
        return False
    failures = [result for result in results if not result.passed]
    for failure in failures[:MAX_SHOWN]:
        _say(str(failure))
    if len(failures) > MAX_SHOWN:
        _say(f"and {len(failures) - MAX_SHOWN} more failures in {name}")
    _say(f"{name}: {len(results) - len(failures)} of {len(results)} checks passed; {_worst(results)}")
    return not failures


def _worst(results: Sequence[CheckResult]) -> str:
    """Words on the largest error, as a fraction of what is allowed."""
    # Checks of equality allow no error, so their fraction is not defined.
    worst = max((r for r in results if r.tolerance > 0), key=lambda result: result.error / result.tolerance)
    return f"largest error {worst.error / worst.tolerance:.2g} of that allowed ({worst.quantity}; {worst.case})"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
