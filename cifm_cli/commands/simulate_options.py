"""Options of `cifm simulate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer


class Form(StrEnum):
    """What an updated cell becomes; see `cifm_cli.simulation.config`."""

    state = "state"
    sample = "sample"
    mean = "mean"
    gated = "gated"


Inject = Annotated[
    list[str] | None,
    typer.Option(
        "--inject",
        metavar="TYPE",
        help="Cell type to inject, such as tcell or 'plasma cell', or void for cells without expression; may be repeated.",
    ),
]
Remove = Annotated[
    list[str] | None, typer.Option("--remove", metavar="LABEL", help="Remove the cells of a type; may be repeated.")
]
Swap = Annotated[
    list[str] | None,
    typer.Option(
        "--swap", metavar="A=B", help="Replace each cell of type A by a copy of a cell of type B; may be repeated."
    ),
]
Knockout = Annotated[
    list[str] | None,
    typer.Option("--knockout", metavar="GENE", help="Set the counts of a gene to zero (see --in); may be repeated."),
]
Overexpress = Annotated[
    list[str] | None,
    typer.Option(
        "--overexpress",
        metavar="GENE=X",
        help="Add counts of a gene until its mean is X times as high (see --in); may be repeated.",
    ),
]
Cells = Annotated[
    str | None,
    typer.Option(
        "--in",
        metavar="LABEL",
        help="Cells in which --knockout and --overexpress change a gene; with --sensitivity, cells whose value is meant.",
        show_default="all cells of the window",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="COLUMN",
        help="obs column of the slide, such as cluster, whose labels the edits name.",
        show_default="cell types by marker genes",
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--count",
        min=0,
        help="Number of cells to inject, of each type.",
        show_default="2 % of the cells of the window",
    ),
]
Density = Annotated[
    float | None,
    typer.Option("--density", min=0, help="Cells to inject per mm2 of the tissue, in place of their number."),
]
At = Annotated[
    Path | None,
    typer.Option(
        "--at",
        metavar="CSV",
        help="Inject a cell at each of these places: a CSV with the columns x_um and y_um, in micrometres.",
    ),
]
MinDistance = Annotated[
    float,
    typer.Option(
        "--min-distance", min=0, metavar="UM", help="Smallest distance of an injected cell to other cells, micrometres."
    ),
]
Near = Annotated[
    str | None,
    typer.Option("--near", metavar="LABEL", help="Edit only places and cells near a cell of this type (see --within)."),
]
Within = Annotated[
    float | None,
    typer.Option(
        "--within", metavar="UM", help="Distance for --near, micrometres.", show_default="the radius of the graph"
    ),
]
Region = Annotated[
    str | None,
    typer.Option("--region", metavar="X0,Y0,X1,Y1", help="Edit only places and cells in this box, in micrometres."),
]
Dynamics = Annotated[
    Literal["coupled", "redraw"] | None,
    typer.Option(
        "--dynamics",
        help="coupled: a cell changes its state only as far as its surroundings have changed; redraw: every updated cell "
        "is drawn from its prediction, as in the paper.",
        show_default="coupled for --form state, else redraw",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Number of steps.", show_default="two updates of every cell")
]
Share = Annotated[
    float,
    typer.Option("--share", min=0.001, max=0.5, help="Fraction of the cells that one step masks and predicts."),
]
FormName = Annotated[
    Form,
    typer.Option(
        "--form",
        help="What a cell becomes: a cell of one of the tissue's own states, counts drawn gene by gene, the mean, or the "
        "gated mean.",
    ),
]
Replicates = Annotated[
    int, typer.Option("--replicates", min=1, help="Repetitions with other positions and another schedule.")
]
Crop = Annotated[
    str | None,
    typer.Option("--crop", metavar="X0,Y0,X1,Y1", help="Simulate only this box, in micrometres."),
]
MaxCells = Annotated[
    int, typer.Option("--max-cells", min=10, help="Simulate at most this many cells, in the middle of the tissue.")
]
Markers = Annotated[
    Path | None,
    typer.Option(
        "--markers", metavar="TSV", help="Marker genes (columns cell_type and symbol) that extend the packaged table."
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--inject-from", "--reference", metavar="H5AD", help="Inject copies of cells of this file, not of the slide."
    ),
]
DonorKey = Annotated[
    str | None,
    typer.Option(
        "--inject-donor-key",
        metavar="COLUMN",
        help="obs column of --inject-from with donors, of which each replicate takes another one.",
        show_default="donor_id, donor, patient_id, patient, individual, sample_id or sample, if there is one",
    ),
]
ReferenceLabel = Annotated[
    str,
    typer.Option(
        "--inject-label", "--reference-label", metavar="COLUMN", help="obs column of --inject-from with cell types."
    ),
]
Validate = Annotated[
    bool,
    typer.Option(
        "--validate",
        help="Simulate nothing; instead measure what the neighbours of hidden cells of the slide tell of their expression, and "
        "whether the response finds planted effects. No model is used.",
    ),
]
Sensitivity = Annotated[
    str | None,
    typer.Option(
        "--sensitivity",
        metavar="GENE_OR_LABEL",
        help="Simulate nothing; instead map how the prediction of a gene or label changes with an infinitesimal cell of the type "
        "of --inject at each free place.",
    ),
]
Search = Annotated[
    int | None,
    typer.Option(
        "--search",
        min=1,
        metavar="N",
        help="With --sensitivity: propose N placements, and check each with a whole cell.",
    ),
]
SearchGenes = Annotated[
    bool,
    typer.Option("--search-genes", help="With --search: propose knockouts and overexpressions, not placements."),
]
SearchGoal = Annotated[
    Literal["raise", "lower"],
    typer.Option("--search-goal", help="With --search: propose edits that raise or that lower the target."),
]
