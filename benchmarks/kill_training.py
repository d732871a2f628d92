"""SIGKILL at random moments of training and embedding: what is left is whole, and the resumed run is the uninterrupted one.

    OMP_NUM_THREADS=1 nice python benchmarks/kill_training.py --kills 200 --out benchmarks/results/kill_training.json

A tiny synthetic slide is trained on, with states saved all the time, and embedded, in children forked from this process,
each killed at a moment drawn from the time that the whole takes. After each kill every file must be whole or absent
(`.partial.` names are no files of ours); then a child goes on, until one reaches the end: its model must be the
uninterrupted run's, byte for byte, and so must its last state, its curve and its embeddings. Linux and macOS.
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

from cifm_cli import recipe as recipes
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.base import PrepareConfig
from cifm_cli.data.writers.embedded import read_embedded
from cifm_cli.embedding.embed import SLOTS, embed_slides
from cifm_cli.inference.loaded_model import load_model
from cifm_cli.model.checkpoint import MODEL_FILE, load_tensors
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
    """Work that a kill may interrupt."""

    name: str

    def work(self, folder: Path) -> None:
        """Do it, from the start or from where a killed child stood."""

    def inspect(self, folder: Path) -> str:
        """Raise if a file is torn; say how far the work was."""

    def compare(self, folder: Path, reference: Path) -> None:
        """Raise if finished work differs from the reference."""


@dataclass
class Training:
    """Training on a slide."""

    slide: Path
    name: str = "train"

    def work(self, folder: Path) -> None:
        """See `Job`."""
        recipe = recipes.parse(RECIPE, "benchmark")
        resume = bool(list_states(folder))
        loop.train(TrainConfig(recipe=recipe, slides=[self.slide], folder=folder, resume=resume, backend="torch"))

    def inspect(self, folder: Path) -> str:
        """See `Job`."""
        states = list_states(folder)
        for path in (*states, folder / MODEL_FILE):
            if path.exists():
                load_tensors(path)
        if (folder / RECIPE_FILE).exists():
            recipes.load(folder / RECIPE_FILE)
        self.curve(folder)
        return f"state of step {int(states[0].stem.partition('-')[2])}" if states else "no state yet"

    def compare(self, folder: Path, reference: Path) -> None:
        """See `Job`."""
        for name in (MODEL_FILE, list_states(reference)[0].name):
            found, expected = load_tensors(folder / name)[0], load_tensors(reference / name)[0]
            same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
            refuse(same, f"{name} differs from the uninterrupted run's")
        refuse(self.curve(folder) == self.curve(reference), "the curve differs from the uninterrupted run's")

    def curve(self, folder: Path) -> list[tuple[int, float]]:
        """Losses by step; the last line may be cut."""
        path = folder / METRICS_FILE
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in whole]


@dataclass
class Embedding:
    """Embedding a slide."""

    slide: Path
    run: Path
    name: str = "embed"

    def work(self, folder: Path) -> None:
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
        found, expected = (read_embedded(place / self.slide.name).embeddings for place in (folder, reference))
        same = found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)
        refuse(same, "the embeddings differ")


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class DifferenceError(Exception):
    """Something is not what it has to be."""


def refuse(same: bool, message: str) -> None:  # noqa: FBT001
    """Raise unless something holds."""
    if not same:
        raise DifferenceError(message)


def main() -> None:
    """Make the reference, kill, and tell."""
    options = parse()
    torch.set_num_threads(1)  # a fork of a process with threads may hang
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_xenium(folder / "download", CELLS, seed=0)
        prepare_download(folder / "download", PrepareConfig(out=folder, name="tissue"))
        training = Training(folder / "tissue.h5ad")
        reference = folder / "reference"
        training.work(reference)  # here, so that the children need not import anything
        embedding = Embedding(training.slide, reference)
        embedding.work(folder / "embedded")
        for job, whole, share in ((training, reference, 0.8), (embedding, folder / "embedded", 0.2)):
            until = time.monotonic() + 60 * share * options.minutes
            torment(job, whole, folder, tally, (round(options.kills * share), until))
    content = {
        "kills": dict(tally.kills),
        "found_after_a_kill": {name: dict(sorted(found.items())) for name, found in tally.found.items()},
        "work_finished": dict(tally.finished),
        "of_it_interrupted_at_least_once": dict(tally.interrupted),
        "failures": tally.failures,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(content, indent=1))
    if options.out:
        write_record(options.out, PACKAGES, content)
    sys.exit(bool(tally.failures))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0, help="kill no more after this time")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


def torment(job: Job, reference: Path, folder: Path, tally: Tally, enough: tuple[int, float]) -> None:
    """Start the job again and again and kill it, until there are enough kills, or it is late; then let it end."""
    num_kills, until = enough
    rng, found = numpy_generator(0, "kill", job.name), tally.found.setdefault(job.name, Counter())
    began = time.monotonic()
    run_apart(lambda: job.work(folder / f"{job.name}-timed"), folder, None)
    longest = 1.2 * (time.monotonic() - began)
    before, number = 0, 0
    while (more := tally.kills[job.name] < num_kills and time.monotonic() < until) or before:
        target = folder / f"{job.name}-{number}"
        moment = rng.uniform(0, longest) if more else None
        try:
            if run_apart(lambda place=target: job.work(place), folder, moment):
                tally.kills[job.name] += 1
                before += 1
                found[job.inspect(target)] += 1
                continue
            job.compare(target, reference)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            tally.failures.append(f"{target.name}, after {before} kills: {error!r}")
        tally.finished[job.name] += 1
        tally.interrupted[job.name] += before > 0
        before, number = 0, number + 1


def run_apart(work: Callable[[], None], folder: Path, moment: float | None) -> bool:
    """Work in a forked child; returns whether it was killed at a moment, in seconds, before it was done."""
    log = folder / "log"
    child = os.fork()
    if not child:
        code = 1
        try:
            with log.open("w") as sys.stderr:
                try:
                    work()
                    code = 0
                except BaseException:  # noqa: BLE001 - a child must not return from here
                    traceback.print_exc()
        finally:
            os._exit(code)
    limit = float("inf") if moment is None else time.monotonic() + moment
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            refuse(status == 0, f"a child failed: {log.read_text()}")
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


if __name__ == "__main__":
    main()
