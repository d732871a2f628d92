"""A training run: what is trained, and its folder (model, recipe, metrics, state)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import cifm_backends
from cifm_cli import provenance, recipe
from cifm_cli.errors import CifmError, writing
from cifm_cli.inference.engine import choose_device
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.network import Network
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.state import STATE_FILE, Position, load_state, save_state
from cifm_cli.workspace import atomic_path, point_latest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_backends.base import Backend
    from cifm_cli.recipe import Recipe

RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Setup:
    """What the user asked for.

    Args:
        recipe: Resolved.
        slides: Prepared slides.
        folder: The run's folder.
        resume: Go on with the run in `folder`.
        init: A run whose weights and vocabulary to start from.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        seed: Of every random draw.
        latest: Link to point at the run, once it is open.
    """

    recipe: Recipe
    slides: Sequence[Path]
    folder: Path
    resume: bool = False
    init: Path | None = None
    backend: str = "auto"
    device: str = "auto"
    seed: int = 0
    latest: Path | None = None


@dataclass
class Run:
    """Everything the loop works on."""

    folder: Path
    recipe: Recipe
    corpus: Corpus
    network: Network
    optimiser: torch.optim.AdamW
    backend: Backend
    device: torch.device
    seed: int
    origin: dict[str, Any]
    position: Position = field(default_factory=Position)

    def log(self, **values: float | str) -> None:
        """Append a line to `metrics.jsonl`."""
        path = self.folder / METRICS_FILE
        with writing(path), path.open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": self.position.step, **values}) + "\n")

    def save_best(self) -> None:
        """Write the network as the run's model."""
        save_checkpoint(self.folder / MODEL_FILE, self.network, self.recipe, self.corpus.vocabulary, self.origin)

    def save_state(self) -> None:
        """Write what a resumed run needs."""
        save_state(self.folder, self.network, self.optimiser, self.position)


def open_run(setup: Setup) -> Run:
    """Start a run, or take one up again.

    Args:
        setup: What the user asked for.

    Returns:
        The run, at step 0 or where it stood.

    Raises:
        CifmError: The folder is taken, there is nothing to resume, or what is resumed differs.
        BackendUnavailableError: There is no such backend here.
    """
    device = choose_device(setup.device)
    backend = cifm_backends.select(setup.backend, device.type)
    _check_folder(setup)
    start = load_checkpoint(setup.init) if setup.init else None
    if start and start.recipe.model != setup.recipe.model:
        raise CifmError(f"--init {setup.init}: its [model] differs from the recipe's", "use the recipe that run stored")
    corpus = Corpus(setup.slides, setup.recipe, start.vocabulary if start else None)
    with provenance.seeded_torch(setup.seed, "weights"):
        network = Network(len(corpus.vocabulary), setup.recipe)
    if start:
        network.load_state_dict(start.network.state_dict())
    network.to(device)
    facts = {"backend": backend.name, "device": str(device), "threads": torch.get_num_threads()}
    run = Run(
        folder=setup.folder,
        recipe=setup.recipe,
        corpus=corpus,
        network=network,
        optimiser=_optimiser(network, setup.recipe),
        backend=backend,
        device=device,
        seed=setup.seed,
        origin=provenance.collect("train", seed=setup.seed, inputs=setup.slides, **facts),
    )
    if setup.resume:
        _take_up(run)
    else:
        setup.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(setup.folder / RECIPE_FILE) as temporary:
            temporary.write_text(recipe.to_toml(setup.recipe), encoding="utf8")
    if setup.latest:
        point_latest(setup.folder, setup.latest)
    return run


def _check_folder(setup: Setup) -> None:
    """Refuse to overwrite a run, to resume nothing, or to resume another recipe."""
    stored = setup.folder / RECIPE_FILE
    if not setup.resume:
        # A run stopped before its first look has left a recipe and nothing to resume: it may start over.
        if setup.folder.is_dir() and {path.name for path in setup.folder.iterdir()} - {RECIPE_FILE}:
            raise CifmError(f"{setup.folder} is not empty", "choose another --out, or go on with that run: --resume")
        return
    if not (setup.folder / STATE_FILE).is_file():
        raise CifmError(f"{setup.folder}: no training to resume", "start it without --resume")
    before = recipe.load(stored)
    changed = [
        section
        for section in ("data", "model", "mask", "objective")
        if getattr(before, section) != getattr(setup.recipe, section)
    ]
    if changed:
        raise CifmError(
            f"{setup.folder}: resumed with another [{'], ['.join(changed)}] than it was started with",
            f"use its own recipe: cifm train {stored} --resume --out {setup.folder}",
        )


def _take_up(run: Run) -> None:
    """Load the state and forget what was logged after it."""
    run.position = load_state(run.folder, run.network, run.optimiser)
    path = run.folder / METRICS_FILE
    lines = path.read_text(encoding="utf8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= run.position.step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf8")


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay pulls on matrices, not on biases, vectors or the smoother's blend."""
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    decayed = [weight for name, weight in named if weight.ndim > 1 and "smoother" not in name]
    others = [weight for name, weight in named if not (weight.ndim > 1 and "smoother" not in name)]
    groups = [
        {"params": decayed, "weight_decay": recipe.train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.train.learning_rate, betas=(0.9, 0.98))
