"""Proposed edits of genes: by the derivative of the target in the expression of each resident, checked by prediction.

An edit changes the expression of a gene in the cells of a label. Its predicted change is the derivative of the target in the
expression of these cells, times the difference of their expression with and without the edit. As counts are relative to the
total of a cell, the expression of its other genes changes too, which is taken into account. An edited cell may be assigned to
another cell state, which is no smooth change; the derivative does not contain it, and the check does.

Letters: N residents, P genes, n cells of a label, M hidden cells, V visible cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.data.tiles import chunks
from cifm_cli.inference.neighbourhood.circle_means import pairs_within, square_side_um
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.edits.apply import GeneChange, apply_edits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.simulation.sensitivity.full_recomputation import FullRecomputation
    from cifm_cli.simulation.sensitivity.gradient import Leaves, TargetFunction, TileGradient
    from cifm_cli.simulation.tissue import TissueState

    Floats = NDArray[np.float64]

OVEREXPRESSION: Final = 2.0  # multiple of the mean that is tried
MIN_CELLS: Final = 20  # of a label whose genes are edited
VALUES_AT_ONCE: Final = 2_000_000  # cells times genes whose edits are predicted together
KNOCKOUT, OVEREXPRESS = "knockout", "overexpress"


@dataclass(frozen=True)
class ExpressionGradient:
    """Derivatives of the sum of the target's values."""

    expression: NDArray[np.float32]  # (N, P) in the log-normalised expression of each resident
    depth: Floats  # (N,) in its number of counts of the P genes, which tells how many counts are around a hidden cell


@dataclass(frozen=True)
class GeneEdit:
    """An edit of one gene in the cells of a label, and its predicted effect."""

    kind: str  # `knockout` or `overexpress`
    gene: int
    label: str
    cells: Rows  # ascending rows of the residents
    fraction: float  # of a cell's counts that are of the gene, mean over the cells
    predicted: float  # change of the sum of the target's values

    def apply(self, tissue: TissueState, seed: int) -> TissueState:
        """Edit a tissue."""
        fold = 0.0 if self.kind == KNOCKOUT else OVEREXPRESSION
        change = GeneChange(self.cells, self.gene, fold, self.fraction)
        return apply_edits(tissue, [change], numpy_generator(seed, "search", self.label, self.gene)).tissue


def expression_gradient(
    function: TargetFunction, tissue: TissueState, advance: Callable[[], None] = lambda: None
) -> ExpressionGradient:
    """Differentiate a target in the expression of all residents.

    Args:
        function: The target.
        tissue: The residents.
        advance: Called after every tile.

    Returns:
        The derivatives.
    """
    num_cells, num_genes = tissue.num_residents, tissue.slide.num_genes
    gradient = ExpressionGradient(np.zeros((num_cells, num_genes), dtype=np.float32), np.zeros(num_cells))
    for tile in function.gradients(advance=advance, with_leaves=True):
        if tile.leaves is not None:
            _add_features(gradient, function, tile, tile.leaves)
            _add_sums(gradient, tile, tile.leaves)
            _add_circles(gradient, tile, tile.leaves)
    return gradient


def _add_features(gradient: ExpressionGradient, function: TargetFunction, tile: TileGradient, leaves: Leaves) -> None:
    """Through the products of the expression with the weights of the genes."""
    for member, derivative in zip(function.network.members, leaves.features, strict=True):
        weight = member.genes.weight[tile.tile.base.genes]
        gradient.expression[tile.tile.embedded] += (derivative @ weight.T).double().cpu().numpy()


def _add_sums(gradient: ExpressionGradient, tile: TileGradient, leaves: Leaves) -> None:
    """Through the sums of the smoother around the hidden cells."""
    sums = tile.tile.base.neighbours
    if sums is None:
        return
    rows, shape = tile.tile.visible_rows, (len(tile.tile.visible_rows), len(tile.values))
    index = (sums.visible.cpu().numpy(), sums.query.cpu().numpy())
    expression, depth = (each.double().cpu().numpy() for each in (leaves.expression, leaves.depth))
    for scale, weight in enumerate(sums.weight.double().cpu().numpy().T):
        around = csr_matrix((weight, index), shape)
        gradient.expression[rows] += around @ expression[:, scale]
        gradient.depth[rows] += around @ depth[:, scale]


def _add_circles(gradient: ExpressionGradient, tile: TileGradient, leaves: Leaves) -> None:
    """Through the neighbour means of an adapted model."""
    visible, slide = tile.tile.visible_cells, tile.tile
    if visible is None:
        return
    for circle, derivative in zip(slide.circles, leaves.circles, strict=True):
        number = circle.number.double().cpu().numpy()
        # An empty circle has the mean of the next wider one, and no cells of its own.
        share = np.divide(1.0, number, out=np.zeros_like(number), where=number > 0)
        side_um = square_side_um(circle.radius_um, visible.radius_um)
        places = cKDTree(tile.tile.queries_um)
        cells = visible.cells if side_um is None else visible.squares(side_um)
        around = pairs_within(places, cells.tree, circle.radius_um).astype(np.float64)
        of_cells = around.T @ (derivative.double().cpu().numpy() * share[:, None])
        if side_um is not None:
            _, square = np.unique(np.floor(visible.xy_um / side_um), axis=0, return_inverse=True)
            of_cells = of_cells[square.ravel()]
        gradient.expression[tile.tile.visible_rows] += of_cells


def propose_edits(
    gradient: ExpressionGradient,
    tissue: TissueState,
    labels: Sequence[tuple[str, Rows]],
    target_sum: float,
    excluded: int | None,
    seed: int,
) -> list[GeneEdit]:
    """Predict the effects of all knockouts and overexpressions.

    Args:
        gradient: Derivatives of the target.
        tissue: The residents.
        labels: Labels, and the rows of their cells.
        target_sum: Sum of the normalised counts of a cell.
        excluded: Gene that is not edited: the target itself.
        seed: Seed of the counts that an overexpression adds.

    Returns:
        The edits, in no order.
    """
    overall = _column_sums(tissue, np.arange(tissue.num_residents))
    edits = []
    for label, cells in labels:
        if len(cells) < MIN_CELLS or label == UNASSIGNED:
            continue
        counted = _column_sums(tissue, cells)
        # As for an edit by name: the mean over cells that all lack the gene says nothing.
        fractions = np.where(counted > 0, counted / max(counted.sum(), 1.0), overall / max(overall.sum(), 1.0))
        knocked, raised = _predict(
            gradient, tissue, cells, fractions, target_sum, numpy_generator(seed, "search", label)
        )
        for gene in np.flatnonzero(overall):
            if gene == excluded:
                continue
            common = (int(gene), label, cells, float(fractions[gene]))
            if counted[gene]:
                edits.append(GeneEdit(KNOCKOUT, *common, float(knocked[gene])))
            edits.append(GeneEdit(OVEREXPRESS, *common, float(raised[gene])))
    return edits


def _column_sums(tissue: TissueState, cells: Rows) -> Floats:
    return np.asarray(tissue.slide.counts(cells).sum(axis=0), dtype=np.float64).ravel()


def _predict(
    gradient: ExpressionGradient,
    tissue: TissueState,
    cells: Rows,
    fractions: Floats,
    target_sum: float,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """(P,) predicted changes by the knockout and by the overexpression of each gene in some cells."""
    num_genes = tissue.slide.num_genes
    changes = np.zeros((2, num_genes))
    for rows in chunks(cells, max(1, VALUES_AT_ONCE // num_genes)):
        counts = tissue.slide.counts(rows).toarray().astype(np.float64)
        total = tissue.slide.total_counts[rows][:, None]
        slope, depth_slope = gradient.expression[rows].astype(np.float64), gradient.depth[rows][:, None]
        before = np.log1p(counts * (target_sum / np.maximum(total, 1.0)))
        # d log1p(x) / d log x, by which a gene changes if the total changes
        relative = slope * -np.expm1(-before)
        others = relative.sum(axis=1, keepdims=True) - relative
        rates = (OVEREXPRESSION - 1) * fractions * counts.sum(axis=1, keepdims=True)
        for number, difference in enumerate((-counts, generator.poisson(rates).astype(np.float64))):
            new_total = np.maximum(total + difference, 1.0)
            after = np.log1p((counts + difference) * (target_sum / new_total))
            change = slope * (after - before) - others * np.log(new_total / np.maximum(total, 1.0))
            changes[number] += (change + depth_slope * difference).sum(axis=0)
    return changes[0], changes[1]


def check_edits(
    edits: Sequence[GeneEdit], full: FullRecomputation, seed: int, advance: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """Make each edit, and predict the tissue.

    Args:
        edits: The edits.
        full: Predictions of the tissue.
        seed: Seed of the counts that an overexpression adds.
        advance: Called after every set of hidden cells.

    Returns:
        A table with `predicted` and `checked` change of the mean over the target residents.
    """
    number, tissue = sum(map(len, full.sets)), full.tissue
    symbols = tissue.slide.symbols
    return pd.DataFrame({
        "edit": [edit.kind for edit in edits],
        "gene": [symbols[edit.gene] for edit in edits],
        "label": [edit.label for edit in edits],
        "num_cells": [len(edit.cells) for edit in edits],
        "predicted": [edit.predicted / number for edit in edits],
        "checked": [
            full.change(edit.apply(tissue, seed), tissue.slide.xy_um[edit.cells], advance) / number for edit in edits
        ],
    })  # fmt: skip
