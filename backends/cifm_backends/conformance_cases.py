"""What conformance measures on: cases, drawn inputs, a backend on them, and findings.

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

# Largest error, relative to the largest entry of a tensor. Half precision is rounded once, after sums in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Finding:
    """One law measured on one case.

    Args:
        law: What was compared.
        case: On which graph.
        dtype: In which precision of the features.
        error: Measured.
        tolerance: Allowed.
    """

    law: str
    case: str
    dtype: torch.dtype
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is allowed; a NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        """One line with the measured error."""
        verdict = "holds" if self.holds else "FAILS"
        kind = str(self.dtype).removeprefix("torch.")
        return f"{verdict}: {self.law}; {self.case}; {kind}: error {self.error:.1e}, allowed {self.tolerance:.0e}"


@dataclass(frozen=True)
class Case:
    """A graph and the sizes of what runs on it.

    Args:
        name: What is special about it.
        mask: (N, N) bool, cell i hears cell j.
        width: D.
        num_heads: H.
        num_basis: B.
        num_void: Leading cells without features.
        stacked: Put all cells in one place.
    """

    name: str
    mask: Tensor
    width: int = 12
    num_heads: int = 3
    num_basis: int = 6
    num_void: int = 0
    stacked: bool = False


class Inputs(NamedTuple):
    """Every tensor that `Backend.messages` is differentiable in; see `NodeTerms`, `EdgeTerms` and `Graph`."""

    query: Tensor
    key: Tensor
    target: Tensor
    source: Tensor
    radial: Tensor
    coordinate: Tensor
    shift: Tensor
    displacement: Tensor


@dataclass(frozen=True)
class Trial:
    """A backend on a case.

    Args:
        backend: The backend to judge.
        case: Graph and sizes.
        dtype: Of the features; parameters and geometry have it too, but never less than float32.
        device: Where it runs.
        inputs: Drawn values.
        cotangents: (N, D) and (N, 2), weights of the answers in the scalar that is differentiated.
    """

    backend: Backend
    case: Case
    dtype: torch.dtype
    device: str
    inputs: Inputs
    cotangents: tuple[Tensor, Tensor]

    def finding(self, law: str, error: float) -> Finding:
        """A finding with the tolerance of the precision."""
        return Finding(law, self.case.name, self.dtype, error, TOLERANCE[self.dtype])

    def run(self, inputs: Inputs, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The backend's answers; features arrive as a layer hands them, as slices of one tensor."""
        graph = join(self.case.mask if mask is None else mask, inputs.displacement)
        nodes = NodeTerms(*torch.cat(inputs[:4], dim=-1).chunk(4, dim=-1))
        edges = EdgeTerms(inputs.radial, inputs.coordinate, self.case.num_heads)
        return self.backend.messages(graph, nodes, edges, inputs.shift)

    def differentiate(self, wanted: Sequence[str] = Inputs._fields) -> dict[str, Tensor]:
        """The backend's answers and the gradients of the wanted inputs, by name."""
        inputs = {n: value.detach().requires_grad_(n in wanted) for n, value in self.inputs._asdict().items()}
        return with_gradients(inputs, answers(self.run(Inputs(**inputs))), self.cotangents)


def cases() -> list[Case]:
    """Graphs on which backends go wrong."""
    generator = torch.Generator().manual_seed(0)

    def random(num_cells: int, degree: float) -> Tensor:
        return torch.rand(num_cells, num_cells, generator=generator) * num_cells < degree

    def loops(num_cells: int) -> Tensor:
        return torch.eye(num_cells, dtype=torch.bool)

    talks, hears = torch.arange(12) % 3 > 0, torch.arange(12) % 4 > 0
    return [
        Case("one-way edges", random(23, 5) & ~loops(23)),
        Case("no cells", loops(0)),
        Case("no edges", torch.zeros_like(loops(7))),
        Case("one cell hearing itself", loops(1)),
        Case("isolated cells", random(12, 5) & talks & hears[:, None]),
        Case("cells in one place", ~loops(9), stacked=True),
        Case("self loops", random(11, 4) | loops(11)),
        Case("void cells", random(14, 6), num_void=5),
        Case("long rows", random(70, 60), width=8, num_heads=2),
        Case("many cells", random(300, 6), width=8, num_heads=2),
        Case("wide features", random(13, 4), width=148, num_heads=4),
        *(Case(f"{heads} heads of 24 features", random(10, 4), 24, heads) for heads in (1, 2, 6, 24)),
        *(Case(f"{size} basis functions", random(10, 4), 6, 1, size) for size in (1, 2, 3, 4, 5, 6, 7, 9)),
    ]


def draw(backend: Backend, case: Case, dtype: torch.dtype, device: str) -> Trial:
    """Draw the inputs of a case, the same values in every precision up to rounding.

    Args:
        backend: The backend to judge.
        case: Graph and sizes.
        dtype: Of the features.
        device: Where to put them.

    Returns:
        A trial on the device.
    """
    generator = torch.Generator().manual_seed(1)
    num_cells, num_edges, width = len(case.mask), int(case.mask.sum()), case.width
    occupied = (torch.arange(num_cells) >= case.num_void)[:, None]
    spread = 0.0 if case.stacked else 1.0
    nodes = [normal(generator, num_cells, width) * occupied for _ in NodeTerms._fields]
    parameters = [normal(generator, width, case.num_basis), normal(generator, width)]
    # A few edges end up longer than the radius.
    geometry = [spread * 0.2 * normal(generator, num_cells, 2), spread * 0.4 * normal(generator, num_edges, 2)]
    wide = torch.promote_types(dtype, torch.float32)
    inputs = [value.to(device, dtype) for value in nodes] + [value.to(device, wide) for value in parameters + geometry]
    weights = normal(generator, num_cells, width).to(device, dtype), normal(generator, num_cells, 2).to(device, wide)
    return Trial(backend, case, dtype, device, Inputs(*inputs), weights)


def join(mask: Tensor, displacement: Tensor) -> Graph:
    """The graph of an (N, N) mask; displacements are (E, 2), in the order of its rows."""
    targets, sources = mask.to(displacement.device).nonzero(as_tuple=True)
    indptr = torch.zeros(len(mask) + 1, dtype=torch.int64, device=displacement.device)
    indptr[1:] = mask.to(displacement.device).sum(1).cumsum(0)
    return Graph(indptr, sources, targets, displacement)


def answers(found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Name what `Backend.messages` gives."""
    return dict(zip(("pooled", "moved"), found, strict=True))


def with_gradients(
    inputs: Mapping[str, Tensor], found: Mapping[str, Tensor], weights: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Answers, and the gradients of their weighted sum in every input that asks for one, by name."""
    asked = {name: value for name, value in inputs.items() if value.requires_grad}
    total = torch.stack([(answer * weight).sum() for answer, weight in zip(found.values(), weights, strict=True)]).sum()
    grads = torch.autograd.grad(total, list(asked.values()), materialize_grads=True)
    values = {name: answer.detach() for name, answer in found.items()}
    return values | {f"gradient of {name}": grad for name, grad in zip(asked, grads, strict=True)}


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def relative_error(value: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest entry, or the difference itself where all entries are zero."""
    if value.numel() == 0:
        return 0.0
    difference = float((value.cpu().double() - wanted.cpu().double()).abs().max())
    return difference / (float(wanted.abs().max()) or 1.0)
