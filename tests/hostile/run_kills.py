"""Stop commands by signals at random moments, and check what is left and that the next command repairs it.

    nice python tests/hostile/run_kills.py --count 200

Every command that writes is run on a small synthetic slide in a new copy of a workspace, and gets SIGKILL, SIGTERM, SIGINT
or SIGHUP at a random time. Then inputs must be unchanged, every file whole or absent, and no process left. The command is
run again (`train` with `--resume` if there is a state): its result must be that of an undisturbed run, and no temporary
file or lock may be left. Prints one line for each problem and a summary as JSON; the exit code is 1 if there is a problem.
Linux and macOS; not collected by pytest, which runs a few kills through `test_interrupted_commands.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands import (
    COMMANDS,
    Command,
    Problem,
    Running,
    digests,
    leftovers,
    make_workspace,
    raw_digests,
    require,
    run,
)
from run_pairs import pairs_of, try_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXPECTED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}


def from_traceback(log: str) -> str:
    """The part of a log from its first traceback on."""
    return log[log.find("Traceback") :][:2_000]


def kill_once(command: Command, number: signal.Signals, delay_s: float, folder: Path, expected: dict[str, str]) -> str:
    """Run a command, send it a signal, and check everything.

    Args:
        command: The command.
        number: The signal.
        delay_s: Seconds after the start.
        folder: A new copy of the workspace.
        expected: Digests of the outputs of an undisturbed run.

    Returns:
        What the signal met: `finished` or `stopped`.
    """
    inputs = raw_digests(folder)
    running = Running(command.words, folder)
    time.sleep(delay_s)
    running.send(number)
    outcome = running.wait()
    # A process that is not yet within `main` has the usual reaction to a signal.
    require(outcome.code in (0, EXPECTED[number], -number), f"exit code {outcome.code}: {outcome.log[-1000:]}")
    require(
        "Traceback" not in outcome.log or outcome.code == -number or delay_s < 0.02,
        f"traceback: {from_traceback(outcome.log)}",
    )
    running.require_no_process()
    require(raw_digests(folder) == inputs, "an input has changed")
    digests(folder, command.outputs)
    if number != signal.SIGKILL:
        require(not leftovers(folder), f"left behind: {leftovers(folder)}")
    if command.once and (folder / command.outputs[0]).exists():
        _require_same(digests(folder, command.outputs), expected)
        return "finished"
    words = command.words
    if command.resume and list(folder.glob("runs/new/train_state-*")):
        words += " --resume"
    again = run(words, folder)
    require("Traceback" not in again.log, f"traceback when run again: {from_traceback(again.log)}")
    require(not leftovers(folder), f"left behind by the next command: {leftovers(folder)}")
    _require_same(digests(folder, command.outputs), expected)
    require(raw_digests(folder) == inputs, "an input has changed")
    return "finished" if outcome.code == 0 else "stopped"


def _require_same(found: dict[str, str], expected: dict[str, str]) -> None:
    """Check that the outputs are those of an undisturbed run."""
    differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    require(not differing, f"differs from an undisturbed run: {differing}")


def try_kills(base: Path, scratch: Path, commands: Sequence[Command], count: int, seed: int) -> dict[str, Any]:
    """Kill commands in turn.

    Args:
        base: A workspace in which the commands ran once.
        scratch: Folder of its copies.
        commands: The commands.
        count: Number of kills.
        seed: Seed of the signals and their times.

    Returns:
        What the signals met, and the problems.
    """
    rng = random.Random(seed)
    met: Counter[str] = Counter()
    problems = []
    expected, seconds = {}, {}
    for command in commands:
        folder = Path(shutil.copytree(base, scratch / "reference", symlinks=True))
        seconds[command.name] = run(command.words, folder).seconds
        expected[command.name] = digests(folder, command.outputs)
        shutil.rmtree(folder)
    for number in range(count):
        command, kind = commands[number % len(commands)], rng.choice(SIGNALS)
        delay_s = rng.uniform(0.0, 1.1 * seconds[command.name])
        folder = Path(shutil.copytree(base, scratch / f"w{number}", symlinks=True))
        try:
            result = kill_once(command, kind, delay_s, folder, expected[command.name])
            met[f"{command.name}: {result}"] += 1
        except Problem as problem:
            problems.append(f"{number} {command.name}, {kind.name} after {delay_s:.3f} s: {problem}")
            print(problems[-1], flush=True)
        shutil.rmtree(folder)
    return {"kills": count, "met": dict(sorted(met.items())), "problems": problems}


def main() -> int:
    """Kill commands in turn, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of one command")
    parser.add_argument(
        "--pairs", type=int, default=0, help="then run pairs of it, as `run_pairs.py` does; needs --only"
    )
    options = parser.parse_args()
    commands = [command for command in COMMANDS if options.only in (None, command.name)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        base.mkdir()
        make_workspace(base, {command.name for command in commands})
        found = [try_kills(base, Path(name), commands, options.count, options.seed)]
        if options.pairs:  # in the same workspace, as making it takes longer than a pair
            found.append(try_pairs(base, Path(name), pairs_of(options.only), options.pairs, options.seed))
    for each in found:
        print(json.dumps({**each, "problems": len(each["problems"])}, indent=1))
    print(f"{time.monotonic() - started:.0f} s")
    return any(each["problems"] for each in found)


if __name__ == "__main__":
    sys.exit(main())
