"""The fused backend: the edge part of a layer in one pass over the rows of the graph, on the CPU.

The values of an edge stay in the cache of a core from intensity to message. There are no tensors of size E x D; the
backward pass computes the edges again. Ranges of rows run on as many threads as torch uses. These are plain
threads that sleep between calls, because a second pool of spinning threads would slow down that of torch. The ranges
depend only on the graph, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numba
import numpy as np
import torch
from torch.autograd.function import once_differentiable

from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.fused_kernels import (
    Gradients,
    Index,
    Senders,
    Sums,
    backward_source_rows,
    backward_target_rows,
    forward_rows,
    transpose,
)
from cifm_backends.fused_math import GROUP, Layer, new_scratch
from cifm_backends.fused_storage import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from cifm_backends.fused_compile import Array

MAX_RANGES = 64  # of rows; each range has its own sums of the gradients of the parameters
RANGE_WORK = 2**18  # edges times features of a range: about half a millisecond of work

# Every calling thread has its own pool: members of an ensemble that train in parallel do not wait for each other.
_local = threading.local()


class FusedBackend(Backend):
    """Compiled by numba at first use. Features are float32, float64, or bfloat16, which is computed in float32."""

    name = "fused"
    priority = 30
    stores_edges = False

    def version(self) -> str:
        """Version of numba."""
        return f"numba {numba.__version__}"

    def supports(self, device: str) -> bool:
        """The CPU only."""
        return device == "cpu"

    @in_working_precision(torch.bfloat16)
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        packed = _packed(nodes)
        features = nodes if packed is None else (packed,)
        inputs = (*features, edges.radial, edges.coordinate, shift, graph.displacement)
        pooled, step, total = _EdgeSums.apply(graph, edges.num_heads, *inputs)  # type: ignore[no-untyped-call]
        return Messages(pooled, step / (1 + total)[:, None])  # Eq. 13


class _EdgeSums(torch.autograd.Function):
    """The `Sums` over edges as a function of the first eight tensors of a `Layer`, with its gradient.

    The first four tensors may be given as one, whose columns they are.
    """

    @staticmethod
    def forward(ctx: Any, graph: Graph, num_heads: int, *inputs: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Compute the sums over the incoming edges of every cell."""
        ctx.graph, ctx.num_heads = graph, num_heads
        ctx.save_for_backward(*inputs)
        # The order of the inputs is that of the fields of `Layer`: Q, K, A, B, C, v, shift, displacement.
        coordinate, shift, num_cells = inputs[-3], inputs[-2], graph.num_cells
        sums = shift.new_empty(num_cells, len(coordinate)), shift.new_empty(num_cells, 2), shift.new_empty(num_cells)
        layer, index, out = _layer(inputs, num_heads), _by_target(graph), Sums(*(value.numpy() for value in sums))
        bounds = _bounds(index, len(coordinate))
        _run(forward_rows, bounds, (layer, index), [(out, new_scratch(layer)) for _ in bounds])
        return sums

    @staticmethod
    # The kernels are not differentiable: a second derivative raises an error instead of being wrong.
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Compute the gradients of the inputs that require one; messages are computed again, not stored."""
        inputs, requested = ctx.saved_tensors, ctx.needs_input_grad[2:]
        # Upstream gradients may be expanded views, such as the gradient of a sum.
        sums = Sums(*(value.contiguous().numpy() for value in upstream))
        is_packed = len(inputs) == len(EdgeInputs._fields) - 3
        # One answer for the four features if they are one tensor
        needed = EdgeInputs._make([*(requested[:1] * 3 if is_packed else ()), *requested])
        features, others = _differentiate(ctx.graph, _layer(inputs, ctx.num_heads), sums, needed)
        # bfloat16 comes from the kernels as 16-bit integers, whose bits are viewed as bfloat16.
        packed = torch.from_numpy(features).view(inputs[0].dtype)
        gradients = [*((packed,) if is_packed else packed.chunk(4, dim=1)), *map(torch.from_numpy, others)]
        return (None, None, *(g if needed else None for g, needed in zip(gradients, requested, strict=True)))


class EdgeInputs(NamedTuple):
    """Whether the gradient of each differentiable input of a `Layer` is needed."""

    query: bool
    key: bool
    target: bool
    source: bool
    radial: bool
    coordinate: bool
    shift: bool
    displacement: bool


def _packed(nodes: NodeTerms) -> Tensor | None:
    """The (N, 4 D) tensor whose columns the four features are, if there is one.

    As one input, it has one gradient, which the kernels write. Otherwise torch would copy four of them into one.
    """
    whole = nodes.query._base  # the tensor that a view was taken of; torch has no public name for it
    num_cells, width = nodes.query.shape
    if whole is None or whole.shape != (num_cells, 4 * width) or not whole.is_contiguous():
        return None
    parts = zip(nodes, whole.chunk(4, dim=1), strict=True)
    same = all(
        term._base is whole
        and term.shape == own.shape
        and term.stride() == own.stride()
        and term.storage_offset() == own.storage_offset()
        and term.requires_grad == whole.requires_grad  # a detached view has no gradient
        for term, own in parts
    )
    return whole if same else None


def _differentiate(graph: Graph, layer: Layer, sums: Sums, needed: EdgeInputs) -> tuple[Array, list[Array]]:
    """Gradients of the inputs. Those that are not needed may be uninitialised.

    Returns:
        (N, 4 D) gradients of Q, K, A and B, side by side, and those of the other inputs.
    """
    width, kind, num_cells = len(layer.coordinate), layer.coordinate.dtype, graph.num_cells
    index = _by_target(graph)
    bounds = _bounds(index, width)
    needs_senders = needed.key or needed.source or needed.shift
    # A single thread adds the gradients of senders in the pass over receivers. Threads could not share these sums, so
    # they compute all edges again in a second pass. Both ways have the same sums in the same order.
    in_one_pass = needs_senders and torch.get_num_threads() == 1
    # Sums over senders start at zero. Otherwise every row is written by exactly one range, and needs no zeros.
    stored = (np.zeros if in_one_pass else np.empty)((num_cells, 4 * width), layer.query.flat.dtype)
    rows = _columns(stored)
    summed = stored if stored.dtype == kind else np.zeros((num_cells if in_one_pass else 0, 4 * width), kind)
    _, key, _, source = _columns(summed)
    senders = Senders(key, source, np.zeros((num_cells if in_one_pass else 0, 2), kind))
    # Every range adds to the gradients of the parameters in a copy of its own; copies are summed in a fixed order.
    radial, coordinate = np.zeros((len(bounds), *layer.radial.shape), kind), np.zeros((len(bounds), width), kind)
    shift, displacement = np.zeros((num_cells, 2), kind), np.zeros((graph.num_edges, 2), kind)
    outs = [Gradients._make([*rows, r, c, shift, displacement]) for r, c in zip(radial, coordinate, strict=True)]
    buffers = [(out, senders, new_scratch(layer)) for out in outs]
    _run(backward_target_rows, bounds, (layer, index, sums), buffers)
    if in_one_pass:
        shift += senders.shift
        if stored.dtype != kind:  # bits of bfloat16
            rounded = torch.from_numpy(summed).bfloat16().view(torch.int16).numpy()
            for part in (1, 3):  # K and B
                stored[:, part * width : (part + 1) * width] = rounded[:, part * width : (part + 1) * width]
    elif needs_senders:
        index = _by_source(graph)
        own = [(out, scratch) for out, _, scratch in buffers]
        _run(backward_source_rows, _bounds(index, width), (layer, index, sums), own)
    own_radial = np.ascontiguousarray(radial.sum(0)[: layer.num_basis].T)
    return stored, [own_radial, coordinate.sum(0), shift, displacement]


def _columns(values: Array) -> tuple[Rows, ...]:
    """The four quarters of the columns of a contiguous matrix."""
    width, flat = values.shape[1] // 4, values.reshape(-1)
    return tuple(Rows(flat[part * width :], values.shape[1]) for part in range(4))


def _layer(inputs: Sequence[Tensor], num_heads: int) -> Layer:
    """Input of the kernels, without copies of large tensors."""
    *nodes, radial, coordinate, shift, displacement = (value.detach() for value in inputs)
    if len(nodes) == 1:
        nodes = list(nodes[0].chunk(4, dim=1))
    width, num_basis = radial.shape
    # Transposed, so that inner loops over features read contiguous memory; padded to whole groups.
    columns = np.zeros((-(-num_basis // GROUP) * GROUP, width), _array(radial).dtype)
    columns[:num_basis] = radial.numpy().T
    query, key, target, source = (_rows(value) for value in nodes)
    parameters = columns, _array(coordinate)
    return Layer(query, key, target, source, *parameters, _array(shift), _array(displacement), num_heads, num_basis)


def _array(value: Tensor) -> Array:
    return value.contiguous().numpy()


def _rows(value: Tensor) -> Rows:
    # Q, K, A and B are columns of one tensor: a flat view with a stride avoids copies.
    if value.stride(1) != 1:
        value = value.contiguous()
    # The view ends with the last entry of the last row; a full stride more could reach beyond the memory of the tensor.
    length = (len(value) - 1) * value.stride(0) + value.shape[1] if len(value) else 0
    flat = value.as_strided((length,), (1,))
    return Rows((flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy(), value.stride(0))


def _by_target(graph: Graph) -> Index:
    if "fused targets" not in graph.cache:
        sources = _array(graph.sources)
        graph.cache["fused targets"] = Index(_array(graph.indptr), sources, sources[:0])
    return cast("Index", graph.cache["fused targets"])


def _by_source(graph: Graph) -> Index:
    if "fused sources" not in graph.cache:
        index = _by_target(graph)
        graph.cache["fused sources"] = transpose(index.indptr, index.others)
    return cast("Index", graph.cache["fused sources"])


def _bounds(index: Index, width: int) -> list[tuple[int, int]]:
    """Split the rows into ranges with about the same number of edges, independent of the number of threads."""
    num_cells, num_edges = len(index.indptr) - 1, len(index.others)
    num_ranges = min(MAX_RANGES, 1 + num_edges * width // RANGE_WORK)
    # Equal numbers of edges and not of cells: the work is in the edges, and density varies over a tissue.
    cuts = np.searchsorted(index.indptr, np.linspace(0, num_edges, num_ranges + 1)[1:-1])
    return list(pairwise([0, *cuts.tolist(), num_cells]))


def _run(
    kernel: Callable[..., None], bounds: list[tuple[int, int]], shared: tuple[Any, ...], buffers: list[tuple[Any, ...]]
) -> None:
    """Run a kernel on every range of rows in parallel, each with its own output and scratch memory."""
    calls = [partial(kernel, *bound, *shared, *own) for bound, own in zip(bounds, buffers, strict=True)]
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(calls) == 1:
        for call in calls:
            call()
        return
    # All ranges are submitted before the first result is awaited; `result` raises the error of a kernel here.
    for future in [_threads(num_threads).submit(call) for call in calls]:
        future.result()


def _threads(num_threads: int) -> ThreadPoolExecutor:
    """Thread pool of the calling thread. A forked process inherits no threads, so it creates its own."""
    key = (num_threads, os.getpid())
    if getattr(_local, "key", None) != key:
        _local.key, _local.pool = key, ThreadPoolExecutor(num_threads, thread_name_prefix="cifm-fused")
    return cast("ThreadPoolExecutor", _local.pool)
