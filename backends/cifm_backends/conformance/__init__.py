"""Checks that every backend must pass, also one of a third party, against a dense float64 reference.

On the command line, for an installed backend: `python -m cifm_backends.conformance --backend NAME`. In a test:

    from cifm_backends.conformance import check
    failures = [result for result in check(MyBackend()) if not result.passed]

Letters as in `cases`.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch

from cifm_backends.base import NodeTerms
from cifm_backends.conformance.cases import (
    Case,
    CaseRun,
    CheckResult,
    Inputs,
    all_cases,
    draw_case,
    draw_normal,
    graph_from_mask,
    name_outputs,
    relative_error,
    with_gradients,
)
from cifm_backends.conformance.dense_reference import dense_displacement, dense_edges, dense_messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from cifm_backends.base import Backend

# Central differences in float64: the truncation error of about step^2 = 1e-10 and the rounding error of about
# 1e-16 / step = 1e-11 leave room below the tolerance.
SLOPE_STEP, SLOPE_TOLERANCE = 1e-5, 1e-6


def check(
    backend: Backend,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    device: str = "cpu",
    cases: Sequence[Case] | None = None,
) -> list[CheckResult]:
    """Run every check on every case.

    Args:
        backend: The backend to check.
        dtypes: Precisions of the features: float64, float32 or bfloat16.
        device: Device to run on.
        cases: The cases, such as `cases.small_cases()`; absent, `cases.all_cases()`.

    Returns:
        The result of every check; `passed` is False for failures.
    """
    chosen = all_cases() if cases is None else cases
    return [result for case, dtype in product(chosen, dtypes) for result in check_case(backend, case, dtype, device)]


def check_case(backend: Backend, case: Case, dtype: torch.dtype, device: str = "cpu") -> Iterator[CheckResult]:
    """Run every check on one case; see `check`."""
    run = draw_case(backend, case, dtype, device)
    checks = (
        check_reference,
        check_repeatable,
        check_numbering,
        check_partial_gradients,
        check_slope,
        check_literal_form,
    )
    return (result for run_check in checks for result in run_check(run))


def check_reference(run: CaseRun) -> Iterator[CheckResult]:
    """Compare outputs and gradients with the dense reference."""
    # The reference widens the rounded inputs of the backend, so their rounding is not counted as an error.
    inputs = _reference_inputs(run.inputs._asdict())
    cotangents = tuple(value.cpu().double() for value in run.cotangents)
    expected = with_gradients(inputs, name_outputs(dense_messages(run.case, Inputs(**inputs))), cotangents)
    for name, value in run.differentiate().items():
        yield run.result(name, relative_error(value, expected[name]))


def check_repeatable(run: CaseRun) -> Iterator[CheckResult]:
    """Compare two runs with each other, bit by bit."""
    first, second = run.differentiate(), run.differentiate()
    changed = sum(not torch.equal(first[name], second[name]) for name in first)
    # The tolerance is zero: a training run can only be repeated bit by bit if every sum has a fixed order.
    yield CheckResult("tensors that change between two runs", run.case.name, run.dtype, changed, 0)


def check_numbering(run: CaseRun) -> Iterator[CheckResult]:
    """Number the cells in another order, which must give the same outputs in that order."""
    mask, inputs = run.case.mask, run.inputs
    # The reversed order moves every cell but the middle one, and every row of edges is summed in the opposite order.
    order = torch.arange(len(mask)).flip(0)
    displacement = dense_displacement(mask, inputs.displacement)
    reordered = {name: getattr(inputs, name)[order] for name in (*NodeTerms._fields, "shift")}
    new_mask = mask[order][:, order]
    new_inputs = inputs._replace(**reordered, displacement=displacement[order][:, order][new_mask])
    outputs = run.outputs(new_inputs, new_mask)
    for name, value, expected in zip(("pooled", "moved"), outputs, run.outputs(inputs), strict=True):
        yield run.result(f"{name}, cells renumbered", relative_error(value, expected[order]))


def check_partial_gradients(run: CaseRun) -> Iterator[CheckResult]:
    """Ask for the gradients of a few inputs, which must be the same as when all are asked for."""
    all_gradients = run.differentiate()
    # A backend may skip work whose gradients are not needed, such as a second pass for the gradients of senders.
    for names in (("query", "target", "radial"), ("key", "source"), ("shift",), ("displacement", "coordinate")):
        gradients = run.differentiate(names)
        error = max(relative_error(value, all_gradients[name]) for name, value in gradients.items())
        yield run.result(f"gradients of {', '.join(names)} only", error)


def check_slope(run: CaseRun) -> Iterator[CheckResult]:
    """Compare the gradient with a difference quotient along a random direction, in float64."""
    if run.dtype != torch.float64:
        return
    generator = torch.Generator().manual_seed(2)
    # Zeros stay zero: at void cells, and at cells in one position, the derivative of |Int| is not continuous.
    direction = [draw_normal(generator, *value.shape).to(value) * (value != 0) for value in run.inputs]

    def total(step: float) -> Tensor:
        """Weighted sum of all outputs, with the inputs moved by `step` along `direction`."""
        inputs = Inputs(*(value + step * change for value, change in zip(run.inputs, direction, strict=True)))
        return torch.stack([(y * w).sum() for y, w in zip(run.outputs(inputs), run.cotangents, strict=True)]).sum()

    expected = float(total(SLOPE_STEP) - total(-SLOPE_STEP)) / (2 * SLOPE_STEP)
    values = run.differentiate()
    slope = sum(float((values[f"gradient of {n}"] * d).sum()) for n, d in zip(Inputs._fields, direction, strict=True))
    # The 1 keeps the error finite in cases without edges, where the slope is zero.
    error = abs(expected - slope) / (1 + abs(expected))
    yield CheckResult("slope along a direction", run.case.name, run.dtype, error, SLOPE_TOLERANCE)


def check_literal_form(run: CaseRun) -> Iterator[CheckResult]:
    """Compare the operations of the literal form and their gradients with the dense reference, and two runs."""
    generator, mask = torch.Generator().manual_seed(3), run.case.mask
    drawn = run.inputs
    values = draw_normal(generator, int(mask.sum()), run.case.width).to(drawn.target)
    inputs = {"h": drawn.target, "shift": drawn.shift, "displacement": drawn.displacement, "carried": values}
    reference_inputs = _reference_inputs(inputs)
    reference = dense_edges(mask, **reference_inputs)
    weights = [draw_normal(generator, *value.shape) for value in reference.values()]
    expected = with_gradients(reference_inputs, reference, weights)
    first, second = (_read_and_sum(run, inputs, weights) for _ in range(2))
    for name, value in first.items():
        yield run.result(f"literal form: {name}", relative_error(value, expected[name]))
    changed = sum(not torch.equal(first[name], second[name]) for name in first)
    yield CheckResult("literal form: tensors that change between two runs", run.case.name, run.dtype, changed, 0)


def _read_and_sum(run: CaseRun, inputs: Mapping[str, Tensor], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Outputs of `read_edges` and `sum_edges`, and their gradients, by name."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    graph = graph_from_mask(run.case.mask, leaves["displacement"])
    edge_values = run.backend.read_edges(graph, leaves["h"], leaves["shift"])
    outputs = {**edge_values._asdict(), "sum": run.backend.sum_edges(graph, leaves["carried"])}
    return with_gradients(leaves, outputs, [w.to(v) for w, v in zip(weights, outputs.values(), strict=True)])


def _reference_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float64 on the CPU that require gradients."""
    return {name: value.detach().cpu().double().requires_grad_() for name, value in inputs.items()}
