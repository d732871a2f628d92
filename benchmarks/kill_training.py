"""Kill training and embedding with SIGKILL at random times, resume them, and compare the result with an uninterrupted run.

    OMP_NUM_THREADS=1 nice python benchmarks/kill_training.py --kills 200 --out benchmarks/results/kill_training.json

Training on a small synthetic slide, with a state saved after every step, and embedding of the slide run in child processes forked
from this process. Each child is killed at a random time within the duration of the job. After each kill, every file must be complete
or absent (except temporary files with `.partial.` in their name). Then another child resumes the job, until one finishes. Its model,
last state, loss curve and embeddings must be identical to those of the uninterrupted run. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from record import write_record
from safetensors.torch import load_file

from cifm_cli import recipe as recipes
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.writers.embedded import read_embedded
from cifm_cli.embedding.embed import SLOTS, embed_slides
from cifm_cli.inference.loaded_model import load_model
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.provenance import numpy_generator
from cifm_cli.synthetic.downloads import write_xenium
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.session import METRICS_FILE, RECIPE_FILE
from cifm_cli.training.state import list_states

if TYPE_CHECKING:
    from collections.abc import Callable

CELLS = 300
PACKAGES = ("torch", "safetensors", "h5py", "anndata")
RECIPE: dict[str, Any] = {
    "data": {"tile_cells": 32},
    "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
    "mask": {"share": 0.1, "share_max": 0.3},
    "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
    "train": {"steps": 16, "validate_every": 4, "validation_tiles": 1, "save_minutes": 1e-9, "average": 0.9},
}


class Job(Protocol):
    """A job that can be killed and resumed."""

    name: str

    def execute(self, folder: Path) -> None:
        """Run the job, from the start or from the state that a killed process left."""

    def inspect(self, folder: Path) -> str:
        """Describe the progress of the job; raises an exception if a file is incomplete."""

    def compare(self, folder: Path, reference: Path) -> None:
        """Raise an exception if the result of the finished job differs from the reference."""


@dataclass
class Training:
    """Training on a slide."""

    slide: Path
    name: str = "train"

    def execute(self, folder: Path) -> None:
        """See `Job`."""
        recipe = recipes.parse(RECIPE, "benchmark")
        resume = bool(list_states(folder))
        loop.train(TrainConfig(recipe=recipe, slides=[self.slide], folder=folder, resume=resume, backend="torch"))

    def inspect(self, folder: Path) -> str:
        """See `Job`."""
        states = list_states(folder)
        for path in (*states, folder / MODEL_FILE):
            if path.exists():
                load_file(path)
        if (folder / RECIPE_FILE).exists():
            recipes.load(folder / RECIPE_FILE)
        self.curve(folder)
        return f"state of step {int(states[0].stem.partition('-')[2])}" if states else "no state yet"

    def compare(self, folder: Path, reference: Path) -> None:
        """See `Job`."""
        for name in (MODEL_FILE, list_states(reference)[0].name):
            actual, expected = load_file(folder / name), load_file(reference / name)
            same = actual.keys() == expected.keys() and all(torch.equal(actual[key], expected[key]) for key in expected)
            require(same, f"{name} differs from that of the uninterrupted run")
        require(
            self.curve(folder) == self.curve(reference), "the loss curve differs from that of the uninterrupted run"
        )

    def curve(self, folder: Path) -> list[tuple[int, float]]:
        """Losses by step, without the last line if it is incomplete."""
        path = folder / METRICS_FILE
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        complete = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in complete]


@dataclass
class Embedding:
    """Embedding a slide."""

    slide: Path
    run: Path
    name: str = "embed"

    def execute(self, folder: Path) -> None:
        """See `Job`."""
        embed_slides(load_model(self.run, "torch"), [self.slide], list(SLOTS), folder)

    def inspect(self, folder: Path) -> str:
        """See `Job`."""
        path = folder / self.slide.name
        if path.exists():
            read_embedded(path)
        return "whole" if path.exists() else "absent"

    def compare(self, folder: Path, reference: Path) -> None:
        """See `Job`."""
        actual, expected = (read_embedded(path / self.slide.name).embeddings for path in (folder, reference))
        same = actual.keys() == expected.keys() and all(np.array_equal(actual[key], expected[key]) for key in expected)
        require(same, "the embeddings differ")


@dataclass
class Counts:
    """Counts by name of the job, and the failures.

    Args:
        kills: Number of kills.
        progress: After a kill, how often each progress was found (see `Job.inspect`).
        finished: Number of finished jobs.
        interrupted: Number of finished jobs that were killed at least once.
        failures: Differences from the uninterrupted run and other errors.
    """

    kills: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Counter[str]] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class DifferenceError(Exception):
    """A result differs from that of the uninterrupted run."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001
    """Raise a `DifferenceError` unless a condition is true."""
    if not condition:
        raise DifferenceError(message)


def main() -> None:
    """Compute the reference results, kill and resume the jobs, and print the counts."""
    options = parse()
    torch.set_num_threads(1)  # a child forked from a process with several threads may hang
    counts, started = Counts(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_xenium(folder / "download", CELLS, seed=0)
        prepare_download(folder / "download", PrepareConfig(out=folder, name="tissue"))
        training = Training(folder / "tissue.h5ad")
        reference = folder / "reference"
        training.execute(reference)  # in this process, so that its forked children have all modules imported
        embedding = Embedding(training.slide, reference)
        embedding.execute(folder / "embedded")
        for job, result, fraction in ((training, reference, 0.8), (embedding, folder / "embedded", 0.2)):
            until = time.monotonic() + 60 * fraction * options.minutes
            kill_repeatedly(job, result, folder, counts, (round(options.kills * fraction), until))
    content = {
        "kills": dict(counts.kills),
        "found_after_a_kill": {name: dict(sorted(progress.items())) for name, progress in counts.progress.items()},
        "work_finished": dict(counts.finished),
        "of_it_interrupted_at_least_once": dict(counts.interrupted),
        "failures": counts.failures,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(content, indent=1))
    if options.out:
        write_record(options.out, PACKAGES, content)
    sys.exit(bool(counts.failures))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop killing after this time")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


def kill_repeatedly(job: Job, reference: Path, folder: Path, counts: Counts, limits: tuple[int, float]) -> None:
    """Start and kill a job until a number of kills or a time is reached, and let every interrupted job finish.

    Args:
        job: The job.
        reference: Result of the uninterrupted job.
        folder: Folder for the results of the killed jobs.
        counts: Updated in place.
        limits: Number of kills, and the time (of the monotonic clock) after which no job is killed.
    """
    num_kills, until = limits
    rng, progress = numpy_generator(0, "kill", job.name), counts.progress.setdefault(job.name, Counter())
    started = time.monotonic()
    run_forked(lambda: job.execute(folder / f"{job.name}-timed"), folder, None)
    max_seconds = 1.2 * (time.monotonic() - started)
    kills, number = 0, 0  # of the current job
    while (more := counts.kills[job.name] < num_kills and time.monotonic() < until) or kills:
        target = folder / f"{job.name}-{number}"
        kill_after_s = rng.uniform(0, max_seconds) if more else None
        try:
            if run_forked(lambda path=target: job.execute(path), folder, kill_after_s):
                counts.kills[job.name] += 1
                kills += 1
                progress[job.inspect(target)] += 1
                continue
            job.compare(target, reference)
        except Exception as error:  # noqa: BLE001 - every exception is a failure to report
            counts.failures.append(f"{target.name}, after {kills} kills: {error!r}")
        counts.finished[job.name] += 1
        counts.interrupted[job.name] += kills > 0
        kills, number = 0, number + 1


def run_forked(run: Callable[[], None], folder: Path, kill_after_s: float | None) -> bool:
    """Run a function in a forked child; returns whether it was killed before it finished."""
    log = folder / "log"
    child = os.fork()
    if not child:
        code = 1
        try:
            with log.open("w") as sys.stderr:
                try:
                    run()
                    code = 0
                except BaseException:  # noqa: BLE001 - the child must not return to the caller's code
                    traceback.print_exc()
        finally:
            os._exit(code)
    limit = float("inf") if kill_after_s is None else time.monotonic() + kill_after_s
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            require(status == 0, f"a child failed: {log.read_text()}")
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


if __name__ == "__main__":
    main()
