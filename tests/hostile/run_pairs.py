"""Run two commands at once in one workspace, and check that nothing is lost or mixed.

    nice python tests/hostile/run_pairs.py --count 50

Pairs are drawn from commands that write to the same place, the same command with different options among them, and commands
that read what the other replaces. The second one starts at a random time after the first. Each must succeed, or end with an
`error:` that names the other; the files of every output folder must be those of one of the two alone; no temporary file or
lock may be left. Prints one line for each problem and a summary as JSON; the exit code is 1 if there is a problem. Linux and
macOS; not collected by pytest, which runs a few pairs through `test_interrupted_commands.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands import (
    COMMANDS,
    EVALUATE,
    SHARE,
    SIMULATE,
    TRAIN,
    Outcome,
    Problem,
    Running,
    digests,
    leftovers,
    make_workspace,
    require,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class Variant(NamedTuple):
    """A command line, and the folders that it writes to."""

    words: str
    outputs: tuple[str, ...]


EMBED = "embed --model runs/base --backend torch --out out"
INJECT = f"{SIMULATE} --inject t_cell --steps 2 --out simulation"
# Commands of one group write to the same place, or read what another one of the group replaces.
GROUPS: dict[str, tuple[Variant, ...]] = {
    "prepare": (
        Variant("prepare download/t --out new", ("new",)),
        Variant("prepare download/t --out new --keep mitochondrial --force", ("new",)),
        Variant("prepare download/t --out new --split strips --force", ("new",)),
    ),
    "train": (
        Variant(f"{TRAIN} --out runs/new", ("runs/new",)),
        Variant(f"{TRAIN} --out runs/new --seed 1", ("runs/new",)),
        Variant(f"{TRAIN} --out runs/base --resume", ("runs/base",)),
        Variant(f"{EVALUATE} --out evaluation", ("evaluation",)),
    ),
    "evaluate": (
        Variant(f"{EVALUATE} --out evaluation --save-predictions", ("evaluation",)),
        Variant(f"{EVALUATE} --out evaluation --seed 1", ("evaluation",)),
    ),
    "embed": (
        Variant(EMBED, ("out",)),
        Variant(f"{EMBED} --level cell", ("out",)),
        Variant("prepare download/t --split strips --force", ("prepared",)),
        Variant("predict prepared/t.h5ad --model runs/base --backend torch --out predicted/t.h5ad", ("predicted",)),
    ),
    "probe": (
        Variant("probe embedded/t.h5ad --label cluster --folds 2 --out probe/p.json", ("probe",)),
        Variant("probe embedded/t.h5ad --label cluster --folds 3 --out probe/p.json", ("probe",)),
    ),
    "annotate": (
        Variant("annotate apply --out annotated", ("annotated",)),
        Variant("annotate apply --out annotated --seed 1", ("annotated",)),
    ),
    "simulate": (
        Variant(f"{INJECT} --count 5", ("simulation",)),
        Variant(f"{INJECT} --count 9", ("simulation",)),
    ),
    "share": (
        Variant(f"{SHARE} --out shared", ("shared",)),
        Variant(f"{SHARE} --seed 1 --out shared", ("shared",)),
    ),
}


def pairs_of(group: str) -> list[tuple[Variant, Variant]]:
    """All pairs of commands of a group, a command with itself among them."""
    return list(combinations_with_replacement(GROUPS[group], 2))


PAIRS = [pair for group in GROUPS for pair in pairs_of(group)]


class Alone:
    """Outputs of commands that run alone, computed once: in the workspace as it is, or after another command."""

    def __init__(self, base: Path, scratch: Path) -> None:
        self._base, self._scratch = base, scratch
        self._found: dict[tuple[Variant, ...], dict[str, str]] = {}

    def outputs(self, *variants: Variant) -> dict[str, str]:
        """Digests of the outputs of the last command, after those before it."""
        if variants not in self._found:
            folder = Path(shutil.copytree(self._base, self._scratch / "alone", symlinks=True))
            for variant in variants:
                running = Running(variant.words, folder).wait()
                require(running.code in (0, 1), f"`cifm {variant.words}` failed: {running.log[-1500:]}")
            self._found[variants] = digests(folder, variants[-1].outputs)
            shutil.rmtree(folder)
        return self._found[variants]


def run_pair(pair: tuple[Variant, Variant], delay_s: float, folder: Path, alone: Alone) -> str:
    """Run two commands at once, and check everything.

    Args:
        pair: The commands; the first is started first.
        delay_s: Seconds between the starts.
        folder: A new copy of the workspace.
        alone: What the commands write alone.

    Returns:
        How many of them succeeded.
    """
    first = Running(pair[0].words, folder)
    time.sleep(delay_s)
    second = Running(pair[1].words, folder)
    outcomes = [first.wait(), second.wait()]
    for running in (first, second):
        running.require_no_process()
    for outcome in outcomes:
        require("Traceback" not in outcome.log, f"traceback: {outcome.log[-1500:]}")
        require(outcome.code == 0 or _is_told(outcome), f"exit code {outcome.code}: {outcome.log[-1000:]}")
    require(any(outcome.code == 0 for outcome in outcomes), "both failed")
    require(not leftovers(folder), f"left behind: {leftovers(folder)}")
    for number, variant in enumerate(pair):
        if outcomes[number].code == 0:
            found = digests(folder, variant.outputs)
            # Alone, or as if one had followed the other.
            other = pair[1 - number]
            possible = [
                alone.outputs(variant),
                alone.outputs(other, variant),
                *([alone.outputs(other), alone.outputs(variant, other)] if other.outputs == variant.outputs else []),
            ]
            # A run that is resumed while a model of it is evaluated has several models.
            if found not in possible and "runs/base" not in other.outputs:
                raise Problem(f"`cifm {variant.words}`: not the files of one command: {_differences(found, possible)}")
    return f"{sum(outcome.code == 0 for outcome in outcomes)} of 2 succeeded"


def _is_told(outcome: Outcome) -> bool:
    """Whether a command ended with an error that another command explains."""
    lines = [line for line in outcome.log.splitlines() if line.startswith("error: ")]
    reasons = ("another ", "is not empty", "exists, made from other input", "changed since")
    return outcome.code == 1 and len(lines) == 1 and any(reason in lines[0] for reason in reasons)


def _differences(found: dict[str, str], possible: list[dict[str, str]]) -> list[list[str]]:
    return [sorted(name for name in found.keys() | one.keys() if found.get(name) != one.get(name)) for one in possible]


def try_pairs(
    base: Path, scratch: Path, pairs: Sequence[tuple[Variant, Variant]], count: int, seed: int
) -> dict[str, Any]:
    """Run pairs in turn.

    Args:
        base: A workspace in which the commands ran once.
        scratch: Folder of its copies.
        pairs: Pairs of commands.
        count: Number of pairs that are run.
        seed: Seed of their order and of the times.

    Returns:
        How many commands of the pairs succeeded, and the problems.
    """
    rng = random.Random(seed)
    pairs = rng.sample(list(pairs), len(pairs))
    met: Counter[str] = Counter()
    problems = []
    alone = Alone(base, scratch)
    for number in range(count):
        pair = pairs[number % len(pairs)]
        pair = pair if rng.random() < 0.5 else pair[::-1]
        folder = Path(shutil.copytree(base, scratch / f"w{number}", symlinks=True))
        delay_s = rng.choice((0.0, rng.uniform(0.0, 1.0)))
        try:
            met[run_pair(pair, delay_s, folder, alone)] += 1
        except Problem as problem:
            problems.append(f"{number} `{pair[0].words}` and, {delay_s:.2f} s later, `{pair[1].words}`: {problem}")
            print(problems[-1], flush=True)
        shutil.rmtree(folder)
    return {"pairs": count, "met": dict(sorted(met.items())), "problems": problems}


def main() -> int:
    """Run pairs in turn, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=GROUPS, help="name of one group of commands")
    options = parser.parse_args()
    pairs = pairs_of(options.only) if options.only else PAIRS
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        base.mkdir()
        make_workspace(base, {command.name for command in COMMANDS if options.only in (None, command.name)})
        found = try_pairs(base, Path(name), pairs, options.count, options.seed)
    summary = {**found, "problems": len(found["problems"]), "seconds": round(time.monotonic() - started)}
    print(json.dumps(summary, indent=1))
    return bool(found["problems"])


if __name__ == "__main__":
    sys.exit(main())
