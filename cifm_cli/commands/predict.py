"""`cifm predict`: infer the expression of hidden cells or at free positions of a prepared slide."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


class Form(StrEnum):
    """Point estimate to write."""

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
            help="Point estimate. mean; median: zero up to P(expressed) = 1/2, else mean / P(expressed), the level of "
            "cells that express the gene; gated: the mean, but zero where P(expressed) is at most --threshold.",
        ),
    ] = Form.MEAN,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="P(expressed) up to which `gated` is zero.")
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
    """Infer the expression of every cell, or at free positions, from the cells around."""
    from cifm_cli import provenance
    from cifm_cli.data.slide import open_slide
    from cifm_cli.data.writers import predicted
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.inference.predict import point_estimate
    from cifm_cli.inference.predict_slide import predict_blocks, predict_places
    from cifm_cli.report import terminal

    (path,) = workspace.slide_paths([slide])[:1]
    run = workspace.run_folder(model)
    loaded = load_model(run, backend, device, precision)
    estimate = point_estimate(loaded, form.value, threshold)
    tissue = loaded.fit_slide(open_slide(path))
    columns = loaded.panel(tissue).columns
    facts = {"form": form.value, "threshold": threshold if form is Form.GATED else None}
    origin = provenance.collect(
        "predict", seed=seed, inputs=[path, run / "model.safetensors"], precision=precision, **facts
    )
    target = out or Path("predicted", path.name)
    places_um = None if at is None else predicted.read_locations(at)
    number = tissue.num_cells if places_um is None else len(places_um)
    with terminal.progress("inferring", number) as advance:
        if places_um is None:
            with predicted.predicted_file(target, tissue, columns, origin) as (values, expressed):
                for rows, prediction in predict_blocks(loaded, tissue, seed):
                    values.write(rows, estimate(prediction))
                    expressed.write(rows, prediction.expressed)
                    advance(len(rows))
        else:
            prediction = predict_places(loaded, tissue, places_um, advance)
            predicted.write_locations(
                target, tissue, columns, places_um, estimate(prediction), prediction.expressed, origin
            )
    terminal.say(f"{number:,} {'cells' if at is None else 'places'} x {len(columns):,} genes: {target}")
    if as_json:
        terminal.emit({"path": target.as_posix(), "cells": number, "genes": len(columns), **facts})
