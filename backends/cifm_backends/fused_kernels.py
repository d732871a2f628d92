"""Compiled passes of the fused backend over the rows of a graph, forward and backward.

A pass takes a range of rows, so that ranges can run on threads in parallel. A range writes its own rows only: threads
share no output, and every sum has a fixed order. The backward passes compute the edges again instead of storing them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cifm_backends.fused_compile import Array, exact, fast, inlined
from cifm_backends.fused_math import (
    GROUP,
    TILE,
    Layer,
    Scratch,
    add_message,
    add_scaled,
    fill_argument,
    fill_backward,
    fill_backward_product,
    fill_basis,
    fill_intensity,
)
from cifm_backends.fused_storage import Rows, part, row, store


class Index(NamedTuple):
    """Edges sorted by one of their ends: row i has the positions `indptr[i]:indptr[i + 1]`."""

    indptr: Array  # (N + 1,) position of the first edge of each row
    others: Array  # (E,) the cell at the other end
    edges: Array  # (E,) number of the edge in the graph; empty if that is its position


class Edge(NamedTuple):
    """Edge e from cell j to cell i, and the features of its ends."""

    e: int  # number of the edge in the graph
    i: int  # receiving cell
    j: int  # sending cell
    query: Array  # (D,) Q_i
    key: Array  # (D,) K_j
    target: Array  # (D,) A_i
    source: Array  # (D,) B_j


class Sums(NamedTuple):
    """Sums over the edges of each cell, or their gradients."""

    pooled: Array  # (N, D) sum_j msg_ij
    step: Array  # (N, 2) sum_j dx <v, msg_ij>
    total: Array  # (N,) sum_j mean_h |Int_ijh|


class Gradients(NamedTuple):
    """Gradients of a `Layer`. Each range of rows has its own gradients of the parameters.

    Gradients of bfloat16 tensors are bfloat16, stored as their bits.
    """

    query: Rows  # (N, D)
    key: Rows  # (N, D)
    target: Rows  # (N, D)
    source: Rows  # (N, D)
    radial: Array  # (B, D), transposed and padded as in `Layer`
    coordinate: Array  # (D,)
    shift: Array  # (N, 2)
    displacement: Array  # (E, 2)


class Senders(NamedTuple):
    """Sums of the gradients of cells as senders, in the precision of the computation."""

    key: Rows  # (N, D)
    source: Rows  # (N, D)
    shift: Array  # (N, 2), or no rows


@exact
def transpose(indptr: Array, sources: Array) -> Index:
    """Sort the edges by their source; targets ascend within a row."""
    # A counting sort: linear in the edges, and stable, so that gradients of a sender are summed in a fixed order.
    num_cells, num_edges = len(indptr) - 1, len(sources)
    starts = np.zeros(num_cells + 1, np.int64)
    for e in range(num_edges):
        starts[sources[e] + 1] += 1
    starts = np.cumsum(starts)
    # `free[j]` is the next unused position in row j.
    free, edges, targets = starts.copy(), np.empty(num_edges, np.int64), np.empty(num_edges, np.int64)
    for i in range(num_cells):
        for e in range(indptr[i], indptr[i + 1]):
            position = free[sources[e]]
            edges[position], targets[position] = e, i
            free[sources[e]] = position + 1
    return Index(starts, targets, edges)


@fast
def forward_rows(first: int, last: int, layer: Layer, graph: Index, out: Sums, scratch: Scratch) -> None:
    """Sum the messages that cells first..last - 1 receive."""
    for i in range(first, last):
        # Sums of one number per edge are float64 in any precision: their cost is small beside that of D features.
        pooled, step_x, step_y, total = out.pooled[i], 0.0, 0.0, 0.0
        # The output is uninitialised memory. It is summed in place, where it stays in the cache of the core.
        pooled[:] = 0
        query, target = receiver(i, layer, scratch)
        for e in range(graph.indptr[i], graph.indptr[i + 1]):
            key, source = sender(graph.others[e], layer, scratch)
            dx, dy, intensity = fill_edge(Edge(e, i, graph.others[e], query, key, target, source), layer, scratch)
            weight = add_message(layer.coordinate, scratch, pooled)
            step_x, step_y, total = step_x + dx * weight, step_y + dy * weight, total + intensity
        out.step[i, 0], out.step[i, 1], out.total[i] = step_x, step_y, total / layer.num_heads


@inlined
def receiver(i: int, layer: Layer, scratch: Scratch) -> tuple[Array, Array]:
    """Q and A of cell i."""
    return row(layer.query, i, scratch.wide[0]), row(layer.target, i, scratch.wide[1])


@inlined
def sender(j: int, layer: Layer, scratch: Scratch) -> tuple[Array, Array]:
    """K and B of cell j."""
    return row(layer.key, j, scratch.wide[2]), row(layer.source, j, scratch.wide[3])


@inlined
def fill_edge(edge: Edge, layer: Layer, scratch: Scratch) -> tuple[float, float, float]:
    """Compute an edge up to the argument of silu; return dx, dy and sum_h |Int_h|."""
    e, i, j, move, shift = edge.e, edge.i, edge.j, layer.displacement, layer.shift
    # x_i - x_j in float64, as small differences of moved positions would lose digits in float32.
    dx = np.float64(move[e, 0]) + shift[i, 0] - shift[j, 0]
    dy = np.float64(move[e, 1]) + shift[i, 1] - shift[j, 1]
    fill_basis(dx * dx + dy * dy, layer.num_basis, scratch.rho, scratch.rho_slope)
    total = fill_intensity(edge.query, edge.key, scratch)
    fill_argument(edge.target, edge.source, layer.radial, scratch)
    return dx, dy, total


@inlined
def fill_edge_backward(edge: Edge, layer: Layer, sums: Sums, scratch: Scratch) -> tuple[float, float, float]:
    """Differentiate an edge with respect to its cells; return dx, dy and the gradient of <v, msg>."""
    i = edge.i
    dx, dy, _ = fill_edge(edge, layer, scratch)
    # The step is dx <v, msg>, so the gradient of <v, msg> is the product of dx with the gradient of the step.
    weight = sums.step[i, 0] * dx + sums.step[i, 1] * dy
    fill_backward(sums.pooled[i], weight, layer.coordinate, scratch)
    fill_backward_product(sums.total[i] / layer.num_heads, scratch)
    return dx, dy, weight


@fast
def backward_target_rows(  # noqa: PLR0913, PLR0917 - compiled code takes arrays and tuples of them
    first: int, last: int, layer: Layer, graph: Index, sums: Sums, out: Gradients, senders: Senders, scratch: Scratch
) -> None:
    """Gradients of cells first..last - 1 as receivers, of their edges, and of the parameters.

    Args:
        first: First cell.
        last: One past the last cell.
        layer: Inputs of the forward pass.
        graph: Rows of targets.
        sums: Gradients of the sums.
        out: Gradients to write.
        senders: Sums to which the gradients of the senders of these edges are added, unless it has no rows. Senders
            are shared by ranges, so ranges must not run in parallel then.
        scratch: Memory for one edge.
    """
    adds_senders, width = len(senders.shift) > 0, len(layer.coordinate)
    slot, tile, tile_rho = 0, scratch.tile, scratch.tile_rho
    for i in range(first, last):
        query, target = receiver(i, layer, scratch)
        own_query, own_target = scratch.own[0], scratch.own[1]
        own_query[:], own_target[:], out.shift[i] = 0, 0, 0
        for e in range(graph.indptr[i], graph.indptr[i + 1]):
            key, source = sender(graph.others[e], layer, scratch)
            edge = Edge(e, i, graph.others[e], query, key, target, source)
            dx, dy, weight = fill_edge_backward(edge, layer, sums, scratch)
            add_scaled(scratch.back_product, key, own_query)
            message = add_receiver(layer.coordinate, weight, scratch, own_target, out.coordinate)
            # d(|dx|^2) / d(dx) = 2 dx
            slope = 2 * distance_slope(layer.radial, scratch)
            out.displacement[e, 0] = sums.step[i, 0] * message + slope * dx
            out.displacement[e, 1] = sums.step[i, 1] * message + slope * dy
            # dx = displacement + shift_i - shift_j, so shift_i has the gradient of the displacement.
            add(out.displacement[e], 1, out.shift[i])
            if adds_senders:
                j = graph.others[e]
                add_scaled(scratch.back_product, query, part(senders.key, j, width))
                add(scratch.back, 1, part(senders.source, j, width))
                add(out.displacement[e], -1, senders.shift[j])
            # Each edge adds rho^T back to the B x D gradient of C. Adding TILE edges at once saves memory traffic.
            copy(scratch.back, tile[slot])
            copy(scratch.rho, tile_rho[slot])
            slot = (slot + 1) % TILE
            if slot == 0:
                add_tile(tile, tile_rho, out.radial)
        store(own_query, part(out.query, i, width))
        store(own_target, part(out.target, i, width))
    tile[slot:] = 0  # the last tile may be incomplete; uninitialised entries may be NaN, and NaN times zero is NaN
    add_tile(tile, tile_rho, out.radial)


@inlined
def add_receiver(coordinate: Array, weight: float, scratch: Scratch, target: Array, coordinate_out: Array) -> float:
    """Add the gradients of A_i and v from one edge; return <v, msg>."""
    intensity, silu, back = scratch.intensity, scratch.silu, scratch.back
    total, weight = coordinate.dtype.type(0), coordinate.dtype.type(weight)
    for d in range(len(target)):
        message = intensity[d] * silu[d]
        target[d] += back[d]
        coordinate_out[d] += weight * message
        total += coordinate[d] * message
    return float(total)


@inlined
def distance_slope(radial: Array, scratch: Scratch) -> float:
    """Gradient of the squared distance of an edge."""
    slope, back = scratch.rho_slope, scratch.back
    total = back.dtype.type(0)
    for b in range(0, len(slope), GROUP):
        c0, c1, c2, c3, c4, c5 = (radial[b], radial[b + 1], radial[b + 2], radial[b + 3], radial[b + 4], radial[b + 5])
        w = slope[b : b + GROUP]
        w0, w1, w2, w3, w4, w5 = (w[0], w[1], w[2], w[3], w[4], w[5])
        for d in range(len(back)):
            near, far = w0 * c0[d] + w1 * c1[d] + w2 * c2[d], w3 * c3[d] + w4 * c4[d] + w5 * c5[d]
            total += back[d] * (near + far)
    return float(total)


@inlined
def add_tile(tile: Array, tile_rho: Array, out: Array) -> None:
    """Out += rho^T tile: the gradient of C from TILE edges."""
    # TILE edges in one pass: each row of the output is read and written once for four edges.
    t0, t1, t2, t3 = (tile[0], tile[1], tile[2], tile[3])
    for b in range(len(out)):
        r0, r1, r2, r3 = (tile_rho[0, b], tile_rho[1, b], tile_rho[2, b], tile_rho[3, b])
        total = out[b]
        for d in range(len(total)):
            total[d] += (r0 * t0[d] + r1 * t1[d]) + (r2 * t2[d] + r3 * t3[d])


@fast
def backward_source_rows(
    first: int, last: int, layer: Layer, graph: Index, sums: Sums, out: Gradients, scratch: Scratch
) -> None:
    """Gradients of cells first..last - 1 as senders. Must run after `backward_target_rows` has run on all rows.

    Sums have the order of those of `backward_target_rows`, which adds the edges of a sender by ascending receiver too.
    """
    width = len(layer.coordinate)
    for j in range(first, last):
        key, source = sender(j, layer, scratch)
        own_key, own_source, own_shift = scratch.own[0], scratch.own[1], scratch.own_shift
        own_key[:], own_source[:], own_shift[:] = 0, 0, 0
        for position in range(graph.indptr[j], graph.indptr[j + 1]):
            e, i = graph.edges[position], graph.others[position]
            query, target = receiver(i, layer, scratch)
            # The pass over receivers computed this too, but storing its results for senders would take E x D numbers.
            fill_edge_backward(Edge(e, i, j, query, key, target, source), layer, sums, scratch)
            add_scaled(scratch.back_product, query, own_key)
            add(scratch.back, 1, own_source)
            # The first pass stored the gradient of the displacement; shift_j has the negative of it. Reading it needs
            # all ranges of the first pass to be finished.
            add(out.displacement[e], -1, own_shift)
        add(own_shift, 1, out.shift[j])
        store(own_key, part(out.key, j, width))
        store(own_source, part(out.source, j, width))


@inlined
def add(values: Array, sign: int, out: Array) -> None:
    """Out += sign * values."""
    sign = out.dtype.type(sign)
    for d in range(len(out)):
        out[d] += sign * values[d]


@inlined
def copy(values: Array, out: Array) -> None:
    """Out = values. An assignment of slices would check for overlaps and allocate memory."""
    for d in range(len(out)):
        out[d] = values[d]
