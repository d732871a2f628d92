"""The laws of a backend, measured against a dense float64 reference: for ours and for third parties'.

    from cifm_backends.conformance import check
    failures = [finding for finding in check(MyBackend()) if not finding.holds]

Letters as in `trials`.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch

from cifm_backends.base import NodeTerms
from cifm_backends.conformance_cases import (
    Finding,
    Inputs,
    Trial,
    answers,
    cases,
    draw,
    join,
    normal,
    relative_error,
    with_gradients,
)
from cifm_backends.dense_reference import dense_displacement, dense_edges, dense_messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from cifm_backends.base import Backend

SLOPE_STEP, SLOPE_TOLERANCE = 1e-5, 1e-6  # central differences in float64


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
    laws = (reference, repeatable, numbering, few_gradients, slope, literal)
    trials = [draw(backend, case, dtype, device) for case, dtype in product(cases(), dtypes)]
    return [finding for trial in trials for law in laws for finding in law(trial)]


def reference(trial: Trial) -> Iterator[Finding]:
    """Answers and gradients are those of the dense reference."""
    inputs = _as_truth(trial.inputs._asdict())
    cotangents = tuple(value.cpu().double() for value in trial.cotangents)
    wanted = with_gradients(inputs, answers(dense_messages(trial.case, Inputs(**inputs))), cotangents)
    for name, value in trial.differentiate().items():
        yield trial.finding(name, relative_error(value, wanted[name]))


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
        yield trial.finding(f"{name}, cells renumbered", relative_error(value, wanted[order]))


def few_gradients(trial: Trial) -> Iterator[Finding]:
    """A gradient does not depend on which others are asked for."""
    every = trial.differentiate()
    for names in (("query", "target", "radial"), ("key", "source"), ("shift",), ("displacement", "coordinate")):
        some = trial.differentiate(names)
        error = max(relative_error(value, every[name]) for name, value in some.items())
        yield trial.finding(f"gradients of {', '.join(names)} only", error)


def slope(trial: Trial) -> Iterator[Finding]:
    """In float64, the gradient is the slope of the answers along a random direction."""
    if trial.dtype != torch.float64:
        return
    generator = torch.Generator().manual_seed(2)
    # Void stays void and cells in one place stay together: |Int| has a kink there.
    along = [normal(generator, *value.shape).to(value) * (value != 0) for value in trial.inputs]

    def total(step: float) -> Tensor:
        inputs = Inputs(*(value + step * direction for value, direction in zip(trial.inputs, along, strict=True)))
        return torch.stack([(a * w).sum() for a, w in zip(trial.run(inputs), trial.cotangents, strict=True)]).sum()

    measured = float(total(SLOPE_STEP) - total(-SLOPE_STEP)) / (2 * SLOPE_STEP)
    found = trial.differentiate()
    claimed = sum(float((found[f"gradient of {n}"] * d).sum()) for n, d in zip(Inputs._fields, along, strict=True))
    error = abs(measured - claimed) / (1 + abs(measured))
    yield Finding("slope along a direction", trial.case.name, trial.dtype, error, SLOPE_TOLERANCE)


def literal(trial: Trial) -> Iterator[Finding]:
    """What the literal form reads along edges and sums into cells is the dense reference's, twice the same."""
    generator, mask = torch.Generator().manual_seed(3), trial.case.mask
    given = trial.inputs
    carried = normal(generator, int(mask.sum()), trial.case.width).to(given.target)
    inputs = {"h": given.target, "shift": given.shift, "displacement": given.displacement, "carried": carried}
    truth = _as_truth(inputs)
    wanted = dense_edges(mask, **truth)
    weights = [normal(generator, *value.shape) for value in wanted.values()]
    expected = with_gradients(truth, wanted, weights)
    first, second = (_read_and_sum(trial, inputs, weights) for _ in range(2))
    for name, value in first.items():
        yield trial.finding(f"literal form: {name}", relative_error(value, expected[name]))
    changed = sum(not torch.equal(first[name], second[name]) for name in first)
    yield Finding("literal form: tensors that change between two runs", trial.case.name, trial.dtype, changed, 0)


def _read_and_sum(trial: Trial, inputs: Mapping[str, Tensor], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """The backend's answers to the literal form, and gradients."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    graph = join(trial.case.mask, leaves["displacement"])
    read = trial.backend.read_edges(graph, leaves["h"], leaves["shift"])
    found = {**read._asdict(), "sum": trial.backend.sum_edges(graph, leaves["carried"])}
    return with_gradients(leaves, found, [w.to(v) for w, v in zip(weights, found.values(), strict=True)])


def _as_truth(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().double().requires_grad_() for name, value in inputs.items()}
