"""The triton backend: the edge part of a layer in one pass over the rows of the graph, on the GPU.

The values of an edge stay in registers from intensity to message. There are no tensors of size E x D; the backward pass
computes the edges again. Triton is imported when the backend is created, not with this module, so this module imports on
machines without it. With TRITON_INTERPRET=1 the kernels are interpreted on the CPU, slowly, to check their results.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from cifm_backends import BackendUnavailableError
from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms, in_working_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

INSTALL = "not installed; optional, for a GPU on Linux: pip install 'cifm[triton]'"
MAX_RANGES = 1024  # of cells; each range has its own gradients of the parameters, B x D and D numbers
CELLS_PER_RANGE = 16  # at least, so that few cells make few ranges
FEATURES_PER_WARP = 256  # features of a cell that are spread over the 32 threads of a warp
MAX_WARPS = 8


class TritonBackend(Backend):
    """Compiled by Triton at first use. Features are float32, float64, or bfloat16, which is computed in float32.

    Raises:
        BackendUnavailableError: Triton is not installed or does not load, there is no GPU, or Triton does not compile
            for it or computes other values than torch.
    """

    name = "triton"
    priority = 25
    stores_edges = False

    def __init__(self) -> None:
        try:
            self._triton: Any = import_module("triton")
        except ModuleNotFoundError as error:
            raise BackendUnavailableError(INSTALL) from error
        self._kernels: Any = import_module("cifm_backends.triton_kernels")
        self._interpreted: bool = self._kernels.INTERPRETED
        if not self._interpreted and not torch.cuda.is_available():
            raise BackendUnavailableError(f"triton {self._triton.__version__} is installed, but torch finds no GPU")
        if not self._interpreted:
            self._check_values("cuda")

    def version(self) -> str:
        """Version of Triton."""
        return f"triton {self._triton.__version__}" + (", interpreted" if self._interpreted else "")

    def supports(self, device: str) -> bool:
        """The GPU; the CPU if the kernels are interpreted."""
        return device == ("cpu" if self._interpreted else "cuda")

    @in_working_precision(torch.bfloat16)
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        inputs = (*nodes, edges.radial, edges.coordinate, shift, graph.displacement)
        arguments = self._kernels, graph, edges.num_heads, *inputs
        pooled, step, total = _EdgeSums.apply(*arguments)  # type: ignore[no-untyped-call]
        return Messages(pooled, step / (1 + total)[:, None])  # Eq. 13

    def _check_values(self, device: str) -> None:
        """Compute small graphs, so that a failure on this GPU is known before `auto` chooses this backend."""
        # Imported here: only a machine with a GPU needs it.
        from cifm_backends.conformance import check_reference
        from cifm_backends.conformance.cases import draw_case, small_cases

        for case in small_cases():
            for result in check_reference(draw_case(self, case, torch.float32, device)):
                if not result.passed:
                    raise BackendUnavailableError(f"computes wrong values on this GPU ({result})")


class _EdgeSums(torch.autograd.Function):
    """The `Sums` over edges as a function of Q, K, A, B, C, v, shift and displacement, with its gradient."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, graph: Graph, num_heads: int, *inputs: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401 - not typed
        """Compute the sums over the incoming edges of every cell."""
        ctx.kernels, ctx.graph, ctx.num_heads = kernels, graph, num_heads
        ctx.save_for_backward(*inputs)
        features, shift, num_cells = inputs[0], inputs[6], graph.num_cells
        sums = kernels.Sums(shift.new_empty(features.shape), shift.new_empty(num_cells, 2), shift.new_empty(num_cells))
        sizes = _sizes(kernels, inputs[4], num_heads)
        arguments = _layer(kernels, inputs), _by_receiver(kernels, graph), sums, sizes
        _launch(kernels.forward_cells, num_cells, arguments)
        return tuple(sums)

    @staticmethod
    # The kernels are not differentiable: a second derivative raises an error instead of being wrong.
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - ctx is not typed
        """Compute the gradients of the inputs that require one; messages are computed again, not stored."""
        requested = ctx.needs_input_grad[3:]
        # Upstream gradients may be expanded views, such as the gradient of a sum.
        sums = ctx.kernels.Sums(*(value.contiguous() for value in upstream))
        computed = _differentiate(ctx, ctx.saved_tensors, sums, requested)
        return (None, None, None, *(g if needed else None for g, needed in zip(computed, requested, strict=True)))


def _differentiate(ctx: Any, inputs: Sequence[Tensor], sums: Any, requested: Sequence[bool]) -> list[Tensor]:  # noqa: ANN401
    """Gradients of the inputs. Those that are not requested may be uninitialised."""
    kernels, graph = ctx.kernels, ctx.graph
    *nodes, radial, coordinate, _, _ = inputs
    layer, sizes = _layer(kernels, inputs), _sizes(kernels, radial, ctx.num_heads)
    bounds = _bounds(graph)
    num_ranges, width = len(bounds) - 1, len(coordinate)
    # Every row is written by exactly one program, so the gradients of cells need no initial zeros.
    rows = [torch.empty_like(value, memory_format=torch.contiguous_format) for value in nodes]
    parts = radial.new_empty(num_ranges, radial.shape[1], width), radial.new_empty(num_ranges, width)
    gradients = kernels.Gradients(*rows, *parts, torch.empty_like(layer.shift), torch.empty_like(layer.displacement))
    _launch(
        kernels.backward_receivers, num_ranges, (layer, _by_receiver(kernels, graph), bounds, sums, gradients, sizes)
    )
    needed = dict(zip(gradients._fields, requested, strict=True))
    # The second pass computes all edges again, so it is left out if no gradient of a sender is needed.
    if needed["key"] or needed["source"] or needed["shift"]:
        arguments = layer, _by_sender(kernels, graph), sums, gradients, sizes
        _launch(kernels.backward_senders, graph.num_cells, arguments)
    # Sums over ranges have a fixed order, unlike atomic additions.
    return list(gradients._replace(radial=gradients.radial.sum(0).T, coordinate=gradients.coordinate.sum(0)))


def _launch(kernel: Any, num_programs: int, arguments: tuple[Any, ...]) -> None:  # noqa: ANN401 - Triton is not typed
    """Run the programs of a kernel on the GPU of its tensors. Its last argument are the sizes."""
    if num_programs == 0:
        return
    layer, sizes = arguments[0], arguments[-1]
    num_warps = min(MAX_WARPS, max(1, sizes.heads.value * sizes.columns.value // FEATURES_PER_WARP))
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(layer.shift):
        # Fused multiply-adds round once instead of twice.
        kernel[num_programs,](*arguments, num_warps=num_warps, enable_fp_fusion=True)


def _sizes(kernels: Any, radial: Tensor, num_heads: int) -> Any:  # noqa: ANN401
    width, num_basis = radial.shape
    sizes = num_heads, width // num_heads, num_basis
    return kernels.constants(*sizes, *(1 << (size - 1).bit_length() for size in sizes))


def _layer(kernels: Any, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401
    """Input of the kernels, without copies of large tensors."""
    *nodes, radial, coordinate, shift, displacement = (value.detach() for value in inputs)
    # Q, K, A and B are columns of one tensor, which the kernels read with the stride of its rows.
    rows = [value if value.stride(1) == 1 else value.contiguous() for value in nodes]
    strides = [value.stride(0) for value in rows]
    # Transposed, so that threads next to each other read numbers next to each other.
    others = radial.T, coordinate, shift, displacement
    return kernels.Layer(*rows, *strides, *(value.contiguous() for value in others))


def _by_receiver(kernels: Any, graph: Graph) -> Any:  # noqa: ANN401
    if "triton receivers" not in graph.cache:
        sources = graph.sources.contiguous()
        graph.cache["triton receivers"] = kernels.Index(graph.indptr.contiguous(), sources, sources)
    return graph.cache["triton receivers"]


def _by_sender(kernels: Any, graph: Graph) -> Any:  # noqa: ANN401
    if "triton senders" not in graph.cache:
        # Stable, so that the gradients of a sender are summed in a fixed order.
        edges = graph.sources.sort(stable=True).indices
        counts = torch.zeros_like(graph.indptr)
        counts[1:] = torch.bincount(graph.sources, minlength=graph.num_cells).cumsum(0)
        graph.cache["triton senders"] = kernels.Index(counts, graph.targets[edges], edges)
    return graph.cache["triton senders"]


def _bounds(graph: Graph) -> Tensor:
    """(R + 1,) first cell of each range, then N: ranges with about the same number of edges."""
    num_cells = graph.num_cells
    num_ranges = min(MAX_RANGES, -(-num_cells // CELLS_PER_RANGE))
    # Edges and cells are counted together: the work is in the edges, but a range of many cells without any is slow too.
    position = graph.indptr + torch.arange(num_cells + 1, device=graph.indptr.device)
    cuts = torch.arange(num_ranges + 1, device=position.device) * (num_cells + graph.num_edges) // max(num_ranges, 1)
    return torch.searchsorted(position, cuts)
