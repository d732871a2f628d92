"""Embed whole slides: microenvironment and cell embeddings of every cell, written in the order of the download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifm_cli import keys, provenance
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.embedded import embedded_file
from cifm_cli.embedding.parallel import write_slice, write_with_processes
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.report.terminal import progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel

SLOTS: dict[Level, str] = {"microenvironment": keys.MICROENVIRONMENT, "cell": keys.CELL}


def embed_slides(
    engine: LoadedModel, slides: Sequence[Path], levels: Sequence[Level], out: Path, devices: int = 1
) -> dict[str, Any]:
    """Embed slides, each into a file of its own.

    Args:
        engine: The model.
        slides: Prepared slides.
        levels: Which embeddings.
        out: Folder for `<slide>.h5ad`.
        devices: How many processes embed a slide together; they write the same file, bit for bit.

    Returns:
        By slide: path, number of cells and the shape of each embedding, as JSON.

    Raises:
        CifmError: Two slides share a name, a slide can't be read, or it shares no gene with the model.
    """
    names = [path.stem for path in slides]
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two slides are called {name}", "embed them into different folders with --out")
    return {path.stem: _embed_slide(engine, path, levels, out / f"{path.stem}.h5ad", devices) for path in slides}


def _embed_slide(
    engine: LoadedModel, path: Path, levels: Sequence[Level], target: Path, devices: int
) -> dict[str, Any]:
    slide = engine.fit_slide(open_slide(path))
    widths = dict.fromkeys((SLOTS[level] for level in levels), engine.checkpoint.recipe.model.width)
    with (
        embedded_file(target, slide, widths, _origin(engine, path, slide.radius_um)) as slots,
        progress(f"embedding {slide.name}", slide.num_cells) as advance,
    ):
        rows_of = {level: slots[SLOTS[level]] for level in levels}
        if devices == 1:
            write_slice(engine, slide, rows_of, advance=advance)
        else:
            write_with_processes(engine, path, rows_of, devices, advance)
    say(f"{slide.name}: {slide.num_cells:,} cells embedded as {' and '.join(levels)}: {target}")
    shapes = {slot: [slide.num_cells, width] for slot, width in widths.items()}
    return {"path": target.as_posix(), "cells": slide.num_cells, "obsm": shapes}


def _origin(engine: LoadedModel, path: Path, radius_um: float) -> dict[str, Any]:
    """Provenance of an embedding: the slide and the model by their hashes, the recipe and the radius in use."""
    checkpoint = engine.checkpoint
    return provenance.collect(
        "embed",
        inputs=[path],
        model={"run": checkpoint.folder.name, "sha256": provenance.hash_file(checkpoint.folder / MODEL_FILE)},
        recipe=checkpoint.recipe.model_dump(mode="json", exclude_none=True),
        radius_um=radius_um,
        backend=engine.backend.name,
        device=str(engine.device),
        precision=engine.precision,
    )
