"""Models with random weights, short training runs, backends and changed slides for several test files."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from scipy.sparse import csr_matrix

import cifm_backends
from cifm_cli import recipe as recipes
from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.tiles import Tile
from cifm_cli.evaluation import setup
from cifm_cli.evaluation.predictors.registry import all_baselines
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import MODEL_FILE, Checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.masking import Mask, MaskedTile, mask_tile
from cifm_cli.model.slide_parameters import SlideParameters
from cifm_cli.model.vocabulary import match_panel
from cifm_cli.provenance import seeded_torch, torch_generator
from cifm_cli.recipe import Recipe, parse
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from cifm_backends.base import Backend
    from cifm_cli.data.slide import Slide


# The provenance of an embedding, with the entries that a probe uses.
EMBEDDING_ORIGIN = {
    "model": {"sha256": "0" * 64},
    "radius_um": 20.0,
    "recipe": {"data": {"target_sum": 1e4}, "model": {"encoder_layers": 2}},
}


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a safetensors file of cifm, without any check."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["cifm"])  # noqa: SIM118


def use_few_baselines(patch: pytest.MonkeyPatch) -> None:
    """Evaluate only three baselines, one of them tuned: most of the time of an evaluation goes into the others."""
    few = [each for each in all_baselines() if each.name in ("training_mean", "neighbourhood_average", "weighted_knn")]
    patch.setattr(setup, "all_baselines", lambda: few)


def forget_checksums(slide: AnnData) -> AnnData:
    """A copy of a prepared slide without checksums, as earlier versions wrote them; a test may change its content."""
    plain = slide.copy()
    plain.uns["cifm"].pop("content", None)
    plain.obs.drop(columns="cifm_checksum", errors="ignore", inplace=True)
    return plain


def add_noise(network: torch.nn.Module, scale: float) -> None:
    """Add normal noise to every weight, because some parts of a new network have an output of zero."""
    for weight in network.parameters():
        weight.data.add_(scale * torch.randn_like(weight))


def random_network(num_genes: int, recipe: Recipe, *, noise: float = 0.05) -> Ensemble:
    """Build a network with the same random weights in every call."""
    with seeded_torch(0, "network"):
        network = Ensemble(num_genes, recipe)
        add_noise(network, noise)
        if network.pooled and (parameters := random_parameters(num_genes, recipe)):
            network.pooled.fill(parameters, torch.arange(num_genes))
        if network.linear:
            network.linear.fill(*(noise * torch.randn_like(tensor) for tensor in network.linear.buffers()))
    return network.eval()


def load_random_model(slide: Slide, tables: dict[str, Any], backend: str = "torch") -> LoadedModel:
    """Build a model with random weights for the genes of a slide; `tables` are the tables of its recipe."""
    recipe = parse(tables, "test")
    checkpoint = Checkpoint(random_network(slide.num_genes, recipe), recipe, slide.gene_ids, {}, Path())
    return LoadedModel(checkpoint, cifm_backends.select(backend, "cpu"), torch.device("cpu"))


def save_random_run(folder: Path, slide: Slide, tables: dict[str, Any], *, noise: float = 0.05) -> Path:
    """Save a network with random weights as a training run in `folder`, which is returned."""
    recipe = parse(tables, "test")
    save_checkpoint(
        folder / MODEL_FILE, random_network(slide.num_genes, recipe, noise=noise), recipe, slide.gene_ids, {}
    )
    return folder


def train_short_run(slide: Path, folder: Path, settings: Sequence[str] = (), **options: Any) -> None:
    """Train the recipe `demo` for three steps; `settings` are those of `--set`, `options` those of `TrainConfig`.

    Without the linear correction, whose fit takes longer than the steps.
    """
    short = ["train.steps=3", "train.validation_tiles=1", "model.width=8", "data.tile_cells=64"]
    short += ["objective.linear_rank=0", *settings]
    loop.train(TrainConfig(recipes.load(recipes.find("demo"), short), [slide], folder, backend="torch", **options))


def interrupt_training(patch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send a signal to this process while training step `step` of the next run is running, counted from 1."""
    take_step, calls = loop.train_step, count(1)

    def take_step_with_signal(*arguments: Any) -> float:
        if next(calls) == step:
            signal.raise_signal(number)
        return take_step(*arguments)

    patch.setattr(loop, "train_step", take_step_with_signal)


def available_backend(name: str) -> Backend:
    """Return a backend, or skip the test if it cannot run on this machine."""
    status = cifm_backends.available()[name]
    if status.backend is None:
        pytest.skip(status.problem)
    if not status.backend.supports("cpu"):
        pytest.skip(f"{name} does not run on the CPU")
    return status.backend


def mask_cells(
    slide: Slide, rows: np.ndarray, recipe: Recipe, dtype: torch.dtype = torch.float32, tile: Tile | None = None
) -> MaskedTile:
    """Mask the given rows of a tile, by default of a tile that is the whole slide."""
    everything = np.arange(slide.num_cells)
    tile = tile or Tile(everything, everything, slide.xy_um, np.zeros(slide.num_cells))
    parameters = random_parameters(slide.num_genes, recipe)
    return mask_tile(slide, tile, Mask(rows), match_panel(slide, slide.gene_ids), recipe, parameters, dtype)


def random_parameters(num_genes: int, recipe: Recipe) -> SlideParameters | None:
    """The same random parameters of a slide in every call, with three states; None for the objective of the paper."""
    if recipe.objective.name != "residual":
        return None
    num_terms = len(recipe.objective.scales) + 1
    generator = torch_generator(0, "parameters")

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    composition, frequency = draw(num_genes) + 0.1, draw(min(3, recipe.objective.states)) + 0.1
    return SlideParameters(
        mean=draw(num_genes),
        expressed=draw(num_genes),
        composition=composition / composition.sum(),
        mean_weights=draw(num_terms, num_genes),
        expressed_weights=draw(num_terms, num_genes),
        composition_weights=draw(num_terms),
        state_weights=draw(num_terms),
        state_profiles=3 * draw(len(frequency), num_genes),
        state_frequency=frequency / frequency.sum(),
    )


def replace_counts(slide: Slide, rows: np.ndarray, counts: np.ndarray) -> Slide:
    """Return the slide with other counts (len(rows), G) in some cells, and with the total counts that follow."""
    matrix, total_counts = slide.source.matrix.tolil(), slide.total_counts.copy()
    matrix[rows] = counts
    total_counts[rows] = counts.sum(axis=1)
    return replace(slide, source=MemoryCounts(matrix.tocsr()), total_counts=total_counts)


def take_genes(slide: Slide, num_genes: int) -> Slide:
    """Return the slide with its first genes only; the time of most fits grows with the square of their number."""
    counts = slide.source.matrix[:, :num_genes].tocsr()
    symbols = slide.symbols[:num_genes]
    return replace(slide, gene_ids=slide.gene_ids[:num_genes], symbols=symbols, source=MemoryCounts(counts))


def jittered_tissue(columns: int, rows: int, seed: int, spacing_um: float = 10.0) -> np.ndarray:
    """Positions (columns * rows, 2) of cells that keep a distance of at least half the spacing, in micrometres."""
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    return (grid + np.random.default_rng(seed).uniform(-0.25, 0.25, grid.shape)) * spacing_um


def write_tissue(path: Path, xy: np.ndarray, **obs: Any) -> Path:
    """Write an AnnData file of cells at the given positions, with random counts of three genes and columns of `obs`."""
    num_cells = len(xy)
    counts = np.random.default_rng(0).poisson(3.0, (num_cells, 3)) + 1
    names = obs.pop("names", [f"cell{number}" for number in range(num_cells)])
    uns = obs.pop("uns", {})
    slide = ad.AnnData(
        csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(obs, index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=["ENSG00000010610", "ENSG00000153563", "ENSG00000177455"]),
    )
    slide.obsm["spatial"] = xy
    slide.uns.update(uns)
    slide.write_h5ad(path)
    return path
