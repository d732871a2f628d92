"""`python -m cifm_backends.conformance --backend NAME`: check an installed backend.

One line for each case and precision with the check that came nearest to its tolerance, and one for each failure. The exit
code is 0 if all passed, 1 if a check failed, and 2 if the backend is not available here.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import torch

from cifm_backends import BackendUnavailableError, select
from cifm_backends.conformance import check_case
from cifm_backends.conformance.cases import all_cases, small_cases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_backends.base import Backend
    from cifm_backends.conformance.cases import Case, CheckResult

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a backend.

    Args:
        arguments: Words of the command line; those of this process if absent.

    Returns:
        The exit code.
    """
    cases = {case.name: case for case in [*all_cases(), *small_cases()]}
    options = _parser(list(cases)).parse_args(arguments)
    try:
        backend = select(options.backend, torch.device(options.device).type)
    except BackendUnavailableError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"backend {backend.name} ({backend.version()}) on {options.device}\n")
    chosen = [cases[name] for name in options.case] or (small_cases() if options.small else all_cases())
    num_checks, num_failed = 0, 0
    for dtype in options.dtype or DTYPES:
        for case in chosen:
            results, problem = _run(backend, case, DTYPES[dtype], options.device)
            failed = [str(result) for result in results if not result.passed] + problem
            sys.stdout.write("\n".join(failed or [f"passed: {case.name}; {dtype}: {_nearest(results)}"]) + "\n")
            sys.stdout.flush()  # a case of a slow backend may take a minute
            num_checks, num_failed = num_checks + len(results) + len(problem), num_failed + len(failed)
    sys.stdout.write(f"{num_failed} of {num_checks} checks failed\n" if num_failed else f"{num_checks} checks passed\n")
    return 1 if num_failed else 0


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m cifm_backends.conformance",
        description="Compare a backend with a dense float64 reference: values, gradients, repeated and renumbered runs.",
    )
    parser.add_argument("--backend", required=True, metavar="NAME", help="an entry point of the group cifm.backends")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda or another torch device")
    parser.add_argument(
        "--dtype", action="append", choices=list(DTYPES), help="precision of the features; repeatable; default: all"
    )
    parser.add_argument(
        "--case", action="append", default=[], choices=names, metavar="NAME", help="a case by name; repeatable"
    )
    parser.add_argument("--small", action="store_true", help="a few small graphs, for a backend that is slow")
    return parser


def _run(backend: Backend, case: Case, dtype: torch.dtype, device: str) -> tuple[list[CheckResult], list[str]]:
    """Results of all checks of a case, and the exception that ended them early."""
    results: list[CheckResult] = []
    try:
        for result in check_case(backend, case, dtype, device):
            results.append(result)  # noqa: PERF402 - those before an exception are kept
    except Exception as error:  # noqa: BLE001 - the backend of a third party may raise anything
        name = str(dtype).removeprefix("torch.")
        return results, [f"FAILED: {case.name}; {name}: {type(error).__name__}: {error}"]
    return results, []


def _nearest(results: Sequence[CheckResult]) -> str:
    """The error that came nearest to its tolerance."""
    result = max((r for r in results if r.tolerance), key=lambda r: r.error / r.tolerance)
    return f"largest error {result.error:.1e} of {result.tolerance:.0e} allowed ({result.quantity})"


if __name__ == "__main__":
    sys.exit(main())
