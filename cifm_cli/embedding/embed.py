"""Embedding of slides: arrays in memory, or an embedded `.h5ad` for each prepared slide; see docs/embedding.md.

Letters: N cells, D features.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.embedded import embedded_file, require_other_file
from cifm_cli.embedding.parallel import write_slice, write_with_processes
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.option import adaptation_facts, open_adapted
from cifm_cli.inference.encode import encode_blocks
from cifm_cli.inference.expression_features import reach_radii
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.path_text import file_name
from cifm_cli.report.terminal import progress
from cifm_cli.storage.names import require_different_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel

logger = logging.getLogger(__name__)

SLOTS: dict[Level, str] = {"microenvironment": keys.MICROENVIRONMENT, "cell": keys.CELL}


def embed_cells(
    model: LoadedModel, slide: Slide, levels: Sequence[Level] = ("microenvironment", "cell")
) -> dict[Level, NDArray[np.float32]]:
    """Embed every cell of a slide, in memory.

    Args:
        model: The model, adapted to this slide or as trained.
        slide: A slide, in memory or opened from a file.
        levels: `microenvironment` embeds a cell with its neighbours, `cell` without them.

    Returns:
        Level to (N, D) embeddings, in the order of the slide's cells.

    Raises:
        CifmError: The slide shares no gene with the model.
    """
    _log_readout(model)
    slide = model.fit_slide(slide)
    shape = (slide.num_cells, model.checkpoint.recipe.model.width)
    embeddings: dict[Level, NDArray[np.float32]] = {level: np.empty(shape, dtype=np.float32) for level in levels}
    with progress(f"embedding {slide.name}", slide.num_cells) as advance:
        for block in encode_blocks(model, slide, list(levels)):
            for level, features in block.features.items():
                embeddings[level][block.rows] = features
            advance(len(block.rows))
    return embeddings


def embed_slides(
    model: LoadedModel,
    slides: Sequence[Path],
    levels: Sequence[Level],
    out: Path,
    num_processes: int = 1,
    *,
    adapt: Adapt = "none",
    seed: int = 0,
) -> dict[str, Any]:
    """Embed prepared slides, and write each into a file in the order of its download.

    Args:
        model: The model.
        slides: Prepared slides.
        levels: `microenvironment` embeds a cell with its neighbours, `cell` without them.
        out: Folder for `<slide>.h5ad`. If it is hidden, it is temporary, and messages do not name it.
        num_processes: Number of processes that embed a slide together. The file does not depend on it, bit for bit.
        adapt: `slide` to adapt the model to each slide, `none` to use it as trained.
        seed: Seed of the adaptation.

    Returns:
        For each slide its path, number of cells and the shape of each embedding, as JSON.

    Raises:
        CifmError: Two slides have the same name, a slide cannot be read, or it shares no gene with the model.
    """
    names = [file_name(path) for path in slides]
    # Checked first: the second file would replace the first, after all the work for it.
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two slides are called {name}", "embed them into different folders with --out")
    require_different_files([path.stem for path in slides], out, "embed them into different folders with --out")
    targets = {path: out / f"{path.stem}.h5ad" for path in slides}
    for path, target in targets.items():
        require_other_file(target, path)
    _log_readout(model)
    described: dict[str, Any] = {}
    for path, target in targets.items():
        adapted, slide = open_adapted(model, open_slide(path), adapt, seed, profiles_only=True)
        facts = {"genes": model.overlap_facts(slide), **adaptation_facts(adapted, adapt, seed)}
        origin = _origin(adapted, path, slide.radius_um, facts)
        described[file_name(path)] = _embed_slide(adapted, slide, levels, target, origin, num_processes)
        where = "" if out.name.startswith(".") else f": {target}"
        logger.info("%s: %s cells embedded as %s%s", slide.name, f"{slide.num_cells:,}", " and ".join(levels), where)
    return described


def _log_readout(model: LoadedModel) -> None:
    """Log that a model has no readout, which makes its embeddings those of earlier versions."""
    if model.checkpoint.readout is None:
        folder = model.checkpoint.folder
        logger.info(f"{folder} has no readout: embeddings are the output of the encoder; train again for better ones")


def _embed_slide(
    model: LoadedModel, slide: Slide, levels: Sequence[Level], target: Path, origin: dict[str, Any], num_processes: int
) -> dict[str, Any]:
    widths = dict.fromkeys((SLOTS[level] for level in levels), model.checkpoint.recipe.model.width)
    with (
        embedded_file(target, slide, widths, origin) as slots,
        progress(f"embedding {slide.name}", slide.num_cells) as advance,
    ):
        # Rows are written as they are computed, so that the embeddings of a slide need not fit into memory.
        rows_of = {level: slots[SLOTS[level]] for level in levels}
        if num_processes == 1:
            write_slice(model, slide, rows_of, advance=advance)
        else:
            write_with_processes(model, slide.file, rows_of, num_processes, advance)
    shapes = {slot: [slide.num_cells, width] for slot, width in widths.items()}
    return {"path": target.as_posix(), "cells": slide.num_cells, "obsm": shapes}


def _origin(model: LoadedModel, path: Path, radius_um: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Provenance of an embedding: hashes of the slide and the model, the recipe, the radius, and other facts."""
    checkpoint = model.checkpoint
    return provenance.collect(
        "embed",
        inputs=[path],
        model={"run": checkpoint.folder.name, "sha256": provenance.hash_file(checkpoint.folder / MODEL_FILE)},
        recipe=checkpoint.recipe.model_dump(mode="json", exclude_none=True),
        radius_um=radius_um,
        reach_um=reach_radii(model) * radius_um,
        backend=model.backend.name,
        device=str(model.device),
        precision=model.precision,
        **facts,
    )
