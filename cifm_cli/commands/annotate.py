"""`cifm annotate`: name the cells of prepared slides, and train what names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options

app = typer.Typer(help="Name the cells of a slide; train a classifier of cell types.")


@app.command("apply")
def apply(
    slides: options.Slides = None,
    annotator: Annotated[
        str,
        typer.Option("--annotator", metavar="NAME[:PATH]", help="Who names the cells: see `cifm annotate list`."),
    ] = "markers",
    trust_pickle: options.TrustPickle = False,
    out: options.Out = workspace.ANNOTATED,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Name every cell of prepared slides: one CSV for each, with cell, type and score."""
    from cifm_cli import keys, provenance
    from cifm_cli.celltype import annotate
    from cifm_cli.celltype.registry import model_files
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal

    paths = workspace.slide_paths(slides or ())
    found = []
    for listed in annotate.open_slides(paths):
        slide = open_slide(listed.file)
        opened = annotate.open_for_slide(annotator, slide, slide.region(keys.ALL), seed, trust_pickle=trust_pickle)
        with terminal.progress(slide.name, slide.num_cells) as advance:
            found.append((listed, annotate.annotate_slide(opened, slide, advance)))
    result = {}
    for slide, types in found:  # only now, so that a slide that can't be annotated leaves no half of a result
        target = out / f"{slide.name}.csv"
        annotate.write_types(target, slide, types)
        facts = annotate.composition_facts(types)
        result[slide.name] = {"path": target.as_posix(), "cells": slide.num_cells, "types": facts}
        shown = [[name, f"{part['cells']:,}", f"{part['mean_score']:.2f}"] for name, part in facts.items()]
        terminal.table(f"{slide.name}, by {annotator}", ["type", "cells", "mean score"], shown)
        terminal.say(f"cells, types and scores: {target}")
    inputs = [*paths, *model_files(annotator)]
    origin = provenance.collect("annotate apply", seed=seed, inputs=inputs, annotator=annotator)
    content = {"slides": result, "provenance": origin}
    workspace.write_json(out / "annotated.json", content)
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
        typer.Option("--for", metavar="SLIDE", help="A prepared slide: train on its genes, at the depth of its cells."),
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
        int, typer.Option("--max-cells", metavar="N", min=100, help="Use about so many cells, of all types alike.")
    ] = 20_000,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train a calibrated classifier on labelled cells, and say how well it names cells it never saw."""
    from dataclasses import replace

    from cifm_cli import provenance
    from cifm_cli.celltype.fitting import TargetSlide, report_table, train_classifier
    from cifm_cli.celltype.labelled_cells import read_labelled
    from cifm_cli.celltype.reference import save_classifier
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal

    tissue = open_slide(slide) if slide else None
    target = TargetSlide(tissue.symbols, tissue.total_counts) if tissue else None
    found = train_classifier(
        read_labelled(labelled, label), target, max_cells=max_cells, threshold=threshold, seed=seed
    )
    inputs = [labelled, *([slide] if slide else [])]
    origin = provenance.collect("annotate train", seed=seed, inputs=inputs, label=label, max_cells=max_cells)
    path = out or workspace.ANNOTATORS / f"{labelled.stem}.safetensors"
    save_classifier(path, replace(found, provenance=origin))
    report = found.report
    terminal.table("cells that were neither trained nor tuned on", *report_table(report))
    for name, size in report["left_out"].items():
        terminal.warn(f"{name}: {size} cells, too few to learn from")
    terminal.say(f"name cells with: cifm annotate apply SLIDE --annotator reference:{path}")
    if as_json:
        terminal.emit({"path": path.as_posix(), **report, "provenance": origin})


@app.command("list")
def list_annotators(as_json: options.Json = False) -> None:
    """List the annotators of this installation."""
    from cifm_cli.celltype.registry import installed
    from cifm_cli.report import terminal

    found = installed()
    if as_json:
        terminal.emit(found)
    else:
        terminal.listing([(name, f"from {package}") for name, package in found.items()])
