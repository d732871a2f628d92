"""Running a command on a damaged workspace in a child process, and comparing it with the same command on the intact one.

A mutation is a function `(generator, intact, target) -> (argv, description)`: `target` is a copy of the intact workspace, in
which it damages something; `argv` is the command that meets the damage, run in `target`, which writes its results to `out`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from cifm_cli.app import main

Mutation = Callable[[np.random.Generator, Path, Path], tuple[list[str], str]]

MAX_SECONDS = 60
EXTRA_BYTES = 4 << 30  # address space of a command beyond that of this process
NOISE_BYTES = 48 << 20  # by which the memory of two equal runs may differ
_TRACEBACK = 99
# Lines of results that depend on time and place, or describe the input instead of the result.
_VOLATILE = {"provenance", "seconds", "path", "out", "origin", "embedding", "inputs", "sha256", "created", "report"}
GOOD = ("error with hint", "same result", "warned", "used as asked")


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # exit code; negative for a signal
    out: str  # stdout
    err: str  # stderr
    seconds: float
    peak_bytes: int  # largest resident memory beyond that at the start
    results: dict[str, str]  # file in `out` to a digest of its content


@dataclass
class MutationRunner:
    """Runs mutations and classifies what happens; remembers the results of commands on the intact workspace."""

    intact: Path  # the intact workspace
    scratch: Path  # folder for copies
    expected: dict[tuple[str, ...], Ended] = field(default_factory=dict)

    def run(self, mutation: Mutation, seed: int) -> tuple[str, str, Path]:
        """Apply a mutation with a seed and run its command.

        Args:
            mutation: The mutation.
            seed: Seed of its generator.

        Returns:
            The outcome, a description with the command and its messages, and the damaged workspace.
        """
        target = self.scratch / f"{seed}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.intact, target, symlinks=True)
        argv, description = mutation(np.random.default_rng(seed), self.intact, target)
        expected = self._expected(tuple(argv))
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and not path.is_symlink())
        ended = run_command(argv, target)
        outcome = classify(argv, ended, expected, size)
        text = f"{description}\n$ cifm {' '.join(argv)}\n{ended.err[-3000:]}"
        (target / "outcome.txt").write_text(f"{outcome}: {text}\n", encoding="utf8", errors="replace")
        return outcome, text, target

    def _expected(self, argv: tuple[str, ...]) -> Ended:
        if argv not in self.expected:
            # Twice, as the first run may compile, which takes time and memory.
            for _ in range(2):
                copy = self.scratch / "intact"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(self.intact, copy, symlinks=True)
                self.expected[argv] = run_command(list(argv), copy)
        return self.expected[argv]


def classify(argv: Sequence[str], ended: Ended, expected: Ended, size: int) -> str:
    """Name the outcome of a command on a workspace of `size` bytes."""
    failures = {
        "hang": ended.seconds >= MAX_SECONDS,
        "traceback": ended.code == _TRACEBACK or "Traceback (most recent call last)" in ended.err,
        "crash": ended.code < 0,
        "over-allocation": ended.peak_bytes > expected.peak_bytes + 2 * size + NOISE_BYTES,
        "partial file": any(".partial." in name for name in ended.results),
    }
    for name, occurred in failures.items():
        if occurred:
            return name
    if ended.code:
        hinted = re.search(r"^error: .+\n(?:.*\n)*?hint: .+", ended.err, re.MULTILINE)
        return "error with hint" if hinted else "error without hint"
    if (ended.code, ended.results) == (expected.code, expected.results):
        return "same result"
    # What the command on the intact workspace prints too is no warning about the damage.
    warned = {line for line in ended.err.splitlines() if line.startswith("warning:")} - set(expected.err.splitlines())
    return "warned" if warned else "used as asked" if "--no-verify" in argv else "different result"


def run_command(argv: list[str], folder: Path) -> Ended:
    """Run a command in a child process, within limits of time and memory.

    Args:
        argv: Arguments after `cifm`.
        folder: The working folder, in which the command writes `out`.

    Returns:
        How it ended.
    """
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_in_child(argv, folder)
    code = _wait(child, start)
    seconds = time.monotonic() - start
    out, err = ((folder / name).read_text(encoding="utf8", errors="replace") for name in ("stdout.txt", "stderr.txt"))
    peak = folder / "peak.txt"
    peak_bytes = int(peak.read_text()) if peak.exists() else 0
    return Ended(code, out, err, seconds, peak_bytes, digest_results(folder, out) if code == 0 else partial(folder))


def _run_in_child(argv: list[str], folder: Path) -> None:
    """Replace the child by the command; does not return."""
    code, start = _TRACEBACK, 0
    try:
        os.chdir(folder)
        for name, stream in (("stdout.txt", 1), ("stderr.txt", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
        sys.stdout = os.fdopen(1, "w", encoding="utf8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf8", errors="backslashreplace", closefd=False)
        limit = _status("VmSize") + EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/clear_refs").write_text("5")  # the peak of this command, not of the parent
        start = _status("VmRSS")
        warnings.resetwarnings()  # as in a process of its own; pytest turns them into errors
        code = main(argv)
    except BaseException:  # noqa: BLE001 - also what is no Exception
        traceback.print_exc()
    finally:
        Path("peak.txt").write_text(str(_status("VmHWM") - start))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, start: float) -> int:
    """Exit code of a child, negative for a signal; kills it after the time limit."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - start > MAX_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _status(name: str) -> int:
    """A size of this process in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf8")
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) << 10


def partial(folder: Path) -> dict[str, str]:
    """Files that a failed command left behind unfinished."""
    return {str(path): "" for path in folder.rglob("*.partial.*")}


def digest_results(folder: Path, out: str) -> dict[str, str]:
    """Digest of each result of a command: its files in `out`, and its output.

    What depends on time and place, and pages and pictures, are left out.
    """
    digests = {"stdout": _digest(_stable(out).encode())}
    # A resumed run writes into its own folder, next to what it read.
    resumed = [folder / "runs/short/model.safetensors", *sorted(folder.glob("runs/short/train_state-*"))[-1:]]
    for path in [*sorted((folder / "out").rglob("*")), *resumed]:
        name = str(path.relative_to(folder))
        if path.suffix in {".json", ".jsonl", ".csv", ".toml"}:
            digests[name] = _digest(_stable(path.read_text(encoding="utf8")).encode())
        elif path.suffix == ".h5ad":
            with h5py.File(path, "r") as file:
                for slot in _result_slots(file):
                    digests[f"{name}:{slot}"] = _digest(_values(file, slot))
        elif path.suffix == ".safetensors":
            digests[name] = _digest(_weights(path))
    return digests


def _result_slots(file: h5py.File) -> list[str]:
    """Arrays of numbers that a command computed."""
    names = ("X", "obsm/X_cifm", "obsm/X_cifm_cell", "layers/expressed")
    return [name for name in names if isinstance(file.get(name), h5py.Dataset)]


def _values(file: h5py.File, slot: str) -> bytes:
    """The numbers of a slot; the columns of genes in the order of their names."""
    values = file[slot][:]
    if not slot.startswith("obsm/"):
        values = values[:, np.argsort(file["var"][file["var"].attrs["_index"]].asstr()[:])]
    return np.ascontiguousarray(values).tobytes()


def _weights(path: Path) -> bytes:
    """The tensors of a safetensors file, without its header, which names versions and times."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def _stable(text: str) -> str:
    """JSON without volatile entries; other text without times."""
    try:
        return json.dumps(_without_volatile(json.loads(text)))
    except (ValueError, RecursionError):  # the output may quote what a file contains, of any depth
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.dumps(_without_volatile(json.loads(line))))
            except (ValueError, RecursionError):
                lines.append(re.sub(r"[\d.]+ ?(s|min|h|seconds)\b", "", line))
        return "\n".join(lines)


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        volatile = {key for key in value if key in _VOLATILE or "second" in key or "time" in key}
        return {key: _without_volatile(inner) for key, inner in value.items() if key not in volatile}
    return [_without_volatile(inner) for inner in value] if isinstance(value, list) else value


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
