"""Several processes embed one slide: each its share of the tiles, written straight to its rows of the one file."""

from __future__ import annotations

import signal
from contextlib import redirect_stderr
from io import StringIO
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING

import torch

from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.inference.encode import encode_blocks
from cifm_cli.inference.loaded_model import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.sharedctypes import Synchronized
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.data.writers.dense_rows import DenseRows
    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.recipe_sections import Precision

_LOOK_S = 0.2  # between looks at how far the processes are


def write_share(
    engine: LoadedModel,
    slide: Slide,
    rows_of: Mapping[Level, DenseRows],
    share: tuple[int, int],
    advance: Callable[[float], None],
) -> None:
    """Embed a share of a slide's tiles and write them.

    Args:
        engine: The model.
        slide: The slide, at the model's radius.
        rows_of: Where the rows of each level go.
        share: As in `encode_blocks`.
        advance: Called with the number of cells done.
    """
    for block in encode_blocks(engine, slide, list(rows_of), rank_slice=share):
        for level, features in block.features.items():
            rows_of[level].write(block.rows, features)
        advance(len(block.rows))


def embed_together(
    engine: LoadedModel, path: Path, rows_of: Mapping[Level, DenseRows], devices: int, advance: Callable[[float], None]
) -> None:
    """Embed a slide with several processes, on a GPU each where the engine is on one.

    Args:
        engine: The model, as each of them loads it.
        path: The prepared slide.
        rows_of: Where the rows of each level go.
        devices: How many processes.
        advance: Called with the number of cells done.

    Raises:
        CifmError: There are fewer GPUs, or a process did not come to its end.
    """
    gpus = torch.cuda.device_count() if engine.device.type == "cuda" else devices
    if gpus < devices:
        raise CifmError(f"--devices {devices}: there are {gpus} GPUs here", "ask for no more processes than GPUs")
    context = get_context("spawn")  # a fork of a process with threads may hang
    done, threads = context.Value("q", 0), max(1, torch.get_num_threads() // devices)
    processes = [
        context.Process(
            target=_work, args=(_plan(engine, number), path, dict(rows_of), (number, devices), threads, done)
        )
        for number in range(devices)
    ]
    try:
        for process in processes:
            process.start()
        _wait(processes, done, advance)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _plan(engine: LoadedModel, number: int) -> tuple[Path, str, str, Precision]:
    """What a process loads its engine from."""
    device = f"cuda:{number}" if engine.device.type == "cuda" else str(engine.device)
    return engine.checkpoint.folder, engine.backend.name, device, engine.precision


def _work(
    plan: tuple[Path, str, str, Precision],
    path: Path,
    rows_of: Mapping[Level, DenseRows],
    share: tuple[int, int],
    threads: int,
    done: Synchronized[int],
) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    torch.set_num_threads(threads)
    engine = load_model(*plan)
    with redirect_stderr(StringIO()):  # that process has said it
        slide = engine.fit_slide(open_slide(path))

    def advance(amount: float) -> None:
        with done.get_lock():
            done.value += int(amount)

    write_share(engine, slide, rows_of, share, advance)


def _wait(processes: Sequence[BaseProcess], done: Synchronized[int], advance: Callable[[float], None]) -> None:
    """Wait until all are done; one that fails says why by itself."""
    told, waiting = 0, list(processes)
    while waiting:
        connection.wait([process.sentinel for process in waiting], _LOOK_S)
        waiting = [process for process in waiting if process.is_alive()]
        now = done.value
        advance(now - told)
        told = now
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            raise CifmError(
                f"an embedding process ended with {failed[0]}",
                "the reason is above; where there is none, memory was used up: use fewer --devices",
            )
