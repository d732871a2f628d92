"""Choice of the weights and the penalty of a slide adaptation, on tuning cells.

For each penalty the weights with the smallest loss are found. Few tuning cells are fitted too closely by some penalties, so the
penalties are then compared by cross-validation over areas of these cells.

Letters: M cells, P genes, D differences.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.sparse import vstack

from cifm_cli.inference.adaptation.regression import NUM_PARTS, Choice
from cifm_cli.inference.adaptation.slide_adaptation import OUTPUTS, profile_of
from cifm_cli.inference.adaptation.weights import (
    NETWORK_WEIGHTS,
    composition_loss,
    depth_patterns,
    log_loss,
    minimise,
    shrink,
    split_differences,
    squared_error,
    sum_losses,
)
from cifm_cli.inference.neighbourhood.residuals import parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.inference.adaptation.regression import FittedRegression, Predicted
    from cifm_cli.inference.adaptation.weights import Loss, Weights
    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
    from cifm_cli.statistics.ridge import RidgeSolver

    Values = NDArray[np.float32]
    Genes = NDArray[np.int64]

# In units of the mean variance of a feature; without a regression for the first
PENALTIES = (np.inf, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
# Penalties in a row without an improvement, after which lower ones are not tried: solving for a large panel takes time.
MAX_WORSE = 2
# Cells times genes that weights are fitted to, and genes of them: cells are left out last, because they vary more.
MAX_VALUES, MAX_WEIGHT_GENES = 1_000_000, 2_000
# Of more tuning cells, the loss at the weights that were fitted to them is hardly too small.
MAX_CROSS_VALIDATED = 1_000
NUM_GROUPS = 5  # of cross-validation
_TINY = 1e-6


class HeldOut(NamedTuple):
    """Cells on which candidates are compared."""

    regression: FittedRegression  # fitted to other cells, as the predictions were
    predicted: Sequence[Predicted]


class _Compared(NamedTuple):
    """One output of some cells."""

    wide: Values  # (M, P) mean within the widest circle
    differences: Values  # (D, M, P) from `weights.split_differences`
    expression: Values  # (M, P) actual log-normalised expression
    counts: csr_matrix  # (M, P) actual counts


class _Regressed(NamedTuple):
    """What the regression adds to the differences of one output of the cells of one tile."""

    of_genes: RidgeSolver  # of (F, 3 P) coefficients, part by part
    of_depth: RidgeSolver | None  # of (F, 3) coefficients: the products of the parts with the pattern
    pattern: Values | None  # (P,) from `depth_patterns`
    features: Values  # (M, F)

    def differences(self, penalty: float) -> Values:
        """(D, M, P), to be added to those without a regression."""
        of_blend, of_smoother, of_network = np.split(self.of_genes.predict(self.features, penalty), NUM_PARTS, axis=1)
        signed = np.stack([np.zeros_like(of_blend), of_blend, -of_smoother, -of_network])
        if self.of_depth is None or self.pattern is None:
            return signed
        depth = self.of_depth.predict(self.features, penalty).T * np.array([[1], [-1], [-1]], np.float32)
        common = depth[:, :, None] * self.pattern
        signed[1:] -= common
        return np.concatenate([signed, common])


def choose(held_out: Sequence[HeldOut], without_network: Sequence[HeldOut] = ()) -> list[Choice]:
    """Choose weights and penalty of each output: for means by squared error, for the others by log loss.

    Args:
        held_out: Cells to compare the candidates on.
        without_network: Further cells on which penalties are compared, with weights of their own that are not used.

    Returns:
        A choice for each of `OUTPUTS`; without cells the network without a regression.
    """
    best = [Choice(np.inf, NETWORK_WEIGHTS, np.inf)] * len(OUTPUTS)
    own = _Candidates.of(held_out)
    if own is None:
        return best
    others = _Candidates.of(without_network)
    num_worse = 0
    for penalty in PENALTIES:
        before = best
        found = own.fit(penalty)
        of_others = others.fit(penalty) if others else [(0.0, NETWORK_WEIGHTS)] * len(OUTPUTS)
        best = [
            min(known, Choice(loss + other, weights, penalty))
            for known, (loss, weights), (other, _) in zip(best, found, of_others, strict=True)
        ]
        num_worse = num_worse + 1 if best == before else 0
        if num_worse == MAX_WORSE:
            break
    return [choice._replace(weights=shrink(choice.weights, own.num_cells)) for choice in best]


class _ComparedGenes(NamedTuple):
    """Genes that the weights of an output are fitted to."""

    columns: Genes  # (P,) ascending
    multiples: Values  # (P,) number of genes that each stands for


class _Candidates(NamedTuple):
    """Cells on which penalties are compared, and weights fitted."""

    num_cells: int
    outputs: Sequence[_Output]

    @classmethod
    def of(cls, held_out: Sequence[HeldOut]) -> Self | None:
        """The cells of some parts; None without any."""
        predicted = [each for part in held_out for each in part.predicted]
        if not predicted:
            return None
        num_cells = sum(each.tile.num_cells for each in predicted)
        genes = _compared_genes(predicted[0].tile.stats)
        return cls(num_cells, [_output(held_out, output, genes[output], num_cells) for output in range(len(OUTPUTS))])

    def fit(self, penalty: float) -> list[tuple[float, Weights]]:
        """Loss and weights of each output."""
        return [_fit(*output.losses(penalty), self.num_cells) for output in self.outputs]


class _Output(NamedTuple):
    """One output of the cells on which penalties are compared. What does not depend on the penalty is computed once."""

    output: int  # position in `OUTPUTS`
    genes: _ComparedGenes
    composition: Values  # (P,) fractions of the slide, whose sum, each times its multiple, is 1
    compared: _Compared  # without a regression
    regressed: Sequence[_Regressed]  # for each tile, in the order of the cells

    def losses(self, penalty: float) -> tuple[list[Loss], int]:
        """The losses of consecutive cells of one area or fold each, whatever the size of the tiles; and D."""
        wide, differences, expression, counts = self.compared
        if np.isfinite(penalty):
            added = [each.differences(penalty) for each in self.regressed]
            differences = differences + np.concatenate(added, axis=1)
        ends = np.arange(NUM_GROUPS + 1) * len(wide) // NUM_GROUPS
        groups = [
            _Compared(wide[first:end], differences[:, first:end], expression[first:end], counts[first:end])
            for first, end in pairwise(ends.tolist())
            if end > first
        ]
        return [self._loss(group) for group in groups], len(differences)

    def _loss(self, compared: _Compared) -> Loss:
        """The loss of some cells as a function of the weights."""
        if OUTPUTS[self.output] == "composition":
            multiples = self.genes.multiples
            return composition_loss(compared.differences, compared.wide, self.composition, compared.counts, multiples)
        differences, wide = compared.differences.reshape(len(compared.differences), -1), compared.wide.ravel()
        if OUTPUTS[self.output] == "mean":
            return squared_error(differences, compared.expression.ravel() - wide)
        return log_loss(differences, wide, compared.expression.ravel() > 0)


def _output(held_out: Sequence[HeldOut], output: int, genes: _ComparedGenes, num_cells: int) -> _Output:
    """Collect what the weights of an output are fitted to."""
    cells = slice(None, None, -(-num_cells * len(genes.columns) // MAX_VALUES))
    compared: list[_Compared] = []
    regressed: list[_Regressed] = []
    compositions: list[NDArray[np.float64]] = []
    for regression, predicted in held_out:
        of_genes = regression.solver_of(output, genes.columns)
        for each in predicted:
            pattern = depth_patterns(each.tile.stats)[output]
            of_depth = None if pattern is None else regression.depth_solver(output, pattern)
            own = None if pattern is None else pattern[genes.columns]
            regressed.append(_Regressed(of_genes, of_depth, own, regression.features(each)[cells]))
            compared.append(_compare(each, output, cells, genes.columns))
            compositions.append(each.tile.stats.composition[genes.columns])
    # The compositions without the hidden cells of each fold are nearly the same.
    composition = np.mean(compositions, axis=0)
    composition = (composition / max(float(composition @ genes.multiples), _TINY)).astype(np.float32)
    return _Output(output, genes, composition, _join(compared), regressed)


def _join(compared: Sequence[_Compared]) -> _Compared:
    """The cells of all tiles."""
    return _Compared(
        np.concatenate([each.wide for each in compared]),
        np.concatenate([each.differences for each in compared], axis=1),
        np.concatenate([each.expression for each in compared]),
        vstack([each.counts for each in compared], format="csr"),
    )


def _fit(losses: Sequence[Loss], num_differences: int, num_cells: int) -> tuple[float, Weights]:
    """The weights for all groups of cells, and their loss, on groups that are left out if there are few cells."""
    loss, weights = minimise(sum_losses(losses), num_differences)
    if num_cells > MAX_CROSS_VALIDATED or len(losses) == 1:
        return loss, weights
    total = 0.0
    for number, left_out in enumerate(losses):
        others = [*losses[:number], *losses[number + 1 :]]
        own = minimise(sum_losses(others), num_differences, start=weights)[1]
        used = shrink(own, num_cells * len(others) // len(losses))
        total += left_out(np.asarray(used[:num_differences]))[0]
    return total, weights


def _compared_genes(stats: GeneStats) -> list[_ComparedGenes]:
    """Genes that the weights of each output are fitted to."""
    num_genes = len(stats.mean)
    evenly = np.arange(0, num_genes, -(-num_genes // MAX_WEIGHT_GENES))
    drawn = _ComparedGenes(evenly, np.ones(len(evenly), np.float32))
    # The log loss of a composition is that of the counts, and most counts are of a few genes: others are drawn.
    order = np.argsort(-stats.composition, kind="stable")
    frequent, rest = order[: MAX_WEIGHT_GENES // 2], order[MAX_WEIGHT_GENES // 2 :]
    rest_drawn = rest[:: max(1, -(-len(rest) // (MAX_WEIGHT_GENES // 2)))]
    columns = np.concatenate([frequent, rest_drawn])
    multiples = np.ones(len(columns), np.float32)
    multiples[len(frequent) :] = len(rest) / max(len(rest_drawn), 1)
    ascending = np.argsort(columns)
    return [drawn, drawn, _ComparedGenes(columns[ascending], multiples[ascending])]


def _compare(predicted: Predicted, output: int, cells: slice, genes: Genes) -> _Compared:
    """What the weights of an output are fitted to without a regression, for some of the cells and genes."""
    tile = predicted.tile
    predictions = (tile.circles[-1], predicted.blend, predicted.features.smoothed, predicted.network)
    wide, blend, smoothed, network = (parts_of(each)[output][cells] for each in predictions)
    profile = profile_of(tile.stats)[output]
    differences = np.stack([profile - wide, blend - wide, smoothed - blend, network - smoothed])
    pattern = depth_patterns(tile.stats)[output]
    depth = None if pattern is None else differences @ pattern
    return _Compared(
        wide[:, genes],
        split_differences(differences[:, :, genes], None if pattern is None else pattern[genes], depth),
        tile.expression[cells][:, genes].toarray(),
        tile.counts[cells][:, genes],
    )
