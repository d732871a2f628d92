"""`cifm predict`: predict the expression of hidden cells, or at given locations, of a prepared slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import predict_options as own


def predict(
    slide: own.Slide,
    at: own.At = None,
    form: own.FormName = own.Form.MEAN,
    threshold: own.Threshold = 0.5,
    model: options.Model = None,
    adapt: options.Adapt = "slide",
    out: own.Out = None,
    seed: options.Seed = 0,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    no_verify: options.NoVerify = False,
    force: own.Force = False,
    as_json: options.Json = False,
) -> None:
    """Predict the expression of every cell, or at given locations, from the surrounding cells."""
    from cifm_cli import provenance
    from cifm_cli.data.readers.locations import read_locations
    from cifm_cli.data.slide import open_slide
    from cifm_cli.data.writers import predicted
    from cifm_cli.evaluation.trust import find_trust
    from cifm_cli.inference.adaptation.option import adaptation_facts, open_adapted
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.inference.predict import point_estimate
    from cifm_cli.inference.predict_slide import find_far, predict_blocks, predict_locations
    from cifm_cli.report import terminal

    (path,) = workspace.slide_paths([slide])[:1]
    run = workspace.run_folder(model)
    loaded = load_model(run, backend, device, precision)
    estimate = point_estimate(loaded, form.value, threshold)
    locations_um = None if at is None else read_locations(at)
    predicted.require_replaceable(target := out or _default_target(path, at), path, force=force)
    tissue = open_slide(path)
    if locations_um is not None:  # before the adaptation
        find_far(tissue.with_radius(loaded.checkpoint.recipe.data.radius_um), locations_um)
    genes = loaded.overlap_facts(tissue)
    loaded, tissue = open_adapted(loaded, tissue, adapt, seed)
    columns = loaded.panel(tissue).columns
    facts: dict[str, Any] = {"form": form.value, "threshold": threshold if form is own.Form.GATED else None}
    facts["evaluation"] = find_trust(run, [path])
    about = {**facts, "genes": genes, "precision": precision, **adaptation_facts(loaded, adapt, seed)}
    origin = provenance.collect("predict", seed=seed, inputs=[path, run / "model.safetensors"], **about)
    number = tissue.num_cells if locations_um is None else len(locations_um)
    with terminal.progress("inferring", number) as advance:
        if locations_um is None:
            with predicted.predicted_file(target, tissue, columns, origin) as (values, expressed):
                for rows, prediction in predict_blocks(loaded, tissue, seed):
                    values.write(rows, estimate(prediction))
                    expressed.write(rows, prediction.expressed)
                    advance(len(rows))
        else:
            prediction = predict_locations(loaded, tissue, locations_um, advance)
            at_places = locations_um, estimate(prediction), prediction.expressed
            predicted.write_locations(target, tissue, columns, *at_places, origin)
    terminal.say(f"{number:,} {'cells' if at is None else 'locations'} x {len(columns):,} genes: {target}")
    terminal.say(facts["evaluation"]["sentence"])
    if as_json:
        terminal.emit({"path": target.as_posix(), "cells": number, "genes": len(columns), "adapt": adapt, **facts})


def _default_target(slide: Path, at: Path | None) -> Path:
    """The file of all cells of a slide, or another one for each file of locations, so that none replaces it."""
    name = slide.name if at is None else f"{slide.stem}_at_{at.stem}.h5ad"
    return Path("predicted", name)
