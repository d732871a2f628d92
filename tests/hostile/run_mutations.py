"""Run commands on randomly damaged files, and count what happens.

    python tests/hostile/run_mutations.py --count 1000 --seed 1 --keep failures [--only hdf5] [--name KIND]

Each mutation damages a copy of an intact workspace and runs a command on it in a child process. Workspaces with another outcome
than an error with a hint, or the same result, are kept for inspection; `outcome.txt` in them holds command and messages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import chdir
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "hostile")]

import numpy as np  # noqa: E402
from forgeries import is_allowed  # noqa: E402
from intact import COMMANDS, build_intact, run  # noqa: E402
from outcomes import GOOD, Mutation, MutationRunner  # noqa: E402

_GOOD = (*GOOD, "another valid input")
# Each module has a dictionary MUTATIONS of names to mutations.
MODULES = [path.stem for path in sorted(Path(__file__).parent.glob("*_mutations.py")) if path.stem != "run_mutations"]


def all_mutations(only: str = "") -> dict[str, Mutation]:
    """The mutations of all modules whose name contains `only`, by module and name."""
    return {
        f"{module.removesuffix('_mutations')}: {name}": mutation
        for module in MODULES
        if only in module
        for name, mutation in importlib.import_module(module).MUTATIONS.items()
    }


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the name of a module, such as hdf5")
    parser.add_argument("--name", default="", help="part of the name of a mutation")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "cifm_mutations")
    arguments = parser.parse_args()
    mutations = {name: made for name, made in all_mutations(arguments.only).items() if arguments.name in name}
    arguments.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cifm_mutations_") as folder:
        intact, scratch = Path(folder) / "intact", Path(folder) / "scratch"
        intact.mkdir()
        scratch.mkdir()
        build_intact(intact)
        runner = MutationRunner(intact, scratch)
        for argv in COMMANDS.values():  # in this process, so that its children find the compiled code
            with chdir(_copy(intact, scratch / "warm")):
                run(*argv)
        outcomes: Counter[str] = Counter()
        kinds: dict[str, Counter[str]] = {}
        for number in range(arguments.count):
            seed = arguments.seed * 1_000_000 + number
            name = list(mutations)[np.random.default_rng([seed, 1]).integers(len(mutations))]
            outcome, text, target = runner.run(mutations[name], seed)
            outcome = "another valid input" if is_allowed(mutations[name], outcome) else outcome
            outcomes[outcome] += 1
            kinds.setdefault(name, Counter())[outcome] += 1
            if outcome not in _GOOD:
                sys.stderr.write(f"--- {seed} {name}: {outcome}\n{text}\n")
                shutil.rmtree(arguments.keep / str(seed), ignore_errors=True)
                shutil.move(target, arguments.keep / str(seed))
            shutil.rmtree(target, ignore_errors=True)
    sys.stderr.write(json.dumps({"outcomes": outcomes, "kinds": kinds}, indent=1) + "\n")
    return int(any(outcome not in _GOOD for outcome in outcomes))


def _copy(intact: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(intact, target, symlinks=True)
    return target


if __name__ == "__main__":
    sys.exit(main())
