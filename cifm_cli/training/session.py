"""A training session: a run that is open for training, and the folder that it is written to."""

from __future__ import annotations

import json
import logging
import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import cifm_backends
from cifm_cli import keys, provenance
from cifm_cli import recipe as recipes
from cifm_cli.errors import CifmError, writing
from cifm_cli.inference.loaded_model import choose_device
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.precision import faster_precision
from cifm_cli.model.trained_regions import trained_regions
from cifm_cli.recipe_sections import ModelRecipe
from cifm_cli.storage.lock import SUFFIX, holding_lock
from cifm_cli.storage.partial_files import find_leftovers, remove_leftovers
from cifm_cli.system_files import without_system_files
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.distributed import check_even_split
from cifm_cli.training.ema import EMA
from cifm_cli.training.initial_weights import grow_initial
from cifm_cli.training.memory import require_memory
from cifm_cli.training.metrics_file import keep_metrics
from cifm_cli.training.optimiser import make_optimiser
from cifm_cli.training.run_spec import RunSpec
from cifm_cli.training.seen_cells import collect_sketches, with_states
from cifm_cli.training.slide_state import restore_slides, slide_tensors
from cifm_cli.training.state import TrainState, list_states, load_run_spec, load_state, save_state
from cifm_cli.training.threads import is_small
from cifm_cli.workspace import atomic_path, link_latest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_backends.base import Backend
    from cifm_cli.data.cell_sketch import CellSketch
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.model.readout import Readout
    from cifm_cli.recipe import Recipe
    from cifm_cli.recipe_sections import Precision
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.corpus import TrainingSlide
    from cifm_cli.training.distributed import Processes
    from cifm_cli.training.muon import Muon

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = SUFFIX  # a hidden file
# Sections and keys of a recipe that give the weights their shape or their meaning.
WEIGHT_KEYS = {
    "data": ("target_sum",),
    "model": tuple(name for name in ModelRecipe.model_fields if "dropout" not in name),
    "objective": ("name", "scales", "linear_rank"),
}


@dataclass
class Session:
    """An open training run. Of several processes, only the first one writes files."""

    folder: Path  # folder of the run
    recipe: Recipe  # its recipe
    corpus: Corpus  # its slides
    network: Ensemble  # the weights that are trained
    optimiser: Muon  # the optimiser of these weights
    backend: Backend  # runs the edge part of every layer
    device: torch.device  # where the network is
    processes: Processes  # the processes that train together
    seed: int  # seed of every random draw
    provenance: dict[str, Any] = field(default_factory=dict)  # origin of the run, stored with the model
    state: TrainState = field(default_factory=TrainState)  # how far the run has come
    # samples of the cells of the run, and of the runs that its weights come from, which are stored with the model; empty in
    # processes other than the first
    sketches: tuple[CellSketch, ...] = ()
    ema: EMA | None = None  # moving average of the weights; None before the first step, and without `train.average`

    @property
    def ema_network(self) -> Ensemble:
        """The network that is validated and saved: the moving average, or the trained network where there is none."""
        return self.ema.network if self.ema else self.network

    @property
    def precision(self) -> Precision:
        """Precision of the matrix products; `auto` was replaced when the session was opened."""
        return self.recipe.train.product_precision

    def start_ema(self) -> None:
        """Start the moving average at the present weights, if the recipe has `train.average`."""
        if self.recipe.train.average:
            self.ema = EMA(self.network, self.recipe.train.average)

    def log_metrics(self, **values: float | str) -> None:
        """Append a line to `metrics.jsonl`."""
        if not self.processes.is_first:
            return
        path = self.folder / METRICS_FILE
        with writing(path), path.open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": self.state.step, **values}) + "\n")

    def save_model(self) -> None:
        """Write `ema_network` as the model of the run."""
        if self.processes.is_first:
            self.save_checkpoint(self.ema_network, None)

    def save_checkpoint(self, network: Ensemble, readout: Readout | None) -> None:
        """Write a network, and a readout that was fitted to it, as the model of the run."""
        path, vocabulary = self.folder / MODEL_FILE, self.corpus.vocabulary
        sketches = with_states(self.sketches, self.corpus)
        save_checkpoint(path, network, self.recipe, vocabulary, self.provenance, sketches, readout)

    def save_state(self) -> None:
        """Write a training state, from which the run can be resumed."""
        if self.processes.is_first:
            spec = RunSpec.from_provenance(self.corpus.vocabulary, self.provenance)
            slides = slide_tensors(self.corpus)
            save_state(self.folder, self.networks(), self.optimiser, self.state, spec, self.recipe.train.keep, slides)

    def networks(self) -> dict[str, Ensemble]:
        """The networks in a training state, by the names that they have there."""
        return {"weights": self.network} | ({"average": self.ema.network} if self.ema else {})


@contextmanager
def locking_folder(config: TrainConfig, processes: Processes) -> Iterator[None]:
    """Make sure within the block that no other training writes to the folder of a run.

    Args:
        config: Settings of the run.
        processes: The processes that train together; the first one holds the lock.

    Raises:
        CifmError: Another training writes to the folder.
    """
    if not processes.is_first:
        yield
        return
    folder = config.folder
    hint = "wait for it to end, or choose another --out"
    with holding_lock(folder / LOCK_FILE, folder, "training", hint=hint):
        # While the lock is held, no other process writes such files, whichever machine the killed run was on.
        remove_leftovers(folder, owned=_is_of_training)
        yield


def _is_of_training(name: str) -> bool:
    return name in (RECIPE_FILE, METRICS_FILE, MODEL_FILE) or name.startswith("train_state-")


def open_session(config: TrainConfig, processes: Processes) -> Session:
    """Start a run, or continue one.

    Args:
        config: Settings of the run.
        processes: The processes that train together.

    Returns:
        The session, at step 0 or at the last saved state.

    Raises:
        CifmError: The folder holds another run, there is no run to resume, `config` differs from what the run was
            started with, or the tiles of a step can't be divided evenly among the processes.
        BackendUnavailableError: The backend is not available here.
    """
    device = processes.own_device(choose_device(config.device))
    recipe = _choose_precision(config, config.load_recipe(), device, processes)
    check_even_split(recipe.train.tiles_per_step, processes.size)
    if processes.is_first:
        check_folder(config, recipe)
    # A resumed run takes seed, slides, vocabulary and backend from its state.
    spec = load_run_spec(config.folder) if config.resume else None
    if spec:
        config = spec.complete(config, check_slides=processes.is_first)
    backend = _choose_backend(config.backend, device, spec)
    init = load_checkpoint(config.init) if config.init and not spec else None
    if init:
        _check_weight_keys(config, recipe, init.recipe)
    seed = config.seed or 0
    vocabulary, known = spec.vocabulary if spec else None, init.vocabulary if init else ()
    corpus = Corpus(config.slides, recipe, vocabulary, seed, known)
    require_memory(len(corpus.vocabulary), recipe, device)
    # Every process draws the same weights.
    with provenance.seeded_torch(seed, "weights"):
        network = Ensemble(len(corpus.vocabulary), recipe)
    if init:
        network.load_weights(grow_initial(init, corpus, processes))
    shares_cores = recipe.model.members > 1 or is_small(network, device)
    session = Session(
        folder=config.folder,
        recipe=recipe,
        corpus=corpus,
        network=network.to(device),
        optimiser=make_optimiser(network, recipe.train, shares_cores=shares_cores),
        backend=backend,
        device=device,
        processes=processes,
        seed=seed,
    )
    source = spec.init if spec else {"run": str(config.init), **_training_data(init)} if init else None
    session.provenance = _collect_provenance(session, config.slides, source)
    session.sketches = _collect_sketches(session, config, init)
    if config.resume:
        _restore(session)
    elif processes.is_first:
        _write_recipe(config.folder, recipe)
    # Last, so that the link never points at a run that could not be opened.
    if config.latest and processes.is_first:
        link_latest(config.folder, config.latest)
    return session


def _collect_provenance(session: Session, slides: Sequence[Path], init: dict[str, Any] | None) -> dict[str, Any]:
    """Origin of a run; `init` is the run that its weights come from."""
    return provenance.collect(
        "train",
        seed=session.seed,
        inputs=slides
        if session.processes.is_first
        else (),  # only the first process writes files; hashing reads whole slides
        backend=session.backend.name,
        device=str(session.device),
        threads=torch.get_num_threads(),
        processes=session.processes.size,
        platforms=sorted({(each.slide.facts or {}).get(keys.PLATFORM, "") for each in session.corpus.slides}),
        training_slides={each.slide.name: _describe_slide(each) for each in session.corpus.slides},
        init=init,
    )


def _describe_slide(training_slide: TrainingSlide) -> dict[str, Any]:
    """What the provenance says about a slide that is trained on, beside the hash of its file."""
    facts = training_slide.slide.facts or {}
    return {
        "platform": facts.get(keys.PLATFORM, ""),
        "tissue": facts.get(keys.TISSUE, ""),
        "training_cells": len(training_slide.tilers[keys.TRAIN].rows),
        "genes": training_slide.slide.num_genes,
    }


def _collect_sketches(session: Session, config: TrainConfig, init: Checkpoint | None) -> tuple[CellSketch, ...]:
    """Samples of the cells of a run and of those before it; only the first process stores them."""
    if not session.processes.is_first:
        return ()
    return collect_sketches(session.corpus, config.folder, init, resume=config.resume)


def _choose_precision(config: TrainConfig, recipe: Recipe, device: torch.device, processes: Processes) -> Recipe:
    """Replace the precision `auto` by that of the run to resume, or by the faster one on the first process."""
    if recipe.train.precision != "auto":
        return recipe
    stored = config.folder / RECIPE_FILE
    if config.resume and stored.is_file():
        is_half = recipes.load(stored).train.precision == "bfloat16"
    else:
        precision, speed_up = faster_precision(device)
        is_half = precision == "bfloat16"
        if is_half and processes.is_first:
            ratio = f", {speed_up:.1f} times as fast as float32 here" if math.isfinite(speed_up) else ""
            logger.info(f"matrix products in bfloat16{ratio}; --precision float32 computes them exactly")
    # Machines may differ, and all processes must train the same way.
    is_half = bool(processes.max(float(is_half and processes.is_first)))
    train = recipe.train.model_copy(update={"precision": "bfloat16" if is_half else "float32"})
    return recipe.model_copy(update={"train": train})


def check_folder(config: TrainConfig, recipe: Recipe) -> None:
    """Check that a new run overwrites nothing, and that a run to resume exists and has the same recipe.

    Args:
        config: Settings of the run.
        recipe: Its recipe.

    Raises:
        CifmError: The folder cannot be used.
    """
    folder, stored = config.folder, config.folder / RECIPE_FILE
    if not config.resume:
        # A run that was killed before its first state has nothing but a recipe: it may start over.
        present = {path.name for path in without_system_files(folder.iterdir())} if folder.is_dir() else set()
        if present - {RECIPE_FILE, LOCK_FILE} - {leftover.path.name for leftover in find_leftovers(folder)}:
            raise CifmError(f"{folder} is not empty", "choose another --out, or continue that run: --resume")
        return
    if not list_states(folder):
        raise CifmError(f"{folder}: no training to resume", "start it without --resume")
    before = recipes.load(stored)
    changed = [
        f"[{section}]"
        # The sections `train` and `evaluate` may change: a resumed run may, for instance, take more steps.
        for section in ("data", "model", "mask", "objective")
        if getattr(before, section) != getattr(recipe, section)
    ]
    # Training states of a run with an average contain a second network.
    if (before.train.average is None) != (recipe.train.average is None):
        changed.append("train.average")
    # They decide which weights have moments, and in which order.
    changed += [
        f"train.{key}"
        for key in ("optimiser", "freeze", "layer_decay")
        if getattr(before.train, key) != getattr(recipe.train, key)
    ]
    if changed:
        raise CifmError(
            f"{folder}: resumed with another {', '.join(changed)} than it was started with",
            f"use its own recipe: cifm train {stored} --resume --out {folder}",
        )


def _choose_backend(name: str, device: torch.device, spec: RunSpec | None) -> Backend:
    """The named backend. For `auto` a resumed run keeps its own, if that is available here."""
    if spec and name == "auto":
        with suppress(cifm_backends.BackendUnavailableError):
            return cifm_backends.select(spec.backend, device.type)
    return cifm_backends.select(name, device.type)


def _check_weight_keys(config: TrainConfig, recipe: Recipe, init: Recipe) -> None:
    """Check that the weights of another run have the shape and the meaning that a recipe gives them."""
    differing = []
    for section, names in WEIGHT_KEYS.items():
        own, initial = getattr(recipe, section), getattr(init, section)
        differing += [
            f"{section}.{name} = {json.dumps(getattr(initial, name))}, here {json.dumps(getattr(own, name))}"
            for name in names
            if getattr(own, name) != getattr(initial, name)
        ]
    if differing:
        raise CifmError(
            f"--init {config.init}: trained with another network: {'; '.join(differing)}",
            f"start from its recipe: cifm train {config.init}/{RECIPE_FILE} --init {config.init}",
        )


def _training_data(init: Checkpoint) -> dict[str, Any]:
    """Inputs, trained regions and platforms of a run, and of the runs that its weights came from."""
    origin = init.provenance
    before: dict[str, Any] = origin.get("init") or {}
    return {
        "inputs": {**before.get("inputs", {}), **origin.get("inputs", {})},
        "trained_regions": trained_regions(origin, init.recipe.data),
        "platforms": sorted({*before.get("platforms", []), *origin.get("platforms", [])}),
    }


def _restore(session: Session) -> None:
    """Load the last state of a run, and remove the metrics of later steps."""
    session.start_ema()  # makes the network into which the stored average is loaded
    state, slides = load_state(session.folder, session.networks(), session.optimiser)
    session.state = state
    try:
        restore_slides(session.corpus, slides)
    except ValueError as error:
        raise CifmError(
            f"{session.folder}: its training state does not fit its slides: {error}", "train again"
        ) from error
    # Largest and smallest step. They differ if the machines don't share the folder.
    if session.processes.max(state.step) != -session.processes.max(-state.step):
        raise CifmError(
            f"{session.folder}: the processes find different states in it", "name a folder that all machines share"
        )
    if not session.processes.is_first:
        return
    # Steps after the state are taken again, and each step must have one line only.
    keep_metrics(session.folder / METRICS_FILE, state)


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe, the first file of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / RECIPE_FILE) as temporary:
        temporary.write_text(recipes.to_toml(recipe), encoding="utf8")
