"""Networks with random weights, backends and changed slides, built the same way by several test files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import cifm_backends
from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import MODEL_FILE, Checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.provenance import seeded_torch
from cifm_cli.recipe import Recipe, parse

if TYPE_CHECKING:
    from cifm_backends.base import Backend
    from cifm_cli.data.slide import Slide


def add_noise(network: torch.nn.Module, scale: float) -> None:
    """Add normal noise to every weight, because some parts of a new network have an output of zero."""
    for weight in network.parameters():
        weight.data.add_(scale * torch.randn_like(weight))


def random_network(num_genes: int, recipe: Recipe, *, noise: float = 0.05) -> Ensemble:
    """Build a network with the same random weights in every call."""
    with seeded_torch(0, "network"):
        network = Ensemble(num_genes, recipe)
        add_noise(network, noise)
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


def available_backend(name: str) -> Backend:
    """Return a backend, or skip the test if it cannot run on this machine."""
    status = cifm_backends.available()[name]
    if status.backend is None:
        pytest.skip(status.problem)
    return status.backend


def replace_counts(slide: Slide, rows: np.ndarray, counts: np.ndarray) -> Slide:
    """Return the slide with other counts (len(rows), G) in some cells, and with the total counts that follow."""
    matrix, total_counts = slide.source.matrix.tolil(), slide.total_counts.copy()
    matrix[rows] = counts
    total_counts[rows] = counts.sum(axis=1)
    return replace(slide, source=MemoryCounts(matrix.tocsr()), total_counts=total_counts)
