"""The derivative of a target in the weights of added cells, and in the expression of the residents.

The target is a mean over residents, each of which is hidden once, together with others that are chosen at random, and predicted
from all other cells. One backward pass through each tile gives the derivatives in all added cells at the same time.

Letters: N residents, R target residents, X added cells, M hidden cells of a tile, P genes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.inference.hidden_tile import halo_um
from cifm_cli.model.output import mean_output
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.sensitivity.gated_messages import GatedBackend
from cifm_cli.simulation.sensitivity.gated_tile import prepare_tile
from cifm_cli.simulation.sensitivity.refinement import Refinement, infer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.simulation.sensitivity.added_cells import AddedCells
    from cifm_cli.simulation.sensitivity.gated_tile import GatedTile
    from cifm_cli.simulation.sensitivity.target import Readout
    from cifm_cli.simulation.tissue import TissueState

TILE_CELLS: Final = 1_024  # expressing cells of a core; it bounds the memory


def hidden_sets(cells: Rows, fraction: float, seed: int) -> list[Rows]:
    """Divide target residents into sets that are hidden together.

    Args:
        cells: (R,) ascending rows.
        fraction: Fraction of them that is hidden at once.
        seed: Seed of the division.

    Returns:
        Ascending rows of each set; none is empty.
    """
    order = numpy_generator(seed, "sensitivity").permutation(cells)
    parts = np.array_split(order, min(max(1, round(1 / fraction)), len(cells)))
    return [np.sort(part) for part in parts]


@dataclass(frozen=True)
class Leaves:
    """Offsets of what a prediction reads of the visible cells, all zero, in which it is differentiated."""

    features: tuple[Tensor, ...]  # for each member of the ensemble, of the input features of the embedded cells
    expression: Tensor  # (M, S, P) of the sums of the smoother
    depth: Tensor  # (M, S) of the sums of counts
    circles: tuple[Tensor, ...]  # (M, P) of the neighbour means of each radius


@dataclass(frozen=True)
class TileGradient:
    """Derivatives of the sum of the values of a tile's hidden cells."""

    tile: GatedTile
    values: NDArray[np.float64]  # (M,) values of the hidden cells
    gate: NDArray[np.float64]  # (X,) derivatives in the weights of the added cells of the tile
    leaves: Leaves | None  # derivatives in the offsets, if they were asked for


class TargetFunction:
    """The target as a function of the weights of the added cells."""

    def __init__(
        self,
        model: LoadedModel,
        tissue: TissueState,
        added: AddedCells,
        readout: Readout,
        sets: Sequence[Rows],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Prepare the evaluation.

        Args:
            model: The model.
            tissue: The residents.
            added: The added cells.
            readout: What is read of a prediction.
            sets: Target residents that are hidden together, from `hidden_sets`.
            dtype: Precision of the computation.
        """
        self.model, self._tissue, self._added, self._readout, self._sets = model, tissue, added, readout, sets
        self._dtype = dtype
        # A copy, as the weights of the model may be of another precision and may require gradients.
        network = copy.deepcopy(model.checkpoint.network).requires_grad_(requires_grad=False)
        self.network: Ensemble = network.to(dtype)
        self._reach_um = halo_um(model, tissue.slide)
        like = torch.zeros((), dtype=dtype, device=model.device)
        self._refinement = Refinement.of(model.adaptation, like) if model.adaptation else None
        self._backend = GatedBackend()

    @property
    def num_tiles(self) -> int:
        """Number of tiles of all sets."""
        return sum(len(list(self._cores(cells))) for cells in self._sets)

    def gradients(
        self,
        gate: NDArray[np.float64] | None = None,
        advance: Callable[[], None] = lambda: None,
        *,
        with_leaves: bool = False,
    ) -> Iterator[TileGradient]:
        """Differentiate the values of the hidden cells of every tile.

        Args:
            gate: (X,) weights of the added cells; zero by default.
            advance: Called after every tile.
            with_leaves: Differentiate in the offsets of `Leaves` too.

        Yields:
            The derivatives of one tile.
        """
        weights = np.zeros(self._added.num_cells) if gate is None else gate
        slide = self._tissue.slide
        tiler = Tiler(slide.xy_um, self._tissue.expressing, self._reach_um)
        for cells in self._sets:
            is_hidden = np.zeros(slide.num_cells, dtype=bool)
            is_hidden[cells] = True
            for core in self._cores(cells):
                tile = tiler.tile(core)
                hidden = np.flatnonzero(is_hidden[tile.rows])
                prepared = prepare_tile(self.model, slide, tile, hidden, self._added, self._reach_um, self._dtype)
                yield self._differentiate(prepared, weights[prepared.added], with_leaves=with_leaves)
                advance()

    def evaluate(
        self, gate: NDArray[np.float64] | None = None, advance: Callable[[], None] = lambda: None
    ) -> tuple[float, NDArray[np.float64]]:
        """The sum of the values over all target residents, and its (X,) derivatives in the weights of the added cells."""
        total, derivative = 0.0, np.zeros(self._added.num_cells)
        for tile in self.gradients(gate, advance):
            total += float(tile.values.sum())
            derivative[tile.tile.added] += tile.gate
        return total, derivative

    def _cores(self, cells: Rows) -> Iterator[Rows]:
        """Hidden cells of each tile; consecutive rows are near each other."""
        for chunk in chunks(self._tissue.expressing, TILE_CELLS):
            hidden = np.intersect1d(chunk, cells)
            if len(hidden):
                yield hidden

    def _differentiate(self, tile: GatedTile, weights: NDArray[np.float64], *, with_leaves: bool) -> TileGradient:
        with torch.enable_grad():
            gate = torch.from_numpy(weights).to(self.model.device, self._dtype).requires_grad_()
            leaves = self._leaves(tile) if with_leaves else None
            values = self._values(tile, gate, leaves)
            total = values.sum()
            inputs = [gate, *(_flat(leaves) if leaves else ())]
            # A tile may have no added cell, and a prediction may depend on none of them.
            found = torch.autograd.grad(total, inputs, materialize_grads=True) if total.requires_grad else None
        derivatives = [torch.zeros_like(each) for each in inputs] if found is None else list(found)
        arrays = [each.detach().double().cpu().numpy() for each in (values, derivatives[0])]
        return TileGradient(tile, arrays[0], arrays[1], _unflat(derivatives[1:], leaves) if leaves else None)

    def _values(self, tile: GatedTile, gate: Tensor, leaves: Leaves | None) -> Tensor:
        """(M,) values of the hidden cells."""
        masked = tile.with_gates(gate)
        if leaves is not None and masked.neighbours is not None:
            sums = masked.neighbours
            # Only the sum of the counts over the genes has an effect on the mean and the states.
            counts = sums.counts + leaves.depth[:, :, None] / sums.counts.shape[2]
            masked = replace(
                masked, neighbours=replace(sums, expression=sums.expression + leaves.expression, counts=counts)
            )
        outputs, surroundings = [], self.network.describe(masked)
        for number, member in enumerate(self.network.members):
            offset = None if leaves is None else leaves.features[number]
            h = member.embed_expression(masked.expression, masked.genes, masked.slide, offset)
            h, shift = member.encode(self._backend, masked.encoder, h)
            decoded = member.decode(self._backend, masked, h, shift)
            outputs.append(member.head(decoded, masked, member.genes.weight, surroundings))
        output = mean_output(outputs)
        inferred = infer(output)
        if self._refinement is not None:
            circles = tile.circle_means(gate, leaves.circles if leaves else None)
            inferred = self._refinement.refine(output, inferred, circles)
        return self._readout.of_inferred(inferred)

    def _leaves(self, tile: GatedTile) -> Leaves:
        """Offsets of zero."""
        width, sums = self.model.checkpoint.recipe.model.width, tile.base.neighbours
        like = torch.zeros((), dtype=self._dtype, device=self.model.device)

        def zeros(*shape: int) -> Tensor:
            """Offsets of a shape."""
            return like.new_zeros(shape).requires_grad_()

        shape = (0, 0, 0) if sums is None else tuple(sums.expression.shape)
        return Leaves(
            tuple(zeros(len(tile.embedded), width) for _ in self.network.members),
            zeros(*shape),
            zeros(*shape[:2]),
            tuple(zeros(*circle.means.shape) for circle in tile.circles),
        )


def _flat(leaves: Leaves) -> list[Tensor]:
    return [*leaves.features, leaves.expression, leaves.depth, *leaves.circles]


def _unflat(tensors: Sequence[Tensor], like: Leaves) -> Leaves:
    number = len(like.features)
    return Leaves(tuple(tensors[:number]), tensors[number], tensors[number + 1], tuple(tensors[number + 2 :]))
