"""`cifm inspect`: what is in a download, a slide or another .h5ad of cifm, a run, a model, or the result of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cifm_cli.commands import options


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A download, a slide or another .h5ad of cifm, a run, a model, or the result of a command: its file or folder.",
        ),
    ],
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Show what a download holds, or a file or folder that cifm wrote."""
    from cifm_cli.data.corpus import corpus_table
    from cifm_cli.report import terminal

    facts = _describe(path)
    if as_json:
        terminal.emit(facts)
    elif facts.get("kind") == "corpus":
        terminal.listing(corpus_table(facts))
    else:
        rows = dict(terminal.flatten(facts))
        if isinstance(facts.get("sentence"), str):
            rows["sentence"] = facts["sentence"]  # the answer is not shortened
        terminal.listing(list(rows.items()))


def _describe(path: Path) -> dict[str, Any]:
    from cifm_cli import workspace
    from cifm_cli.data.corpus import describe_corpus, is_corpus
    from cifm_cli.simulation.stored_result import find_result
    from cifm_cli.stored_results import describe_stored_result, find_stored_result
    from cifm_cli.training.learning_curve import describe_progress

    if path.suffix == ".safetensors" or (path / "model.safetensors").is_file():
        model = path if path.suffix == ".safetensors" else path / "model.safetensors"
        facts = _describe_model(model)
        training = describe_progress(model.parent) if model.name == "model.safetensors" else {}
        return {"kind": facts["kind"], **training, **facts}
    if (result := find_result(path)) is not None:
        return _describe_simulation(result)
    if (stored := find_stored_result(path)) is not None:
        return describe_stored_result(stored)
    if path.is_dir() and workspace.has_slides(path):
        slides = workspace.slide_paths([path])
        described = None if is_corpus(slides) else {slide.name: _describe_slide(slide) for slide in slides}
        return describe_corpus(slides) if described is None else described
    return _describe_slide(path) if path.is_file() and path.suffix == ".h5ad" else _describe_download(path)


def _describe_download(path: Path) -> dict[str, Any]:
    """Describe a download; its readers are imported for nothing else."""
    from cifm_cli.data.prepare.describe_download import describe_download

    return describe_download(path)


def _describe_simulation(path: Path) -> dict[str, Any]:
    """Describe a result of `cifm simulate`, and the tissue beside it."""
    from cifm_cli.simulation.stored_result import describe_result

    facts, tissue = describe_result(path), path.with_name("trajectory.h5ad")
    if facts["kind"] != "simulation" or not tissue.is_file():
        return facts
    layers = _describe_slide(tissue)
    layers.pop("provenance", None)  # that of the simulation
    return facts | {tissue.name: layers}


def _describe_model(path: Path) -> dict[str, Any]:
    """Describe a model, a training state or a classifier of cell types, which the header tells apart."""
    from cifm_cli.celltype import reference
    from cifm_cli.model import checkpoint
    from cifm_cli.tensor_files import read_header
    from cifm_cli.training import state

    header = read_header(path, checkpoint.CHECKPOINT) or {}
    if header.get("kind") == reference.KIND:
        return reference.describe(path)
    return state.describe(path) if state.is_state(header) else checkpoint.describe(path)


def _describe_slide(path: Path) -> dict[str, Any]:
    """Describe a prepared slide, an embedded one, which has an embedding in `obsm`, or another result."""
    from cifm_cli import keys
    from cifm_cli.data.metadata import read_metadata
    from cifm_cli.data.slide import describe_slide
    from cifm_cli.data.slide_file import open_slide_file, reading_slot
    from cifm_cli.data.writers.embedded import read_embedded
    from cifm_cli.errors import CifmError

    with open_slide_file(path) as file, reading_slot(path):
        if not hasattr(file.get("obs", {}), "keys"):
            raise CifmError(
                f"{path}: an .h5ad of anndata before version 0.7, not of cifm",
                "cells with labels can be used as they are with `cifm annotate train`; write it again with a later anndata for the rest",
            )
        shapes = {name: list(block.shape) for name, block in file.get("obsm", {}).items() if hasattr(block, "shape")}
        obs, layers = sorted(set(file.get("obs", ())) - {"_index"}), sorted(file.get("layers", ()))
    if keys.MICROENVIRONMENT in shapes or keys.CELL in shapes:
        origin = read_embedded(path).origin  # with its checks, so that a slide that can be inspected can be used
        return {"kind": "embedded slide", "obs": obs, "obsm": shapes, keys.EMBEDDING: origin}
    about = read_metadata(path)
    if about is None or keys.FORMAT in about or keys.PROVENANCE not in about:  # only prepared slides have a format
        return describe_slide(path)
    kind = f"result of cifm {about[keys.PROVENANCE].get('command')}"
    return {"kind": kind, "obs": obs, "layers": layers, "obsm": shapes, keys.PROVENANCE: about[keys.PROVENANCE]}
