"""Cases of the conformance checks, their random inputs, and the results.

Letters: N cells, E edges, D features, H heads, P = D / H, B radial basis functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cifm_backends.base import EdgeTerms, Graph, NodeTerms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cifm_backends.base import Backend

# Largest error allowed, relative to the largest entry of a tensor. Half precision is rounded once, after float32 sums.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class CheckResult:
    """Result of one check on one case."""

    quantity: str  # name of the compared tensor, or description of the comparison
    case: str  # name of the case
    dtype: torch.dtype  # precision of the features
    error: float  # measured error
    tolerance: float  # largest error allowed

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; False for NaN."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        """One line with the measured error."""
        outcome = "passed" if self.passed else "FAILED"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{outcome}: {self.quantity}; {self.case}; {dtype}: error {self.error:.1e}, allowed {self.tolerance:.0e}"


@dataclass(frozen=True)
class Case:
    """A graph and the sizes of the tensors on it."""

    name: str  # description of the graph
    mask: Tensor  # (N, N) bool, whether there is an edge j -> i
    width: int = 12  # D
    num_heads: int = 3  # H
    num_basis: int = 6  # B
    num_void: int = 0  # number of leading cells whose features are zero
    stacked: bool = False  # whether all cells are at one position


class Inputs(NamedTuple):
    """The tensors in which `Backend.messages` is differentiable; see `NodeTerms`, `EdgeTerms` and `Graph`."""

    query: Tensor
    key: Tensor
    target: Tensor
    source: Tensor
    radial: Tensor
    coordinate: Tensor
    shift: Tensor
    displacement: Tensor


@dataclass(frozen=True)
class CaseRun:
    """A backend and random inputs of one case."""

    backend: Backend  # the backend to check
    case: Case  # graph and sizes
    dtype: torch.dtype  # precision of the features. Parameters and geometry have the same, but at least float32.
    device: str  # device of the inputs
    inputs: Inputs  # random inputs
    # (N, D) and (N, 2) weights of the two outputs in the scalar that is differentiated
    cotangents: tuple[Tensor, Tensor]

    def result(self, quantity: str, error: float) -> CheckResult:
        """Result with the tolerance of this precision."""
        return CheckResult(quantity, self.case.name, self.dtype, error, TOLERANCE[self.dtype])

    def outputs(self, inputs: Inputs, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run `Backend.messages`.

        Args:
            inputs: Values of the tensors.
            mask: (N, N) another graph than that of the case.

        Returns:
            (N, D) pooled messages and (N, 2) shift.
        """
        # As in a layer, Q, K, A and B are slices of one tensor.
        graph = graph_from_mask(self.case.mask if mask is None else mask, inputs.displacement)
        nodes = NodeTerms(*torch.cat(inputs[:4], dim=-1).chunk(4, dim=-1))
        edges = EdgeTerms(inputs.radial, inputs.coordinate, self.case.num_heads)
        return self.backend.messages(graph, nodes, edges, inputs.shift)

    def differentiate(self, names: Sequence[str] = Inputs._fields) -> dict[str, Tensor]:
        """Outputs of the backend, and gradients of the named inputs, by name."""
        inputs = {n: value.detach().requires_grad_(n in names) for n, value in self.inputs._asdict().items()}
        return with_gradients(inputs, name_outputs(self.outputs(Inputs(**inputs))), self.cotangents)


def all_cases() -> list[Case]:
    """Graphs that are likely to reveal mistakes of a backend."""
    generator = torch.Generator().manual_seed(0)

    def random(num_cells: int, degree: float) -> Tensor:
        """(N, N) adjacency with `degree` neighbours per cell on average, self-loops included."""
        return torch.rand(num_cells, num_cells, generator=generator) * num_cells < degree

    def loops(num_cells: int) -> Tensor:
        """(N, N) adjacency with self-loops only."""
        return torch.eye(num_cells, dtype=torch.bool)

    # Cells 0, 3, 6, 9 send nothing and cells 0, 4, 8 receive nothing: cell 0 has no edge at all, the other
    # six have edges in one direction only.
    sends, receives = torch.arange(12) % 3 > 0, torch.arange(12) % 4 > 0
    return [
        # Edges in one direction only distinguish the sums of receivers from those of senders.
        Case("one-way edges", random(23, 5) & ~loops(23)),
        # Empty arrays are the usual cause of errors in kernels.
        Case("no cells", loops(0)),
        Case("no edges", torch.zeros_like(loops(7))),
        Case("one cell with a self loop", loops(1)),
        Case("isolated cells", random(12, 5) & sends & receives[:, None]),
        # A distance of zero, where a square root would have no derivative.
        Case("cells at one position", ~loops(9), stacked=True),
        Case("self loops", random(11, 4) | loops(11)),
        Case("void cells", random(14, 6), num_void=5),
        Case("long rows", random(70, 60), width=8, num_heads=2),
        Case("many cells", random(300, 6), width=8, num_heads=2),
        Case("wide features", random(13, 4), width=148, num_heads=4),
        # From one head of all features to heads of one feature.
        *(Case(f"{heads} heads of 24 features", random(10, 4), 24, heads) for heads in (1, 2, 6, 24)),
        # Sizes below, at and above a group of 6, which the fused backend computes at a time and pads with zeros.
        *(Case(f"{size} basis functions", random(10, 4), 6, 1, size) for size in (1, 2, 3, 4, 5, 6, 7, 9)),
    ]


def small_cases() -> list[Case]:
    """A few small graphs, for backends that take long for each edge, such as interpreted kernels."""
    # Cell 0 sends only, cell 1 has a self loop, cell 3 receives only.
    edges = torch.tensor([(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
    mask = torch.zeros(4, 4, dtype=torch.bool).index_put(tuple(edges.T), torch.tensor(data=True))
    return [
        Case("no cells, small", mask[:0, :0], width=3, num_heads=1, num_basis=1),
        Case("no edges, small", mask[:1, :1], width=3, num_heads=1, num_basis=1),
        # Sizes that are not powers of two
        Case("five edges", mask, width=15, num_heads=3, num_basis=3, num_void=1),
        Case("two cells at one position", mask[1:3, 1:3], width=4, num_heads=4, num_basis=6, stacked=True),
    ]


def draw_case(backend: Backend, case: Case, dtype: torch.dtype, device: str) -> CaseRun:
    """Draw the inputs of a case, the same values in every precision up to rounding.

    Args:
        backend: The backend to check.
        case: Graph and sizes.
        dtype: Precision of the features.
        device: Device of the inputs.

    Returns:
        The backend and its inputs.
    """
    generator = torch.Generator().manual_seed(1)  # drawn in float64, then rounded
    num_cells, num_edges, width = len(case.mask), int(case.mask.sum()), case.width
    occupied = (torch.arange(num_cells) >= case.num_void)[:, None]
    spread = 0.0 if case.stacked else 1.0
    nodes = [draw_normal(generator, num_cells, width) * occupied for _ in NodeTerms._fields]
    parameters = [draw_normal(generator, width, case.num_basis), draw_normal(generator, width)]
    # With standard deviations of 0.4 radii and of 0.2 for the shift, a few edges end up longer than the radius.
    geometry = [
        spread * 0.2 * draw_normal(generator, num_cells, 2),
        spread * 0.4 * draw_normal(generator, num_edges, 2),
    ]
    wide = torch.promote_types(dtype, torch.float32)
    # Geometry and parameters are never narrower than float32.
    inputs = [value.to(device, dtype) for value in nodes] + [value.to(device, wide) for value in parameters + geometry]
    weights = (
        draw_normal(generator, num_cells, width).to(device, dtype),
        draw_normal(generator, num_cells, 2).to(device, wide),
    )
    return CaseRun(backend, case, dtype, device, Inputs(*inputs), weights)


def graph_from_mask(mask: Tensor, displacement: Tensor) -> Graph:
    """Build the graph of an (N, N) mask, with (E, 2) displacements in the order of the rows of the mask."""
    targets, sources = mask.to(displacement.device).nonzero(as_tuple=True)
    indptr = torch.zeros(len(mask) + 1, dtype=torch.int64, device=displacement.device)
    indptr[1:] = mask.to(displacement.device).sum(1).cumsum(0)
    return Graph(indptr, sources, targets, displacement)


def name_outputs(outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Name the two outputs of `Backend.messages`."""
    return dict(zip(("pooled", "moved"), outputs, strict=True))


def with_gradients(
    inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], weights: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Outputs, and gradients of their weighted sum in the inputs that require one, by name."""
    leaves = {name: value for name, value in inputs.items() if value.requires_grad}
    total = torch.stack([(value * weight).sum() for value, weight in zip(outputs.values(), weights, strict=True)]).sum()
    # An input without effect has a gradient of zero, not None: there are cases without edges.
    grads = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    values = {name: value.detach() for name, value in outputs.items()}
    return values | {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def draw_normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw normally distributed float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference divided by the largest expected entry; not divided if all expected entries are zero."""
    if value.numel() == 0:
        return 0.0
    # In float64: a difference of bfloat16 values would be rounded again.
    difference = float((value.cpu().double() - expected.cpu().double()).abs().max())
    return difference / (float(expected.abs().max()) or 1.0)
