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
            "--label",
            metavar="COLUMN",
            help="Label to predict: a column of obs; condition, tissue or sample of the slides; or FILE.csv:COLUMN, a table with the "
            "barcode of each cell in a column called barcode. {slide} in FILE stands for the name of each slide.",
        ),
    ],
    train_on: Annotated[
        list[str] | None,
        typer.Option(
            "--train-on",
            metavar="NAME",
            help="Slides, samples or platforms to train the classifier on, by name or pattern such as 'visium*'; may be repeated.",
            show_default="all that --test-on does not name",
        ),
    ] = None,
    test_on: Annotated[
        list[str] | None,
        typer.Option(
            "--test-on",
            metavar="NAME",
            help="Slides, samples or platforms to test it on; may be repeated. Without --train-on and --test-on, samples (or blocks of "
            "a single slide) are held out in turn.",
            show_default="all that --train-on does not name",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option("--positive", metavar="CLASS", help="Predict this class against all others together."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="CLASS",
            help="Leave out the cells of this class, such as undetermined; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="JSON file to write; a page (.html), charts (.png, .svg) and tables (.csv, .parquet) of the same name are written too.",
        ),
    ] = Path("probe.json"),
    folds: Annotated[int, typer.Option("--folds", min=2, max=20, help="Folds of the cross-validation.")] = 5,
    max_cells: Annotated[
        int,
        typer.Option(
            "--max-cells",
            metavar="N",
            min=100,
            help="Largest number of cells, of each side with --train-on; larger data are sampled.",
        ),
    ] = 20_000,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Measure how well a linear classifier predicts a label from embeddings, compared with plain expression."""
    from cifm_cli import provenance
    from cifm_cli.data.writers.embedded import read_embedded
    from cifm_cli.embedding import probe_report
    from cifm_cli.embedding.labels import LabelChoice, label_paths
    from cifm_cli.embedding.probe import ProbeConfig, run_probe
    from cifm_cli.embedding.probe_files import write_probe
    from cifm_cli.report import terminal

    paths = workspace.slide_paths(slides, workspace.EMBEDDED, "cifm embed SLIDE")
    config = ProbeConfig(
        LabelChoice(label, positive, tuple(ignore or ())),
        tuple(train_on or ()),
        tuple(test_on or ()),
        num_folds=folds,
        max_cells=max_cells,
        seed=seed,
    )
    embedded = [read_embedded(path) for path in paths]
    result = run_probe(embedded, config)
    inputs = [*paths, *label_paths(label, embedded)]
    origin = provenance.collect("probe", seed=seed, inputs=inputs, max_cells=max_cells)
    content = write_probe(out, result, origin)
    terminal.say(content["evidence"]["answer"])
    for remark in content["evidence"]["remarks"]:
        terminal.say(f"- {remark}")
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
