"""`cifm simulate` from slide and model to folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cifm_cli import provenance
from cifm_cli.celltype.markers import load_markers
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.inference.loaded_model import load_model
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.report.terminal import progress, say, table, warn
from cifm_cli.simulation import outputs, summary
from cifm_cli.simulation.experiment import ARMS, prepare_experiment
from cifm_cli.simulation.window import choose_window
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.dynamics import Schedule
    from cifm_cli.simulation.experiment import Course, Experiment, InjectionConfig
    from cifm_cli.simulation.window import Box, Window

INJECTED_SHARE: Final = 0.02  # of the cells of the window, when the user names no number
FEW_DONORS: Final = 20
_SHOWN = 12


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        slide: Prepared slide.
        model: Run folder.
        out: Folder to write.
        wanted: What to inject.
        count: Cells to inject; a share of the window when absent.
        schedule: Steps, share, form and seed.
        replicates: How many.
        crop_um: Only this box.
        max_cells: Most cells of the window.
        markers: The user's marker table.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
    """

    slide: Path
    model: Path
    out: Path
    wanted: InjectionConfig
    count: int | None
    schedule: Schedule
    replicates: int
    crop_um: Box | None
    max_cells: int
    markers: Path | None
    backend: str
    device: str


def run_simulation(request: Request) -> dict[str, Any]:
    """Run the experiment and write its folder.

    Args:
        request: What the user asked for.

    Returns:
        Content of `simulation.json`.

    Raises:
        CifmError: Slide, model, type or window don't do, or the folder is taken.
        BackendUnavailableError: There is no such backend here.
    """
    _check_folder(request.out)
    markers = load_markers(request.markers)
    engine = load_model(request.model, request.backend, request.device)
    slide = engine.fit_slide(open_slide(request.slide))
    window = choose_window(slide.xy_um, request.crop_um, request.max_cells)
    say_window(slide, window)
    experiment = prepare_experiment(engine, slide, request.wanted, markers, window, request.schedule)
    count = request.count if request.count is not None else round(INJECTED_SHARE * len(window.rows))
    say_plan(engine, experiment, count, request.replicates)
    total = request.schedule.steps * len(ARMS) * request.replicates
    with progress("simulating", total) as advance:
        courses = experiment.run(count, request.replicates, advance)
    result = describe(request, engine, experiment, courses, count)
    with atomic_path(request.out) as folder:
        folder.mkdir()
        outputs.write_outputs(folder, slide, experiment, courses, result)
    show(result, request.out)
    return result


def _check_folder(out: Path) -> None:
    """Refuse to replace anything but an earlier simulation."""
    if out.exists() and not (out / outputs.RESULT).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise CifmError(f"{out}: already there, and no simulation", "name another folder with --out")


def say_window(slide: Slide, window: Window) -> None:
    """Tell which part of the slide is simulated."""
    box = ",".join(f"{edge:.0f}" for edge in window.box_um)
    if len(window.rows) == slide.num_cells:
        say(f"{slide.name}: all {slide.num_cells:,} cells")
        return
    say(
        f"{slide.name}: {len(window.rows):,} of {slide.num_cells:,} cells, in the window {box} um "
        "(another one with --crop, a larger one with --max-cells)"
    )


def say_plan(engine: LoadedModel, experiment: Experiment, count: int, replicates: int) -> None:
    """Tell what is going to happen."""
    schedule, donors = experiment.dynamics.schedule, experiment.donors
    num_donors = donors.counts.shape[0]
    if num_donors < FEW_DONORS:
        warn(f"only {num_donors} {donors.cell_type}s to inject copies of")
    say(
        f"injecting {count:,} {donors.cell_type}s, copies of {num_donors:,} cells; "
        f"{schedule.steps} steps, {replicates} replicate(s), each with and without; backend {engine.backend.name}"
    )


def describe(
    request: Request, engine: LoadedModel, experiment: Experiment, courses: Sequence[Course], count: int
) -> dict[str, Any]:
    """Content of `simulation.json`."""
    schedule, names = request.schedule, experiment.typer.names
    facts = {"backend": engine.backend.name, "device": str(engine.device)}
    reference = request.wanted.reference
    given = (request.markers, reference.path if reference else None)
    inputs = [request.slide, request.model / MODEL_FILE, *(path for path in given if path)]
    return {
        "slide": request.slide.stem,
        "settings": {
            "steps": schedule.steps,
            "share": schedule.share,
            "form": schedule.form,
            "replicates": request.replicates,
            "seed": schedule.seed,
            "updates_per_cell": schedule.steps / schedule.steps_per_sweep,
        },
        "window": {"box_um": list(experiment.window.box_um), "num_cells": len(experiment.window.rows)},
        "injected": {
            "cell_type": experiment.donors.cell_type,
            "count": count,
            "num_donors": int(experiment.donors.counts.shape[0]),
            "donors": str(reference.path) if reference else "the slide",
        },
        "types": {"known": list(names), "too_few_markers": experiment.typer.left_out},
        "change": summary.change(courses, names),
        "drift": summary.drift(courses, names),
        "notes": outputs.NOTES,
        "provenance": provenance.collect("simulate", seed=schedule.seed, inputs=inputs, **facts),
    }


def show(result: dict[str, Any], out: Path) -> None:
    """Print the change of the commonest types."""
    columns, rows = outputs.change_table(result)
    table(f"{result['slide']}: share of the cells", columns, rows[:_SHOWN])
    say(f"without injection the composition moved by {100 * result['drift']:.1f} % of the cells")
    if result["settings"]["replicates"] == 1:
        say("one replicate does not tell an effect from chance: see how far others differ with --replicates 5")
    say(f"maps, tables and the tissue before and after: {out}/report.html, {out}/trajectory.h5ad")
