"""Triton kernels of the triton backend: the edge part of a layer, forward and backward, without E x D tensors.

A program has one cell, or a range of cells, and goes through their edges one by one. Each sum belongs to one program and
has a fixed order, so that a run can be repeated bit by bit. The backward kernels compute the edges again.

The features of a cell are a block of (heads, features of a head). Triton needs sizes that are powers of two: blocks are
padded with zeros, and the radial basis as well. Features are float64, float32, or bfloat16, which is widened to the
precision of the parameters.

Importing this module imports Triton. `tl.tensor` is the address of a tensor in the memory of the GPU, or a block of values
in registers. Letters: N cells, E edges j -> i, D features, H heads, P = D / H, B radial basis functions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import triton
import triton.language as tl

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


class Sizes(NamedTuple):
    """Sizes that a kernel is compiled for."""

    num_heads: int  # H
    head_width: int  # P
    num_basis: int  # B
    heads: int  # H, P and B rounded up to powers of two
    columns: int
    basis: int


class Layer(NamedTuple):
    """Input of the kernels; see `NodeTerms` and `EdgeTerms`. The rows of Q, K, A and B need not follow each other."""

    query: tl.tensor  # (N, D) Q
    key: tl.tensor  # (N, D) K
    target: tl.tensor  # (N, D) A
    source: tl.tensor  # (N, D) B
    query_stride: int  # entries from one row of Q to the next
    key_stride: int
    target_stride: int
    source_stride: int
    radial: tl.tensor  # (B, D) C transposed
    coordinate: tl.tensor  # (D,) v
    shift: tl.tensor  # (N, 2) in radii
    displacement: tl.tensor  # (E, 2) in radii


class Index(NamedTuple):
    """Edges sorted by one of their ends: row i has the positions `indptr[i]:indptr[i + 1]`."""

    indptr: tl.tensor  # (N + 1,) position of the first edge of each row
    others: tl.tensor  # (E,) the cell at the other end
    edges: (
        tl.tensor
    )  # (E,) number of the edge in the graph; not read in the rows of receivers, where it is the position


class Sums(NamedTuple):
    """Sums over the edges of each cell, or their gradients; contiguous."""

    pooled: tl.tensor  # (N, D) sum_j msg_ij
    step: tl.tensor  # (N, 2) sum_j dx <v, msg_ij>
    total: tl.tensor  # (N,) sum_j mean_h |Int_ijh|


class Gradients(NamedTuple):
    """Gradients of a `Layer`, contiguous; those of the parameters for each of R ranges of cells."""

    query: tl.tensor  # (N, D)
    key: tl.tensor  # (N, D)
    target: tl.tensor  # (N, D)
    source: tl.tensor  # (N, D)
    radial: tl.tensor  # (R, B, D), transposed as in `Layer`
    coordinate: tl.tensor  # (R, D)
    shift: tl.tensor  # (N, 2)
    displacement: tl.tensor  # (E, 2)


# Triton reads the variable too, when it is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def compiled(function: Function) -> Function:
    """Compile a kernel at its first call, or interpret it."""
    return cast("Function", triton.jit(function))


def inlined(function: Function) -> Function:
    """Compile a function into the kernels that call it."""
    # The interpreter runs plain functions as well, without the time that it spends on each call of a function of Triton.
    return function if INTERPRETED else compiled(function)


def constants(*sizes: int) -> Sizes:
    """Sizes that are constants to the compiler."""
    return Sizes(*map(tl.constexpr, sizes))


@inlined
def block_of_features(sizes: Sizes) -> tuple[tl.tensor, tl.tensor]:
    """(heads, columns) position of each entry of a block in a row of D features, and whether it is not padding."""
    heads, columns = tl.arange(0, sizes.heads)[:, None], tl.arange(0, sizes.columns)[None, :]
    return heads * sizes.head_width + columns, (heads < sizes.num_heads) & (columns < sizes.head_width)


@inlined
def load_row(matrix: tl.tensor, start: tl.tensor, features: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """The row of a matrix that starts at an entry; the padding is zero."""
    return tl.load(matrix + start + features, mask=inside, other=0.0)


@inlined
def load_parameters(layer: Layer, features: tl.tensor, inside: tl.tensor, sizes: Sizes) -> tuple[tl.tensor, tl.tensor]:
    """(basis, heads, columns) C and (heads, columns) v."""
    basis = tl.arange(0, sizes.basis)[:, None, None]
    rows = layer.radial + basis * (sizes.num_heads * sizes.head_width) + features[None]
    radial = tl.load(rows, mask=(basis < sizes.num_basis) & inside[None], other=0.0)
    return radial, tl.load(layer.coordinate + features, mask=inside, other=0.0)


@inlined
def edge_vector(layer: Layer, e: tl.tensor, i: tl.tensor, j: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The two coordinates of x_i - x_j, in radii."""
    shift, displacement = layer.shift, layer.displacement
    dx = tl.load(displacement + 2 * e) + (tl.load(shift + 2 * i) - tl.load(shift + 2 * j))
    dy = tl.load(displacement + 2 * e + 1) + (tl.load(shift + 2 * i + 1) - tl.load(shift + 2 * j + 1))
    return dx, dy


@inlined
def radial_basis(squared: tl.tensor, sizes: Sizes) -> tuple[tl.tensor, tl.tensor]:
    """(basis,) radial basis at a squared distance, and its derivative; see `torch_reference.radial_basis`."""
    basis = tl.arange(0, sizes.basis)
    # beta = 0, 1, 2, 4, 8, ...
    beta = ((tl.full((sizes.basis,), 1, tl.int64) << basis) >> 1).to(squared.dtype)
    inside = tl.maximum(1 - squared, 0.0)
    gaussian = tl.where(basis < sizes.num_basis, tl.exp(-beta * squared), 0.0)
    # d/du (1 - u)^2 exp(-beta u) = -(2 + beta (1 - u)) (1 - u) exp(-beta u); both are zero beyond the radius.
    return inside * inside * gaussian, -(2 + beta * inside) * inside * gaussian


@inlined
def sum_basis(radial: tl.tensor, weights: tl.tensor) -> tl.tensor:
    """(heads, columns) C weights."""
    return tl.sum(radial * weights[:, None, None], axis=0)


@inlined
def edge_intensity(query: tl.tensor, key: tl.tensor, sizes: Sizes) -> tuple[tl.tensor, tl.tensor]:
    """(heads,) Int of Eq. 11, and 1 / (1 + |z|), z = <Q, K> / sqrt(P)."""
    z = tl.sum(query * key, axis=1) * sizes.head_width**-0.5
    damping = 1 / (1 + tl.abs(z))
    return z * damping, damping


@inlined
def edge_backward(
    query: tl.tensor,
    key: tl.tensor,
    argument: tl.tensor,
    message: tl.tensor,
    total: tl.tensor,
    sizes: Sizes,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Differentiate Eqs 11 and 12 for one edge.

    Args:
        query: (heads, columns) Q_i.
        key: (heads, columns) K_j.
        argument: (heads, columns) argument of silu.
        message: (heads, columns) gradient of the message.
        total: Gradient of the |Int| of every head.
        sizes: Sizes of the blocks.

    Returns:
        (heads, columns) gradient of the argument, (heads, 1) gradient of <Q, K>, and (heads, columns) message.
    """
    intensity, damping = edge_intensity(query, key, sizes)
    gate = tl.sigmoid(argument)
    silu = argument * gate  # silu' = gate + silu (1 - gate)
    back = message * intensity[:, None] * (gate + silu * (1 - gate))
    # Int = z / (1 + |z|) has the slope damping^2 and the sign of z. The slope of |Int| at zero is zero, as in torch.
    sign = tl.where(intensity > 0, 1.0, tl.where(intensity < 0, -1.0, 0.0))
    back_intensity = tl.sum(message * silu, axis=1) + total * sign
    back_product = back_intensity * damping * damping * sizes.head_width**-0.5
    return back, back_product[:, None], silu * intensity[:, None]


@compiled
def forward_cells(layer: Layer, graph: Index, out: Sums, sizes: Sizes) -> None:
    """Sum what each cell receives; one program per cell."""
    i = tl.program_id(0).to(tl.int64)
    features, inside = block_of_features(sizes)
    precision: tl.constexpr = layer.coordinate.dtype.element_ty
    radial, coordinate = load_parameters(layer, features, inside, sizes)
    query = load_row(layer.query, i * layer.query_stride, features, inside).to(precision)
    target = load_row(layer.target, i * layer.target_stride, features, inside).to(precision)
    pooled = tl.zeros((sizes.heads, sizes.columns), precision)
    step_x, step_y, total = tl.full((), 0, precision), tl.full((), 0, precision), tl.full((), 0, precision)
    for e in range(tl.load(graph.indptr + i), tl.load(graph.indptr + i + 1)):
        j = tl.load(graph.others + e)
        key = load_row(layer.key, j * layer.key_stride, features, inside).to(precision)
        source = load_row(layer.source, j * layer.source_stride, features, inside).to(precision)
        dx, dy = edge_vector(layer, e, i, j)
        rho, _ = radial_basis(dx * dx + dy * dy, sizes)
        intensity, _ = edge_intensity(query, key, sizes)
        argument = target + source + sum_basis(radial, rho)
        # Eq. 12
        message = argument * tl.sigmoid(argument) * intensity[:, None]
        weight = tl.sum(coordinate * message)
        pooled += message
        step_x += dx * weight
        step_y += dy * weight
        total += tl.sum(tl.abs(intensity)) / sizes.num_heads
    tl.store(out.pooled + i * (sizes.num_heads * sizes.head_width) + features, pooled, mask=inside)
    tl.store(out.step + 2 * i, step_x)
    tl.store(out.step + 2 * i + 1, step_y)
    tl.store(out.total + i, total)


@compiled
def backward_receivers(layer: Layer, graph: Index, bounds: tl.tensor, sums: Sums, out: Gradients, sizes: Sizes) -> None:
    """Gradients of cells as receivers, of their edges, and of the parameters; one program per range of cells.

    Args:
        layer: Input of the forward pass.
        graph: Rows of receivers.
        bounds: (R + 1,) first cell of each range, then N.
        sums: Gradients of the sums.
        out: Gradients to write; those of the senders are left out.
        sizes: Sizes of the blocks.
    """
    part = tl.program_id(0).to(tl.int64)
    features, inside = block_of_features(sizes)
    precision: tl.constexpr = layer.coordinate.dtype.element_ty
    parameters = load_parameters(layer, features, inside, sizes)
    radial_out = tl.zeros((sizes.basis, sizes.heads, sizes.columns), precision)
    coordinate_out = tl.zeros((sizes.heads, sizes.columns), precision)
    for i in range(tl.load(bounds + part), tl.load(bounds + part + 1)):
        added = radial_out, coordinate_out
        radial_out, coordinate_out = backward_receiver(i, layer, parameters, graph, sums, out, added, sizes)
    width: tl.constexpr = sizes.num_heads * sizes.head_width
    tl.store(out.coordinate + part * width + features, coordinate_out, mask=inside)
    basis = tl.arange(0, sizes.basis)[:, None, None]
    rows = out.radial + (part * sizes.num_basis + basis) * width + features[None]
    tl.store(rows, radial_out, mask=(basis < sizes.num_basis) & inside[None])


@inlined
def backward_receiver(  # noqa: PLR0913, PLR0917 - a kernel has no object to keep them in
    i: tl.tensor,
    layer: Layer,
    parameters: tl.tuple,
    graph: Index,
    sums: Sums,
    out: Gradients,
    added: tl.tuple,
    sizes: Sizes,
) -> tuple[tl.tensor, tl.tensor]:
    """Write the gradients of a receiver and its edges, and add its gradients of C and v to those of the cells before."""
    radial, coordinate = parameters
    radial_out, coordinate_out = added
    features, inside = block_of_features(sizes)
    precision: tl.constexpr = layer.coordinate.dtype.element_ty
    start = i * (sizes.num_heads * sizes.head_width)
    query = load_row(layer.query, i * layer.query_stride, features, inside).to(precision)
    target = load_row(layer.target, i * layer.target_stride, features, inside).to(precision)
    pooled = load_row(sums.pooled, start, features, inside)
    step_x, step_y = tl.load(sums.step + 2 * i), tl.load(sums.step + 2 * i + 1)
    total = tl.load(sums.total + i) / sizes.num_heads
    query_out, target_out = tl.zeros_like(query), tl.zeros_like(query)
    shift_x, shift_y = tl.full((), 0, precision), tl.full((), 0, precision)
    for e in range(tl.load(graph.indptr + i), tl.load(graph.indptr + i + 1)):
        j = tl.load(graph.others + e)
        key = load_row(layer.key, j * layer.key_stride, features, inside).to(precision)
        source = load_row(layer.source, j * layer.source_stride, features, inside).to(precision)
        dx, dy = edge_vector(layer, e, i, j)
        rho, slope = radial_basis(dx * dx + dy * dy, sizes)
        # The step is dx <v, msg>, so the gradient of <v, msg> is the product of dx with the gradient of the step.
        weight = step_x * dx + step_y * dy
        argument = target + source + sum_basis(radial, rho)
        back, back_product, message = edge_backward(query, key, argument, pooled + weight * coordinate, total, sizes)
        query_out += back_product * key
        target_out += back
        coordinate_out += weight * message
        radial_out += rho[:, None, None] * back[None]
        # d(|dx|^2) / d(dx) = 2 dx
        moved, squared = tl.sum(coordinate * message), 2 * tl.sum(back * sum_basis(radial, slope))
        out_x, out_y = step_x * moved + squared * dx, step_y * moved + squared * dy
        tl.store(out.displacement + 2 * e, out_x)
        tl.store(out.displacement + 2 * e + 1, out_y)
        # dx = displacement + shift_i - shift_j, so shift_i has the gradient of the displacement.
        shift_x += out_x
        shift_y += out_y
    tl.store(out.query + start + features, query_out, mask=inside)
    tl.store(out.target + start + features, target_out, mask=inside)
    tl.store(out.shift + 2 * i, shift_x)
    tl.store(out.shift + 2 * i + 1, shift_y)
    return radial_out, coordinate_out


@compiled
def backward_senders(layer: Layer, graph: Index, sums: Sums, out: Gradients, sizes: Sizes) -> None:
    """Gradients of cells as senders; one program per cell. Must run after `backward_receivers` has run on all cells.

    Args:
        layer: Input of the forward pass.
        graph: Rows of senders.
        sums: Gradients of the sums.
        out: Gradients to write; those of the receivers are left out.
        sizes: Sizes of the blocks.
    """
    j = tl.program_id(0).to(tl.int64)
    features, inside = block_of_features(sizes)
    precision: tl.constexpr = layer.coordinate.dtype.element_ty
    width: tl.constexpr = sizes.num_heads * sizes.head_width
    radial, coordinate = load_parameters(layer, features, inside, sizes)
    key = load_row(layer.key, j * layer.key_stride, features, inside).to(precision)
    source = load_row(layer.source, j * layer.source_stride, features, inside).to(precision)
    key_out, source_out = tl.zeros_like(key), tl.zeros_like(key)
    shift_x, shift_y = tl.load(out.shift + 2 * j), tl.load(out.shift + 2 * j + 1)
    for position in range(tl.load(graph.indptr + j), tl.load(graph.indptr + j + 1)):
        e, i = tl.load(graph.edges + position), tl.load(graph.others + position)
        query = load_row(layer.query, i * layer.query_stride, features, inside).to(precision)
        target = load_row(layer.target, i * layer.target_stride, features, inside).to(precision)
        pooled = load_row(sums.pooled, i * width, features, inside)
        total = tl.load(sums.total + i) / sizes.num_heads
        dx, dy = edge_vector(layer, e, i, j)
        rho, _ = radial_basis(dx * dx + dy * dy, sizes)
        weight = tl.load(sums.step + 2 * i) * dx + tl.load(sums.step + 2 * i + 1) * dy
        argument = target + source + sum_basis(radial, rho)
        back, back_product, _ = edge_backward(query, key, argument, pooled + weight * coordinate, total, sizes)
        key_out += back_product * query
        source_out += back
        # The first kernel stored the gradient of the displacement; shift_j has the negative of it.
        shift_x -= tl.load(out.displacement + 2 * e)
        shift_y -= tl.load(out.displacement + 2 * e + 1)
    tl.store(out.key + j * width + features, key_out, mask=inside)
    tl.store(out.source + j * width + features, source_out, mask=inside)
    tl.store(out.shift + 2 * j, shift_x)
    tl.store(out.shift + 2 * j + 1, shift_y)
