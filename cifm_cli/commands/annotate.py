"""`cifm annotate`: assign types to the cells of prepared slides, and train a classifier of cell types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options

app = typer.Typer(help="Assign cell types to the cells of a slide; train a classifier of cell types.")


@app.command("apply")
def apply(
    slides: options.Slides = None,
    annotator: Annotated[
        str,
        typer.Option("--annotator", metavar="NAME[:PATH]", help="Annotator to use, see `cifm annotate list`."),
    ] = "markers",
    trust_pickle: options.TrustPickle = False,
    out: options.Out = workspace.ANNOTATED,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Assign a type to every cell of prepared slides; writes one CSV for each, with cell, type and score."""
    from cifm_cli import provenance
    from cifm_cli.celltype import annotate
    from cifm_cli.celltype.registry import model_files
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal
    from cifm_cli.report.table import Table

    paths = workspace.slide_paths(slides or ())
    annotations = []
    for closed in annotate.open_slides(paths):
        slide = open_slide(closed.file)  # with its counts, which are released after the slide
        with terminal.progress(slide.name, slide.num_cells) as advance:
            types = annotate.annotate(slide, annotator, seed=seed, trust_pickle=trust_pickle, advance=advance)
        annotations.append((closed, types))
    inputs = [*paths, *model_files(annotator)]
    origin = provenance.collect("annotate apply", seed=seed, inputs=inputs, annotator=annotator)
    result = annotate.write_annotations(out, annotations, origin)
    for name, facts in result.items():
        rows = [[kind, f"{part['cells']:,}", f"{part['mean_score']:.2f}"] for kind, part in facts["types"].items()]
        terminal.show_table(f"{name}, by {annotator}", Table(["type", "cells", "mean score"], rows))
        terminal.say(f"cells, types and scores: {facts['path']}")
    content = {"slides": result, "provenance": origin}
    if as_json:
        terminal.emit(content)


@app.command("train")
def train(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED", help="An .h5ad with raw counts and a column of cell types.")
    ],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="obs column that holds the cell types.")],
    slide: Annotated[
        Path | None,
        typer.Option(
            "--for", metavar="SLIDE", help="Prepared slide to train for: uses its genes and the depth of its cells."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The .safetensors to write.", show_default="annotators/LABELLED.safetensors"
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Probability below which a cell is unassigned.")
    ] = 0.5,
    max_cells: Annotated[
        int,
        typer.Option(
            "--max-cells",
            metavar="N",
            min=100,
            help="Approximate number of cells to use, about the same of every type.",
        ),
    ] = 20_000,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Train a calibrated classifier on labelled cells, and report its accuracy on held-out cells."""
    from dataclasses import replace

    from cifm_cli import provenance
    from cifm_cli.celltype.fitting import TargetSlide, report_table, train_classifier
    from cifm_cli.celltype.labelled_cells import read_labelled_cells
    from cifm_cli.celltype.reference import save_classifier
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal

    tissue = open_slide(slide) if slide else None
    target = TargetSlide(tissue.symbols, tissue.total_counts) if tissue else None
    classifier = train_classifier(
        read_labelled_cells(labelled, label), target, max_cells=max_cells, threshold=threshold, seed=seed
    )
    inputs = [labelled, *([slide] if slide else [])]
    origin = provenance.collect("annotate train", seed=seed, inputs=inputs, label=label, max_cells=max_cells)
    path = out or workspace.ANNOTATORS / f"{labelled.stem}.safetensors"
    save_classifier(path, replace(classifier, provenance=origin))
    report = classifier.report
    terminal.show_table("held-out cells", report_table(report))
    for name, size in report["left_out"].items():
        terminal.warn(f"{name}: left out, {size} cells are too few")
    terminal.say(f"annotate a slide with: cifm annotate apply SLIDE --annotator reference:{path}")
    if as_json:
        terminal.emit({"path": path.as_posix(), **report, "provenance": origin})


@app.command("list")
def list_annotators(as_json: options.Json = False) -> None:
    """List the annotators of this installation."""
    from cifm_cli.celltype.registry import installed_annotators
    from cifm_cli.report import terminal

    annotators = installed_annotators()
    if as_json:
        terminal.emit(annotators)
    else:
        terminal.listing([(name, f"from {package}") for name, package in annotators.items()])
