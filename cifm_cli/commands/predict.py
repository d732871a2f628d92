"""`cifm predict`: a prepared slide in, expression inferred from the surroundings out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


class Form(StrEnum):
    """Which point estimate is written."""

    MEAN = "mean"
    MEDIAN = "median"
    GATED = "gated"


def predict(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A prepared slide (.h5ad).")],
    at: Annotated[
        Path | None,
        typer.Option(
            "--at",
            metavar="CSV",
            help="Places to infer: columns x_um and y_um, micrometres.",
            show_default="every cell, each while it is hidden",
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--form",
            help="The mean; the median: zero up to P(expressed) = 1/2, above it mean / P(expressed), the level of a cell "
            "that expresses the gene; or gated: the mean, zero where P(expressed) is low.",
        ),
    ] = Form.MEAN,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="P(expressed) up to which `gated` says zero.")
    ] = 0.5,
    model: options.Model = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The .h5ad to write.", show_default="predicted/SLIDE.h5ad"),
    ] = None,
    seed: options.Seed = 0,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    as_json: options.Json = False,
) -> None:
    """Infer the expression of every cell, or at free places, from the cells around."""
    from cifm_cli import provenance
    from cifm_cli.data.slide import open_slide
    from cifm_cli.data.writers import predicted as inferred
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.inference.predict import estimator
    from cifm_cli.inference.predict_slide import infer_blocks, infer_places
    from cifm_cli.report import terminal

    (path,) = workspace.slide_paths([slide])[:1]
    run = workspace.run_folder(model)
    engine = load_model(run, backend, device, precision)
    estimate = estimator(engine, form.value, threshold)
    tissue = engine.fit_slide(open_slide(path))
    columns = engine.panel(tissue).columns
    facts = {"form": form.value, "threshold": threshold if form is Form.GATED else None}
    origin = provenance.collect(
        "predict", seed=seed, inputs=[path, run / "model.safetensors"], precision=precision, **facts
    )
    target = out or Path("predicted", path.name)
    places_um = None if at is None else inferred.read_locations(at)
    number = tissue.num_cells if places_um is None else len(places_um)
    with terminal.progress("inferring", number) as advance:
        if places_um is None:
            with inferred.predicted_file(target, tissue, columns, origin) as (values, expressed):
                for rows, found in infer_blocks(engine, tissue, seed):
                    values.write(rows, estimate(found))
                    expressed.write(rows, found.expressed)
                    advance(len(rows))
        else:
            found = infer_places(engine, tissue, places_um, advance)
            inferred.write_locations(target, tissue, columns, places_um, estimate(found), found.expressed, origin)
    terminal.say(f"{number:,} {'cells' if at is None else 'places'} x {len(columns):,} genes: {target}")
    if as_json:
        terminal.emit({"path": target.as_posix(), "cells": number, "genes": len(columns), **facts})
