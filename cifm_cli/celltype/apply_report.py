"""The page of `cifm annotate apply`, to judge the types of a slide by eye: a map, a dot plot of markers, what is missing.

Letters: N cells, G genes, T names.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import TYPING_SUM, UNASSIGNED
from cifm_cli.celltype.label_names import lineage_of_label
from cifm_cli.celltype.lineage_check import LineageCheckedAnnotator
from cifm_cli.celltype.marker_annotator import MarkerAnnotator
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.spots import SpotAnnotator
from cifm_cli.celltype.taxonomy import LINEAGES
from cifm_cli.provenance import numpy_generator
from cifm_cli.report import matrix_plots, plots
from cifm_cli.report.html import Image, Section, draw_image, write_report
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation, Annotator
    from cifm_cli.data.slide import Slide

MAX_DRAWN_CELLS: Final = 100_000  # of the maps
MAX_DOT_CELLS: Final = 20_000  # whose expression the dot plot averages
GENES_PER_TYPE: Final = 3
MIN_SHARE: Final = 0.002  # of the cells; rarer types are not drawn
MAX_LINEAGES: Final = 3  # that the answer names
_TABLE: Final = (
    "The score of a cell is how sure the annotator is of its type, from 0 to 1; cells of a low score stay unassigned. Where scores are "
    "calibrated, about 80 % of the cells that score 0.8 have the right type: cifm annotate check measures it on labelled cells."
)
FOREIGN: Final = (
    "The genes are not human: human markers were compared with genes of the same symbol, which is not reliable. Train an annotator "
    "on labelled cells of the species (cifm annotate train), or map the genes with cifm prepare --orthologs."
)
SPOTS: Final = (
    "These are spots of several cells, so each gets the lineage that stands out most in it (epithelial, stromal or immune cell): "
    "not the type of a cell, and no proportion of cell types."
)
MAX_COLOURS: Final = 12  # types of the map, which can be told apart


def write_apply_report(
    path: Path, slide: Slide, types: Annotation, annotator: Annotator, provenance: dict[str, Any]
) -> None:
    """Write the HTML page of a slide.

    Args:
        path: The `.html` file.
        slide: The slide, with its counts.
        types: Types of its N cells.
        annotator: The annotator that assigned them.
        provenance: Dictionary from `provenance.collect`.

    Raises:
        CifmError: The file cannot be written.
    """
    labels = types.labels.astype(str)
    lineages = np.array([lineage_of_label(name) for name in types.names], dtype=object)[types.codes].astype(str)
    sections = [
        Section("Maps", images=_maps(slide, labels, lineages)),
        Section("Cell types", _TABLE, type_table(types)),
        Section(
            "Markers",
            "The area of a dot is the fraction of the cells of a type that express a gene, its colour the mean expression.",
            images=_dot_plot(slide, types, annotator),
        ),
    ]
    write_report(
        path,
        f"Cell types of {slide.name}",
        [section for section in sections if section.table or section.images],
        provenance,
        answer=answer(slide.name, types, lineages),
        remarks=limits(types, annotator, slide.gene_ids),
    )


def answer(name: str, types: Annotation, lineages: NDArray[Any]) -> str:
    """What the slide consists of, and how many cells could not be named, in one sentence.

    Args:
        name: Name of the slide.
        types: Types of its N cells.
        lineages: (N,) lineage of each cell.

    Returns:
        The sentence.
    """
    number, num_unassigned = len(types.codes), int((types.codes == len(types.names) - 1).sum())
    found, sizes = np.unique(lineages[types.codes != len(types.names) - 1], return_counts=True)
    if not len(found):
        return f"No cell of {name} could be given a type."
    largest = np.argsort(-sizes, kind="stable")[:MAX_LINEAGES]
    parts = ", ".join(f"{found[i]} {sizes[i] / number:.0%}" for i in largest)
    num_types = len(np.unique(types.codes)) - bool(num_unassigned)
    several = "lineages" if len(largest) > 1 else "lineage"
    return (
        f"{num_types} {'type was' if num_types == 1 else 'types were'} found among the {number:,} cells of {name}; most frequent {several}: {parts}; "
        f"{num_unassigned:,} cells ({num_unassigned / number:.1%}) could not be given a type."
    )


def type_table(types: Annotation) -> Table:
    """Format the types with their lineage, number of cells and mean score, the most frequent first."""
    sizes = types.composition()
    rows = [
        [
            types.names[code],
            lineage_of_label(types.names[code]),
            f"{sizes[code]:,}",
            f"{sizes[code] / max(len(types.codes), 1):.1%}",
            f"{types.scores[types.codes == code].mean():.2f}",
        ]
        for code in np.argsort(-sizes, kind="stable")
        if sizes[code]
    ]
    return Table(["type", "lineage", "cells", "share", "mean score"], rows)


def limits(types: Annotation, annotator: Annotator, genes: Sequence[str] = ()) -> list[str]:
    """Tell which cells and types an annotator could not name.

    Args:
        types: Types of the cells of a slide.
        annotator: The annotator that assigned them.
        genes: Ensembl ids of the slide.

    Returns:
        Sentences.
    """
    is_unassigned = types.codes == len(types.names) - 1
    sentences = [f"{is_unassigned.sum():,} of {len(types.codes):,} cells are unassigned ({is_unassigned.mean():.1%})."]
    if isinstance(annotator, MarkerAnnotator | SpotAnnotator) and 2 * sum(map(_is_foreign, genes)) > len(genes):
        sentences.append(FOREIGN)
    if isinstance(annotator, SpotAnnotator):
        return [*sentences, SPOTS]
    if not isinstance(annotator, MarkerAnnotator):
        return [*sentences, *_limits_of_classifier(types, annotator)]
    if annotator.tissue is None:
        sentences.append(
            "The tissue is unknown, so types of certain tissues need more evidence. Name it with --tissue: "
            "cifm prepare and cifm annotate apply take it."
        )
    else:
        sentences.append(f"Tissue: {annotator.tissue}; types that it lacks are left out.")
    absent = [name for name, is_found in zip(annotator.types, annotator.evidence.is_found, strict=True) if not is_found]
    for names, reason in (
        (sorted(annotator.left_out), "The panel has too few markers of"),
        (absent, "The slide shows too few markers of"),
        (_groups(annotator.indistinct), "The panel hardly tells apart"),
    ):
        if names:
            sentences.append(f"{reason}: {', '.join(names)}.")
    return sentences


def _groups(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Describe pairs of similar types, those that share their first type together: a panel may have thirty of them."""
    partners: dict[str, list[str]] = {}
    for first, second in pairs:
        partners.setdefault(first, []).append(second)
    return [f"{first} from {' / '.join(others)}" for first, others in partners.items()]


def _is_foreign(gene: str) -> bool:
    return not gene.startswith("ENSG")


def _limits_of_classifier(types: Annotation, annotator: Annotator) -> list[str]:
    """What becomes of the cells of types that a classifier does not know."""
    number = sum(name != UNASSIGNED for name in types.names)
    if isinstance(annotator, LineageCheckedAnnotator) and types.is_outside is not None:
        outside, lineages = int(types.is_outside.sum()), ", ".join(annotator.lineages)
        share = outside / max(len(types.codes), 1)
        other_lineages = (
            f"{outside:,} of them ({share:.1%} of all cells) are, by marker genes, of a lineage that the reference lacks. "
            f"It has: {lineages}."
        )
        same_lineages = f"The annotator knows {number} types: another type of these lineages gets the most similar name, unless its score is low."
        return [other_lineages, same_lineages]
    sentence = (
        f"The annotator knows {number} types, and cells of other lineages are not recognised here: a cell of any other type gets "
        "the most similar of these, unless its score is low. Compare with `cifm annotate apply` without --annotator."
    )
    return [sentence]


def _maps(slide: Slide, labels: NDArray[Any], lineages: NDArray[Any]) -> list[Image]:
    """Maps of lineages and of types."""
    rows = np.arange(slide.num_cells)
    if len(rows) > MAX_DRAWN_CELLS:
        rows = np.sort(numpy_generator(0, "annotation map").choice(rows, MAX_DRAWN_CELLS, replace=False))
    frequent, sizes = np.unique(labels, return_counts=True)
    order = [str(name) for name in frequent[np.argsort(-sizes, kind="stable")] if name != UNASSIGNED]
    kept = [name for name in order if (labels == name).mean() >= MIN_SHARE][:MAX_COLOURS]
    known = [name for name in LINEAGES if (lineages == name).any()]
    return [
        draw_image(
            lambda: plots.tissue_map(slide.xy_um[rows], lineages[rows], "Lineages", order=known, unknown=UNASSIGNED),
            "Lineages of the cells. Pale grey: cells without a type",
        ),
        draw_image(
            lambda: plots.tissue_map(slide.xy_um[rows], labels[rows], "Types", order=kept, unknown=UNASSIGNED),
            f"Types of the cells: the {len(kept)} most frequent in colour, others grey, cells without a type pale grey",
        ),
    ]


def _dot_plot(slide: Slide, types: Annotation, annotator: Annotator) -> list[Image]:
    """Expression of the markers of the frequent types; empty if the panel has none of them."""
    rows = np.arange(slide.num_cells)
    if len(rows) > MAX_DOT_CELLS:
        rows = np.sort(numpy_generator(0, "annotation dots").choice(rows, MAX_DOT_CELLS, replace=False))
    expression, codes = slide.expression(rows, TYPING_SUM).tocsc(), types.codes[rows]
    sizes = np.bincount(codes, minlength=len(types.names))
    drawn = [code for code in range(len(types.names)) if sizes[code] >= max(MIN_SHARE * len(rows), 3)]
    column = {symbol.upper(): position for position, symbol in reversed(list(enumerate(slide.symbols)))}
    mean = np.array([np.asarray(expression[codes == code].mean(axis=0)).ravel() for code in drawn])
    genes: dict[int, None] = {}  # a dictionary keeps the order
    for row, code in enumerate(drawn):
        listed = [column[gene.upper()] for gene in _listed(types.names[code], annotator) if gene.upper() in column]
        # The markers that the type expresses most, relative to the other types.
        contrast = mean[row, listed] / (mean[:, listed].mean(axis=0) + 0.05)
        genes.update(dict.fromkeys(listed[position] for position in np.argsort(-contrast)[:GENES_PER_TYPE]))
    if not genes:
        return []
    columns = list(genes)
    fraction = np.array([expression[codes == code][:, columns].getnnz(axis=0) / sizes[code] for code in drawn])
    draw = partial(
        matrix_plots.dots,
        fraction,
        mean[:, columns],
        [types.names[code] for code in drawn],
        [slide.symbols[gene] for gene in columns],
        "Markers",
        label="mean log-normalised expression",
    )
    return [draw_image(draw, "Expression of markers by type: markers of the same type stand together")]


def _listed(name: str, annotator: Annotator) -> tuple[str, ...]:
    """Markers of a type: those of the annotator's table, or of the packaged one."""
    markers = annotator.markers if isinstance(annotator, MarkerAnnotator) else load_markers()
    return markers.get(name, ())
