"""`cifm annotate`: assign types to the cells of prepared slides, and train a classifier of cell types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options

app = typer.Typer(help="Assign cell types to the cells of a slide; train a classifier of cell types.")


Annotator = Annotated[
    str,
    typer.Option("--annotator", metavar="NAME[:PATH]", help="Annotator to use, see `cifm annotate list`."),
]
Tissue = Annotated[
    str,
    typer.Option(
        "--tissue",
        metavar="TEXT",
        help="Tissue, such as breast or lung; types that it lacks are left out.",
        show_default="that of the prepared slide",
    ),
]


@app.command("apply")
def apply(
    slides: options.Slides = None,
    annotator: Annotator = "markers",
    tissue: Tissue = "",
    write_obs: Annotated[
        list[Path] | None,
        typer.Option(
            "--write-obs",
            metavar="FILE",
            help="Also add the types to obs of this .h5ad: the slide itself, or its embedded slide; may be repeated.",
        ),
    ] = None,
    trust_pickle: options.TrustPickle = False,
    out: options.Out = workspace.ANNOTATED,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Assign a type to every cell of prepared slides; writes a CSV with type and score, and a page with maps, for each."""
    from cifm_cli import provenance
    from cifm_cli.celltype import annotate
    from cifm_cli.celltype.apply_report import type_table
    from cifm_cli.celltype.obs_columns import match_slides
    from cifm_cli.celltype.obs_columns import write_obs as write_obs_columns
    from cifm_cli.celltype.registry import model_files
    from cifm_cli.celltype.taxonomy import require_tissue
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal

    require_tissue(tissue)
    paths = workspace.slide_paths(slides or ())
    closed_slides = annotate.open_slides(paths)
    targets = match_slides(write_obs or (), closed_slides)
    annotations = []
    for closed in closed_slides:
        slide = open_slide(closed.file)  # with its counts, which are released after the slide
        with terminal.progress(slide.name, slide.num_cells) as advance:
            opened = annotate.open_whole_slide(annotator, slide, seed, trust_pickle=trust_pickle, tissue=tissue)
            annotations.append((closed, annotate.annotate_slide(opened, slide, advance), opened))
    inputs = [*paths, *model_files(annotator)]
    origin = provenance.collect("annotate apply", seed=seed, inputs=inputs, annotator=annotator, tissue=tissue)
    result = annotate.write_annotations(out, annotations, origin)
    for target, number, rows in targets:
        write_obs_columns(target, rows, annotations[number][1])
        terminal.say(f"types in obs: {target}")
    for slide, types, _ in annotations:
        facts = result[slide.name]
        terminal.show_table(f"{slide.name}, by {annotator}", type_table(types))
        for sentence in facts["limits"]:
            terminal.say(sentence)
        terminal.say(f"cells, types and scores: {facts['path']}; maps and markers: {facts['page']}")
    if not write_obs:
        terminal.say("--write-obs FILE also adds the types to an .h5ad, for cifm export, probe and share")
    content = {"slides": result, "provenance": origin}
    if as_json:
        terminal.emit(content)


@app.command("check")
def check(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED", help="A prepared slide or other .h5ad with counts and labels.")
    ],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="obs column that holds the cell types.")],
    annotator: Annotator = "markers",
    tissue: Tissue = "",
    trust_pickle: options.TrustPickle = False,
    out: options.Out = workspace.ANNOTATED,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compare an annotator with labels: accuracy by lineage and type, calibration, and types that the tissue lacks."""
    from cifm_cli import provenance
    from cifm_cli.celltype import annotate
    from cifm_cli.celltype.check import check_types
    from cifm_cli.celltype.check_report import score_table, write_check_files
    from cifm_cli.celltype.labelled_cells import read_labelled_cells
    from cifm_cli.celltype.registry import model_files
    from cifm_cli.celltype.taxonomy import require_tissue
    from cifm_cli.report import terminal

    require_tissue(tissue)
    cells = read_labelled_cells(labelled, label)
    tissue = tissue or annotate.stored_tissue(labelled) or ""
    types = annotate.annotate_labelled(
        cells, annotator, name=labelled.stem, seed=seed, trust_pickle=trust_pickle, tissue=tissue
    )
    checked = check_types(cells.labels, types, tissue)
    inputs = [labelled, *model_files(annotator)]
    origin = provenance.collect(
        "annotate check", seed=seed, inputs=inputs, annotator=annotator, label=label, tissue=tissue
    )
    content = write_check_files(out, labelled.stem, checked, origin)
    terminal.show_table(f"{labelled.name}, {annotator} against {label}", score_table(checked.facts))
    terminal.say(f"confusion, lineages and calibration: {content['page']}")
    if as_json:
        terminal.emit(content)


Labelled = Annotated[
    Path,
    typer.Argument(
        metavar="LABELLED",
        help="An .h5ad with raw counts and a column of cell types, or a table of profiles (genes by types).",
    ),
]
TrainingLabel = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="obs column that holds the cell types; not for a table."),
]
PseudoBulk = Annotated[
    bool,
    typer.Option("--pseudo-bulk", help="The rows are sums over many cells, from which single cells are drawn."),
]
Threshold = Annotated[
    float, typer.Option("--threshold", min=0, max=1, help="Probability below which a cell is unassigned.")
]


@app.command("train")
def train(
    labelled: Labelled,
    label: TrainingLabel = None,
    pseudo_bulk: PseudoBulk = False,
    slide: Annotated[
        Path | None,
        typer.Option(
            "--for", metavar="SLIDE", help="Prepared slide to train for: uses its genes and the depth of its cells."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The file to write.", show_default="annotators/LABELLED.safetensors"
        ),
    ] = None,
    threshold: Threshold = 0.5,
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
    from cifm_cli.celltype.drawn_cells import is_profile_table, read_training_cells
    from cifm_cli.celltype.fitting import TargetSlide, report_table, train_classifier
    from cifm_cli.celltype.reference import save_classifier
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal

    if label is None and not is_profile_table(labelled):
        raise typer.BadParameter("an .h5ad needs the column of its cell types", param_hint="--label")
    tissue = open_slide(slide) if slide else None
    target = TargetSlide(tissue.symbols, tissue.total_counts) if tissue else None
    cells = read_training_cells(labelled, label, target, pseudo_bulk=pseudo_bulk, num_cells=max_cells, seed=seed)
    with terminal.progress(f"fitting a classifier to {len(cells.labels):,} cells", None):
        classifier = train_classifier(cells, target, max_cells=max_cells, threshold=threshold, seed=seed)
    inputs = [labelled, *([slide] if slide else [])]
    origin = provenance.collect("annotate train", seed=seed, inputs=inputs, label=label, max_cells=max_cells)
    path = out or workspace.ANNOTATORS / f"{labelled.name.partition('.')[0]}.safetensors"
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
