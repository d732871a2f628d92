"""The laws of a backend, measured against a dense float64 reference: for ours and for third parties'.

    from cifm_backends.conformance import check
    failures = [finding for finding in check(MyBackend()) if not finding.holds]

Letters: N cells, E edges, D features, H heads, P = D / H, B radial basis functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cifm_backends.base import EdgeTerms, Graph, NodeTerms
from cifm_backends.dense_reference import dense_displacement, dense_messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cifm_backends.base import Backend

# Largest error, relative to the largest entry of a tensor. Half precision is rounded once, after sums in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
SLOPE_STEP, SLOPE_TOLERANCE = 1e-5, 1e-6  # central differences in float64


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
        graph = _graph(self.case.mask if mask is None else mask, inputs.displacement)
        nodes = NodeTerms(*torch.cat(inputs[:4], dim=-1).chunk(4, dim=-1))
        edges = EdgeTerms(inputs.radial, inputs.coordinate, self.case.num_heads)
        return self.backend.messages(graph, nodes, edges, inputs.shift)

    def differentiate(self, wanted: Sequence[str] = Inputs._fields) -> dict[str, Tensor]:
        """The backend's answers and the gradients of the wanted inputs, by name."""
        inputs = Inputs(*(value.detach().requires_grad_(n in wanted) for n, value in _named(self.inputs)))
        return _with_gradients(inputs, self.run(inputs), self.cotangents)


def check(
    backend: Backend, dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32), device: str = "cpu"
) -> list[Finding]:
    """Measure every law on every case.

    Args:
        backend: The backend to judge.
        dtypes: Precisions of the features to try: float64, float32 or bfloat16.
        device: Where to run it.

    Returns:
        All findings; the failures are those that do not hold.
    """
    laws = (reference, repeatable, numbering, few_gradients, slope)
    trials = [draw(backend, case, dtype, device) for case, dtype in product(cases(), dtypes)]
    return [finding for trial in trials for law in laws for finding in law(trial)]


def reference(trial: Trial) -> Iterator[Finding]:
    """Answers and gradients are those of the dense reference."""
    inputs = Inputs(*(value.detach().cpu().double().requires_grad_() for value in trial.inputs))
    cotangents = tuple(value.cpu().double() for value in trial.cotangents)
    wanted = _with_gradients(inputs, dense_messages(trial.case, inputs), cotangents)
    for name, value in trial.differentiate().items():
        yield trial.finding(name, _relative_error(value, wanted[name]))


def repeatable(trial: Trial) -> Iterator[Finding]:
    """Two runs agree in every bit."""
    first, second = trial.differentiate(), trial.differentiate()
    changed = sum(not torch.equal(first[name], second[name]) for name in first)
    yield Finding("tensors that change between two runs", trial.case.name, trial.dtype, changed, 0)


def numbering(trial: Trial) -> Iterator[Finding]:
    """Numbering the cells in another order gives the same answers in that order."""
    mask, inputs = trial.case.mask, trial.inputs
    order = torch.arange(len(mask)).flip(0)
    place = dense_displacement(mask, inputs.displacement)
    moved = {name: getattr(inputs, name)[order] for name in (*NodeTerms._fields, "shift")}
    mask_moved = mask[order][:, order]
    found = trial.run(inputs._replace(**moved, displacement=place[order][:, order][mask_moved]), mask_moved)
    for name, value, wanted in zip(("pooled", "moved"), found, trial.run(inputs), strict=True):
        yield trial.finding(f"{name}, cells renumbered", _relative_error(value, wanted[order]))


def few_gradients(trial: Trial) -> Iterator[Finding]:
    """A gradient does not depend on which others are asked for."""
    every = trial.differentiate()
    for names in (("query", "target", "radial"), ("key", "source"), ("shift",), ("displacement", "coordinate")):
        some = trial.differentiate(names)
        error = max(_relative_error(value, every[name]) for name, value in some.items())
        yield trial.finding(f"gradients of {', '.join(names)} only", error)


def slope(trial: Trial) -> Iterator[Finding]:
    """In float64, the gradient is the slope of the answers along a random direction."""
    if trial.dtype != torch.float64:
        return
    generator = torch.Generator().manual_seed(2)
    # Void stays void and cells in one place stay together: |Int| has a kink there.
    along = [_normal(generator, *value.shape).to(value) * (value != 0) for value in trial.inputs]

    def total(step: float) -> Tensor:
        inputs = Inputs(*(value + step * direction for value, direction in zip(trial.inputs, along, strict=True)))
        return torch.stack([(a * w).sum() for a, w in zip(trial.run(inputs), trial.cotangents, strict=True)]).sum()

    measured = float(total(SLOPE_STEP) - total(-SLOPE_STEP)) / (2 * SLOPE_STEP)
    found = trial.differentiate()
    claimed = sum(float((found[f"gradient of {n}"] * d).sum()) for n, d in zip(Inputs._fields, along, strict=True))
    error = abs(measured - claimed) / (1 + abs(measured))
    yield Finding("slope along a direction", trial.case.name, trial.dtype, error, SLOPE_TOLERANCE)


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
    nodes = [_normal(generator, num_cells, width) * occupied for _ in NodeTerms._fields]
    parameters = [_normal(generator, width, case.num_basis), _normal(generator, width)]
    # A few edges end up longer than the radius.
    geometry = [spread * 0.2 * _normal(generator, num_cells, 2), spread * 0.4 * _normal(generator, num_edges, 2)]
    wide = torch.promote_types(dtype, torch.float32)
    inputs = [value.to(device, dtype) for value in nodes] + [value.to(device, wide) for value in parameters + geometry]
    weights = _normal(generator, num_cells, width).to(device, dtype), _normal(generator, num_cells, 2).to(device, wide)
    return Trial(backend, case, dtype, device, Inputs(*inputs), weights)


def _graph(mask: Tensor, displacement: Tensor) -> Graph:
    targets, sources = mask.to(displacement.device).nonzero(as_tuple=True)
    indptr = torch.zeros(len(mask) + 1, dtype=torch.int64, device=displacement.device)
    indptr[1:] = mask.to(displacement.device).sum(1).cumsum(0)
    return Graph(indptr, sources, targets, displacement)


def _with_gradients(inputs: Inputs, found: Sequence[Tensor], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Answers, and the gradients of their weighted sum in every input that asks for one."""
    asked = {name: value for name, value in _named(inputs) if value.requires_grad}
    total = torch.stack([(answer * weight).sum() for answer, weight in zip(found, weights, strict=True)]).sum()
    grads = torch.autograd.grad(total, list(asked.values()), materialize_grads=True)
    answers = {name: answer.detach() for name, answer in zip(("pooled", "moved"), found, strict=True)}
    return answers | {f"gradient of {name}": grad for name, grad in zip(asked, grads, strict=True)}


def _named(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    return zip(Inputs._fields, inputs, strict=True)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _relative_error(value: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest entry, or the difference itself where all entries are zero."""
    if value.numel() == 0:
        return 0.0
    difference = float((value.cpu().double() - wanted.cpu().double()).abs().max())
    return difference / (float(wanted.abs().max()) or 1.0)
