"""`cifm probe`: predict a label from embeddings with a linear classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def probe(
    slides: Annotated[
        list[Path], typer.Argument(metavar="EMBEDDED...", help="Embedded slides (.h5ad), or folders of them.")
    ],
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="COLUMN", help="Label to predict: a column of obs, or condition, tissue or sample."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="JSON file to write; an .html and a .png of the same name are written too."
        ),
    ] = Path("probe.json"),
    folds: Annotated[int, typer.Option("--folds", min=2, max=20, help="Folds of the cross-validation.")] = 5,
    max_cells: Annotated[
        int, typer.Option("--max-cells", metavar="N", min=100, help="Largest number of cells; larger data are sampled.")
    ] = 20_000,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Measure how well a linear classifier predicts a label from embeddings, compared with plain expression."""
    from cifm_cli import provenance
    from cifm_cli.data.writers.embedded import read_embedded
    from cifm_cli.embedding import probe_report
    from cifm_cli.embedding.probe import probe_slides
    from cifm_cli.report import html, terminal

    paths = workspace.slide_paths(slides, workspace.EMBEDDED, "cifm embed SLIDE")
    result = probe_slides(
        [read_embedded(path) for path in paths], label, num_folds=folds, max_cells=max_cells, seed=seed
    )
    origin = provenance.collect("probe", seed=seed, inputs=paths, max_cells=max_cells)
    content = result.content | {"provenance": origin}
    with workspace.atomic_files(out.parent, out.name) as new:
        (new / out.with_suffix(".png").name).write_bytes(probe_report.draw_bars(result, "roc_auc"))
        page = new / out.with_suffix(".html").name
        html.write_report(page, f"Linear probe of {label}", probe_report.sections(result), origin)
        workspace.write_json(new / out.name, content)
    for title, table in (
        (f"Linear probe of {label}", probe_report.summary_table(result)),
        ("Embedding minus the best baseline", probe_report.comparison_table(result)),
    ):
        terminal.show_table(title, table)
    if warnings := content["warnings"]:
        terminal.show_table("Warnings about these scores", probe_report.warning_table(warnings))
    terminal.say(probe_report.explain(result))
    terminal.say(f"report: {out.with_suffix('.html')}")
    if as_json:
        terminal.emit(content)
