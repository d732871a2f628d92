"""A training run: what is trained, and its folder (model, recipe, metrics, state)."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import cifm_backends
from cifm_cli import keys, provenance, recipe
from cifm_cli.errors import CifmError, writing
from cifm_cli.inference.loaded_model import choose_device
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.recipe_sections import ModelRecipe
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.distributed import check_shares
from cifm_cli.training.ema import Average
from cifm_cli.training.run_spec import RunSpec
from cifm_cli.training.state import Position, list_states, load_began, load_state, save_state
from cifm_cli.workspace import atomic_path, point_latest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_backends.base import Backend
    from cifm_cli.recipe import Recipe
    from cifm_cli.training.distributed import Processes

RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"
SHAPE = {  # keys that weights are bound to
    "data": ("target_sum",),
    "model": tuple(name for name in ModelRecipe.model_fields if name != "dropout"),
    "objective": ("name", "scales", "states"),
}


@dataclass(frozen=True)
class Setup:
    """What the user asked for.

    Args:
        recipe: Resolved.
        slides: Prepared slides; where a run is resumed, none stands for those that it began with.
        folder: The run's folder.
        resume: Go on with the run in `folder`.
        init: A run whose weights and vocabulary to start from.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        seed: Of every random draw; absent: 0, or what the run began with.
        latest: Link to point at the run, once it is open.
        devices: Processes on each machine; one, or what torchrun or srun started, when absent.
        nodes: Machines.
    """

    recipe: Recipe
    slides: Sequence[Path]
    folder: Path
    resume: bool = False
    init: Path | None = None
    backend: str = "auto"
    device: str = "auto"
    seed: int | None = None
    latest: Path | None = None
    devices: int | None = None
    nodes: int = 1


@dataclass
class Run:
    """Everything the loop works on; `average` once training has begun, where the recipe wants one.

    Only the first of several processes writes.
    """

    folder: Path
    recipe: Recipe
    corpus: Corpus
    network: Ensemble
    optimiser: torch.optim.AdamW
    backend: Backend
    device: torch.device
    processes: Processes
    seed: int
    origin: dict[str, Any]
    position: Position = field(default_factory=Position)
    average: Average | None = None

    @property
    def kept(self) -> Ensemble:
        """What is validated and kept: the averaged weights, or the trained ones where there is no average."""
        return self.average.network if self.average else self.network

    def start_average(self) -> None:
        """Begin to average the weights, from where they are now."""
        if self.recipe.train.average:
            self.average = Average(self.network, self.recipe.train.average)

    def log(self, **values: float | str) -> None:
        """Append a line to `metrics.jsonl`."""
        if not self.processes.first:
            return
        path = self.folder / METRICS_FILE
        with writing(path), path.open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": self.position.step, **values}) + "\n")

    def save_best(self) -> None:
        """Write what is kept as the run's model."""
        if not self.processes.first:
            return
        save_checkpoint(self.folder / MODEL_FILE, self.kept, self.recipe, self.corpus.vocabulary, self.origin)

    def save_state(self) -> None:
        """Write what a resumed run needs."""
        if self.processes.first:
            began = RunSpec.of(self.corpus.vocabulary, self.origin)
            save_state(self.folder, self.parts(), self.optimiser, self.position, began, self.recipe.train.keep)

    def parts(self) -> dict[str, Ensemble]:
        """The sets of weights that make up the state."""
        return {"weights": self.network} | ({"average": self.average.network} if self.average else {})


def open_run(setup: Setup, processes: Processes) -> Run:
    """Start a run, or take one up again.

    Args:
        setup: What the user asked for.
        processes: Who trains it.

    Returns:
        The run, at step 0 or where it stood.

    Raises:
        CifmError: The folder is taken, there is nothing to resume, what is resumed differs, or the tiles of a step can't
            be shared out.
        BackendUnavailableError: There is no such backend here.
    """
    check_shares(setup.recipe.train.tiles_per_step, processes.size)
    device = processes.device(choose_device(setup.device))
    if processes.first:
        _check_folder(setup)
    began = load_began(setup.folder) if setup.resume else None
    setup = began.complete(setup, first=processes.first) if began else setup
    backend = _choose_backend(setup.backend, device, began)
    start = load_checkpoint(setup.init) if setup.init and not began else None
    if start:
        _check_shape(setup, start.recipe)
    seed, known = setup.seed or 0, began or start
    corpus = Corpus(setup.slides, setup.recipe, known.vocabulary if known else None, seed)
    with provenance.seeded_torch(seed, "weights"):
        network = Ensemble(len(corpus.vocabulary), setup.recipe)
    if start:
        network.load_state_dict(start.network.state_dict())
    network.to(device)
    facts = {
        "backend": backend.name,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "processes": processes.size,
        "platforms": sorted({(part.slide.facts or {}).get(keys.PLATFORM, "") for part in corpus.slides}),
        "init": began.init if began else {"run": str(setup.init), **_seen(start.provenance)} if start else None,
    }
    run = Run(
        folder=setup.folder,
        recipe=setup.recipe,
        corpus=corpus,
        network=network,
        optimiser=_optimiser(network, setup.recipe),
        backend=backend,
        device=device,
        processes=processes,
        seed=seed,
        origin=provenance.collect("train", seed=seed, inputs=setup.slides if processes.first else (), **facts),
    )
    if setup.resume:
        _take_up(run)
    elif processes.first:
        _store_recipe(setup)
    if setup.latest and processes.first:
        point_latest(setup.folder, setup.latest)
    return run


def _store_recipe(setup: Setup) -> None:
    """The first file of a run."""
    setup.folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(setup.folder / RECIPE_FILE) as temporary:
        temporary.write_text(recipe.to_toml(setup.recipe), encoding="utf8")


def _choose_backend(name: str, device: torch.device, began: RunSpec | None) -> Backend:
    """The one that is asked for; `auto` goes on with the one that a run began with, where that works here."""
    if began and name == "auto":
        with suppress(cifm_backends.BackendUnavailableError):
            return cifm_backends.select(began.backend, device.type)
    return cifm_backends.select(name, device.type)


def _check_shape(setup: Setup, given: Recipe) -> None:
    """Refuse weights of a network of another shape, or of another meaning."""
    wanted, differing = setup.recipe, []
    for section, names in SHAPE.items():
        ours, theirs = getattr(wanted, section), getattr(given, section)
        differing += [
            f"{section}.{name} = {json.dumps(getattr(theirs, name))}, here {json.dumps(getattr(ours, name))}"
            for name in names
            if getattr(ours, name) != getattr(theirs, name)
        ]
    if differing:
        raise CifmError(
            f"--init {setup.init}: trained with another network: {'; '.join(differing)}",
            f"start from its recipe: cifm train {setup.init}/{RECIPE_FILE} --init {setup.init}",
        )


def _seen(origin: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run was trained on, and those before it."""
    before: dict[str, Any] = origin.get("init") or {}
    return {
        "inputs": {**before.get("inputs", {}), **origin["inputs"]},
        "platforms": sorted({*before.get("platforms", []), *origin.get("platforms", [])}),
    }


def _check_folder(setup: Setup) -> None:
    """Refuse to overwrite a run, to resume nothing, or to resume another recipe."""
    stored = setup.folder / RECIPE_FILE
    if not setup.resume:
        # A run killed before its first state has left a recipe and nothing to resume: it may start over.
        found = {path.name for path in setup.folder.iterdir()} if setup.folder.is_dir() else set()
        if found - {RECIPE_FILE} - {path.name for path in _half_written(setup.folder)}:
            raise CifmError(f"{setup.folder} is not empty", "choose another --out, or go on with that run: --resume")
        return
    if not list_states(setup.folder):
        raise CifmError(f"{setup.folder}: no training to resume", "start it without --resume")
    before = recipe.load(stored)
    changed = [
        f"[{section}]"
        for section in ("data", "model", "mask", "objective")
        if getattr(before, section) != getattr(setup.recipe, section)
    ]
    if (before.train.average is None) != (setup.recipe.train.average is None):
        changed.append("train.average")
    if changed:
        raise CifmError(
            f"{setup.folder}: resumed with another {', '.join(changed)} than it was started with",
            f"use its own recipe: cifm train {stored} --resume --out {setup.folder}",
        )


def _take_up(run: Run) -> None:
    """Load the state and forget what was done after it."""
    run.start_average()
    position = run.position = load_state(run.folder, run.parts(), run.optimiser)
    if run.processes.largest(position.step) != -run.processes.largest(-position.step):
        raise CifmError(
            f"{run.folder}: the processes find different states in it", "name a folder that all machines share"
        )
    if not run.processes.first:
        return
    for path in _half_written(run.folder):
        path.unlink()
    path = run.folder / METRICS_FILE
    lines = path.read_text(encoding="utf8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and _is_past(json.loads(line), position)]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf8")


def _is_past(line: dict[str, Any], position: Position) -> bool:
    return bool(line["step"] <= (position.looked if "validation_loss" in line else position.step))


def _half_written(folder: Path) -> list[Path]:
    """What a killed process left of the file that it was writing."""
    return list(folder.glob(".*.partial.*"))


def _optimiser(network: Ensemble, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay pulls on matrices, not on biases, vectors or the smoother's blend."""
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    decayed = [weight for name, weight in named if weight.ndim > 1 and "smoother" not in name]
    others = [weight for name, weight in named if not (weight.ndim > 1 and "smoother" not in name)]
    groups = [
        {"params": decayed, "weight_decay": recipe.train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.train.learning_rate, betas=(0.9, 0.98))
