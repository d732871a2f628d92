"""Computation of one edge in the fused backend, compiled: intensity, radial basis, silu, and their derivatives.

Inner loops run over contiguous features and call no functions, so that LLVM can vectorise them. The cache of numba
checks the file of a kernel only: after an edit here, touch `fused_kernels.py`.
Letters: N cells, E edges j -> i, D features, H heads, B radial basis functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from cifm_backends.fused_compile import Array, Scalar, exact, inlined

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifm_backends.fused_storage import Rows

# Basis functions per pass over the features; the last group is padded with zeros. `model.radial` is 6 by default.
GROUP = 6
TILE = 4  # edges whose contributions to the gradient of C are added at once
# Coefficients of exp, the highest power first. The remainder for |x| <= log(2) / 2 is below 2e-7 with 7 terms and
# below 1e-17 with 14, so it is in the order of the rounding error or less.
TAYLOR_32 = tuple(np.float32(1 / math.factorial(n)) for n in range(6, -1, -1))
TAYLOR_64 = tuple(1 / math.factorial(n) for n in range(13, -1, -1))


class Layer(NamedTuple):
    """Input of the kernels, all float32 or all float64, or features in bfloat16; see `NodeTerms` and `EdgeTerms`."""

    query: Rows  # (N, D) Q
    key: Rows  # (N, D) K
    target: Rows  # (N, D) A
    source: Rows  # (N, D) B
    radial: Array  # (B, D) C transposed, padded with zeros to whole groups
    coordinate: Array  # (D,) v
    shift: Array  # (N, 2) in radii
    displacement: Array  # (E, 2) in radii
    num_heads: int  # H
    num_basis: int  # B


class Scratch(NamedTuple):
    """Intermediate values of one edge, and of the last TILE edges."""

    rho: Array  # (B,) radial basis, padded with zeros to whole groups
    rho_slope: Array  # (B,) its derivative in the squared distance
    damping: Array  # (H,) 1 / (1 + |z|), z = <Q, K> / sqrt(P)
    back_product: Array  # (H,) gradient of <Q, K>
    intensity: Array  # (D,) Int, repeated for the features of a head
    argument: Array  # (D,) A + B + C rho
    silu: Array  # (D,) silu of it
    product: Array  # (D,) summands of the gradient of Int, which sums them over the features of a head
    back: Array  # (D,) gradient of the argument
    tile: Array  # (TILE, D) `back` of the last edges
    tile_rho: Array  # (TILE, B) `rho` of the last edges
    wide: Array  # (4, D) rows of Q, K, A and B widened from bfloat16
    own: Array  # (2, D) gradients of a cell, summed over its edges
    own_shift: Array  # (2,) the same of its shift


@exact
def sigmoid_32(x: Scalar) -> Scalar:
    """1 / (1 + exp(-x)) with a relative error below 4e-7, in operations that have vector forms."""
    # Compiled as `exact`: reordered sums would merge the two parts of log 2, which are subtracted one after the other
    # because the product with the first part is free of rounding.
    # Within 87 the biased exponent lies in 1 ... 253, so that shifting it into place makes a normal number.
    bounded = min(max(x, np.float32(-87)), np.float32(87))
    power = np.int32(bounded * np.float32(-1 / math.log(2)) + np.float32(127.5))  # exponent of exp(-x), biased
    whole = np.float32(power - np.int32(127))
    rest = -bounded - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)  # log 2 in two parts
    exponential = np.float32(0)
    for coefficient in TAYLOR_32:
        exponential = exponential * rest + coefficient
    return np.float32(1) / (np.float32(1) + exponential * np.int32(power << np.int32(23)).view(np.float32))


@exact
def sigmoid_64(x: Scalar) -> Scalar:
    """1 / (1 + exp(-x)) with a relative error below 1e-15; see `sigmoid_32`."""
    bounded = min(max(x, np.float64(-708)), np.float64(708))
    # The conversion cuts off the fraction; with the half added to a positive number, it rounds to the nearest.
    power = np.int64(bounded * (-1 / math.log(2)) + 1023.5)
    whole = np.float64(power - 1023)
    rest = -bounded - whole * 0.693145751953125 - whole * 1.42860682030941723212e-6
    exponential = 0.0
    for coefficient in TAYLOR_64:
        exponential = exponential * rest + coefficient
    return 1 / (1 + exponential * np.int64(power << 52).view(np.float64))


def sigmoid(x: Scalar) -> Scalar:
    """1 / (1 + exp(-x)) in the precision of x."""
    return sigmoid_32(x) if isinstance(x, np.float32) else sigmoid_64(x)


@overload(sigmoid, strict=False)  # not strict: numba ignores the annotation, which is for mypy
def _sigmoid_by_type(x: types.Type) -> Callable[[Any], Any]:
    def single(x: Scalar) -> Scalar:
        """Sigmoid of a float32."""
        return sigmoid_32(x)

    def double(x: Scalar) -> Scalar:
        """Sigmoid of a float64."""
        return sigmoid_64(x)

    return single if x == types.float32 else double


def new_scratch(layer: Layer) -> Scratch:
    """Allocate memory for one edge."""
    kind = layer.coordinate.dtype
    # Zeros, because the padding of the radial basis is never written but is multiplied.
    basis, heads = np.zeros((2, len(layer.radial)), kind), np.empty((2, layer.num_heads), kind)
    features, tile = np.empty((5, len(layer.coordinate)), kind), np.empty((TILE, len(layer.coordinate)), kind)
    rows = np.empty((6, len(layer.coordinate)), kind)
    return Scratch._make(
        [
            *basis,
            *heads,
            *features,
            tile,
            np.zeros((TILE, len(layer.radial)), kind),
            rows[:4],
            rows[4:],
            np.empty(2, kind),
        ]
    )


@inlined
def fill_basis(squared: float, num_basis: int, rho: Array, slope: Array) -> None:
    """`radial_basis` and its derivative; each Gaussian but the first two is the square of the one before."""
    # d/du (1 - u)^2 exp(-beta u) = -(2 + beta (1 - u)) (1 - u) exp(-beta u); both are zero beyond the radius.
    inside = max(1 - squared, 0.0)
    beta, gaussian = 0.0, 1.0
    for b in range(num_basis):
        rho[b] = inside * inside * gaussian
        slope[b] = -(2 + beta * inside) * inside * gaussian
        # One call of exp per edge: since beta doubles, each Gaussian is the square of the one before.
        gaussian = math.exp(-squared) if b == 0 else gaussian * gaussian
        beta = max(1.0, 2 * beta)


@inlined
def fill_argument(target: Array, source: Array, radial: Array, scratch: Scratch) -> None:
    """A_i + B_j + C rho, the argument of silu in Eq. 12."""
    rho, argument = scratch.rho, scratch.argument
    # The first group is added in the same pass over the features as A and B.
    c0, c1, c2, c3, c4, c5 = (radial[0], radial[1], radial[2], radial[3], radial[4], radial[5])
    r0, r1, r2, r3, r4, r5 = (rho[0], rho[1], rho[2], rho[3], rho[4], rho[5])
    for d in range(len(argument)):
        near, far = r0 * c0[d] + r1 * c1[d] + r2 * c2[d], r3 * c3[d] + r4 * c4[d] + r5 * c5[d]
        argument[d] = (target[d] + source[d]) + (near + far)
    add_basis(GROUP, rho, radial, argument)


@inlined
def add_basis(first: int, weights: Array, radial: Array, out: Array) -> None:
    """Out += C weights, from basis function `first` on."""
    for b in range(first, len(weights), GROUP):
        c0, c1, c2, c3, c4, c5 = (radial[b], radial[b + 1], radial[b + 2], radial[b + 3], radial[b + 4], radial[b + 5])
        w = weights[b : b + GROUP]
        w0, w1, w2, w3, w4, w5 = (w[0], w[1], w[2], w[3], w[4], w[5])
        for d in range(len(out)):
            near, far = w0 * c0[d] + w1 * c1[d] + w2 * c2[d], w3 * c3[d] + w4 * c4[d] + w5 * c5[d]
            out[d] += near + far


@inlined
def fill_intensity(query: Array, key: Array, scratch: Scratch) -> float:
    """Eq. 11 for every head; return sum_h |Int_h|."""
    damping, intensity = scratch.damping, scratch.intensity
    size = len(query) // len(damping)
    # Constants have the type of the features: a Python number would make float32 arithmetic float64.
    one, scale, total = query.dtype.type(1), query.dtype.type(size**-0.5), query.dtype.type(0)
    for h in range(len(damping)):
        q, k = query[h * size : (h + 1) * size], key[h * size : (h + 1) * size]
        z = query.dtype.type(0)
        for p in range(size):
            z += q[p] * k[p]
        z *= scale
        # Eq. 11: phi(z) = z / (1 + |z|)
        damping[h] = one / (one + abs(z))
        total += abs(z) * damping[h]
        intensity[h * size : (h + 1) * size] = z * damping[h]
    return float(total)


@inlined
def add_message(coordinate: Array, scratch: Scratch, pooled: Array) -> float:
    """Add Eq. 12 to the sum of a cell; return <v, msg>."""
    argument, intensity = scratch.argument, scratch.intensity
    weight = coordinate.dtype.type(0)
    for d in range(len(pooled)):
        # Eq. 12
        message = intensity[d] * argument[d] * sigmoid(argument[d])
        pooled[d] += message
        weight += coordinate[d] * message
    return float(weight)


@inlined
def fill_backward(pooled: Array, weight: float, coordinate: Array, scratch: Scratch) -> None:
    """Differentiate silu and the product of Eq. 12.

    Args:
        pooled: (D,) gradient of the sum of the cell.
        weight: Gradient of <v, msg>.
        coordinate: (D,) v.
        scratch: An edge after `fill_argument`.
    """
    argument, intensity = scratch.argument, scratch.intensity
    silu, product, back = scratch.silu, scratch.product, scratch.back
    one, weight = coordinate.dtype.type(1), coordinate.dtype.type(weight)
    for d in range(len(pooled)):
        gate = sigmoid(argument[d])  # silu' = gate + silu (1 - gate)
        message = pooled[d] + weight * coordinate[d]
        silu[d] = argument[d] * gate
        product[d] = message * silu[d]
        back[d] = message * intensity[d] * (gate + silu[d] * (one - gate))


@inlined
def fill_backward_product(total: float, scratch: Scratch) -> None:
    """Differentiate Eq. 11.

    Args:
        total: Gradient of |Int| of every head.
        scratch: An edge after `fill_backward`.
    """
    damping, intensity, product = scratch.damping, scratch.intensity, scratch.product
    size = len(product) // len(damping)
    scale = product.dtype.type(size**-0.5)
    for h in range(len(damping)):
        summands = product[h * size : (h + 1) * size]
        # Int = z / (1 + |z|) has the slope damping^2 and the sign of z.
        gradient = product.dtype.type(total * np.sign(intensity[h * size]))
        for p in range(size):
            gradient += summands[p]
        scratch.back_product[h] = gradient * damping[h] * damping[h] * scale


@inlined
def add_scaled(weights: Array, values: Array, out: Array) -> None:
    """Out += values, the features of each head times its weight."""
    size = len(values) // len(weights)
    for h in range(len(weights)):
        weight, added, total = weights[h], values[h * size : (h + 1) * size], out[h * size : (h + 1) * size]
        for p in range(size):
            total[p] += weight * added[p]
