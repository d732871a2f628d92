"""`cifm import-release`: turn the paper's public release into a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def import_release(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the downloaded release.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.")] = workspace.RUNS / "release",
    names: Annotated[
        Path | None,
        typer.Option("--names", metavar="FILE", help="JSON with names of modules that differ from the known ones."),
    ] = None,
    radius_um: Annotated[
        float | None,
        typer.Option(
            "--radius-um", min=1e-3, max=1e6, help="Radius of the graph in micrometres.", show_default="the release's"
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Turn the public release of the paper into a run, which all other commands take with --model."""
    from cifm_cli.release.importing import import_release as run_import
    from cifm_cli.report.terminal import emit, say

    result = run_import(folder, out, names=names, radius_um=radius_um)
    facts = result.to_json()
    say(
        f"{out}: {facts['parameters']:,} parameters, {facts['genes']:,} genes of {facts['channels']:,} channels, width "
        f"{facts['width']:,}, {facts['encoder_layers']} + {facts['decoder_layers']} layers, radius {facts['radius_um']:g} um"
    )
    if result.unused:
        say(f"left out, as nothing reads it: {', '.join(result.unused)}")
    say(f"its own prediction is `cifm predict SLIDE --model {out} --form gated`")
    if as_json:
        emit(facts)
