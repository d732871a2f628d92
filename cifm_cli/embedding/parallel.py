"""Embedding one slide in several processes, each of which writes its rows into the same file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.inference.encode import encode_blocks
from cifm_cli.inference.loaded_model import LoadedModel, load_model
from cifm_cli.processes import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.data.writers.dense_rows import DenseRows
    from cifm_cli.inference.encode import Level
    from cifm_cli.recipe_sections import Precision

# Several slices for each process: the last processes end at nearly the same time, and the progress bar moves.
_SLICES_PER_PROCESS = 16


def write_slice(
    model: LoadedModel,
    slide: Slide,
    rows_of: Mapping[Level, DenseRows],
    tile_slice: tuple[int, int] = (0, 1),
    advance: Callable[[float], None] = lambda _: None,
) -> int:
    """Embed a slice of the tiles of a slide, and write the embeddings.

    Args:
        model: The model.
        slide: The slide, with the radius of the model.
        rows_of: For each level, where its rows are written.
        tile_slice: Number of the slice, and how many there are; all tiles by default.
        advance: Called with the number of cells after every tile.

    Returns:
        Number of cells that were embedded.
    """
    num_cells = 0
    for block in encode_blocks(model, slide, list(rows_of), tile_slice=tile_slice):
        for level, features in block.features.items():
            rows_of[level].write(block.rows, features)
        num_cells += len(block.rows)
        advance(len(block.rows))
    return num_cells


def write_with_processes(
    model: LoadedModel,
    path: Path,
    rows_of: Mapping[Level, DenseRows],
    num_processes: int,
    advance: Callable[[float], None],
) -> None:
    """Embed a slide in several processes, each on a GPU of its own where the model is on a GPU.

    Args:
        model: The model. Every process loads it from its folder, or gets a copy if it is adapted to the slide.
        path: The prepared slide.
        rows_of: For each level, where its rows are written.
        num_processes: Number of processes.
        advance: Called with the number of cells after every slice of tiles.

    Raises:
        CifmError: There are fewer GPUs than processes, or a process failed.
    """
    on_gpu = model.device.type == "cuda"
    if on_gpu and torch.cuda.device_count() < num_processes:
        raise CifmError(
            f"--devices {num_processes}: there are {torch.cuda.device_count()} GPUs here",
            "ask for no more processes than GPUs",
        )
    num_slices = num_processes * _SLICES_PER_PROCESS
    devices = [f"cuda:{number}" if on_gpu else str(model.device) for number in range(num_processes)]
    # A model in memory is copied to every process, so one that is as it was trained is read from its file instead.
    source = model.copied_to(torch.device("cpu")) if model.adaptation else model.checkpoint.folder
    start = partial(_start_worker, source, model.backend.name, devices, model.precision, path, dict(rows_of))
    with WorkerPool(
        num_processes,
        start,
        name="embedding process",
        hint="the memory may have been used up: use fewer --devices",
        # The processes divide the threads: more threads than cores slow all of them down.
        num_threads=max(1, torch.get_num_threads() // num_processes),
    ) as pool:
        for _, num_cells in pool.run((number, num_slices) for number in range(num_slices)):
            advance(num_cells)


def _start_worker(
    source: LoadedModel | Path,
    backend: str,
    devices: list[str],
    precision: Precision,
    path: Path,
    rows_of: Mapping[Level, DenseRows],
    number: int,
) -> Callable[[tuple[int, int]], int]:
    """Load the model and open the slide in a worker; return the function that embeds a slice of tiles."""
    # Onto the worker's own device.
    if isinstance(source, LoadedModel):
        model = source.copied_to(torch.device(devices[number]))
    else:
        model = load_model(source, backend, devices[number], precision)
    slide = model.fit_slide(open_slide(path))
    return partial(write_slice, model, slide, rows_of)
