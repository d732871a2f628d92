"""The MLPs on edges of the literal forms of a layer, with fewer products than as printed; the same function up to rounding.

As printed, BFMLP_2 reads g_ij [h_i, h_j, d_ij]. Its first map is split into parts, so that products are on cells:

    W (g_ij [h_i, h_j, d_ij]) = g_ij (A_i + B_j + d_ij q)

An MLP of a scalar s without biases is a function of |s| times one of two vectors, for s > 0 and s < 0 (`ScalarMLP`), so
that intensities and distances need no products on edges either. The last map of BFMLP_2 follows the sum over neighbours, and
is merged with the first map of BFMLP_3. Edges are computed some at a time, so that what is needed of each for a moment takes
little memory.

Letters: N cells, E edges j -> i, e edges of a chunk, D features, K features of a distance.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cifm_backends.base import Graph
from cifm_cli.model.bias_free import NORM_EPSILON, BiasFreeMLP, CentredNorm, run_middle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from cifm_backends.base import Backend

# Numbers in a tensor of a chunk: some MB, which the cache of a core holds; a GPU needs more to be busy.
_CHUNK_CPU, _CHUNK_GPU = 1 << 19, 1 << 26


class ScalarMLP(NamedTuple):
    """A bias-free MLP of a scalar s as c(|s|) v(sign s), with c a function of a scalar.

    ReLU(w s) is |s| times a vector that depends on the sign alone, and so is everything after it: a norm divides
    c u by sqrt(c^2 m + epsilon), with m the mean square of u.
    """

    vectors: Tensor  # (2, K) v for s >= 0, and for s < 0
    mean_squares: Tensor  # (2, number of norms) m of each norm

    @classmethod
    def of(cls, mlp: BiasFreeMLP) -> Self:
        """Find the vectors of an MLP whose input has one feature."""
        weight = mlp.first.weight[:, 0]
        # A few products of vectors, in the precision of the weights.
        with _without_autocast(weight):
            signs = [_follow(mlp, functional.relu(signed)) for signed in (weight, -weight)]
        return cls(torch.stack([vector for vector, _ in signs]), torch.stack([squares for _, squares in signs]))

    def split(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) c of (E,) scalars, and the (E,) row of `vectors` for each."""
        row = (s < 0).long()
        c = s.abs()
        for number in range(self.mean_squares.shape[1]):
            c = c / (c.square() * self.mean_squares[row, number] + NORM_EPSILON).sqrt()
        return c, row

    def is_constant_from(self, smallest: float) -> bool:
        """Whether c is the same for all s >= `smallest` > 0, in the precision of the vectors. It never decreases."""
        double = ScalarMLP(self.vectors.double(), self.mean_squares.detach().double())
        (at_smallest, at_largest), _ = double.split(double.vectors.new_tensor([smallest, 1e9]))
        return bool(at_largest - at_smallest <= torch.finfo(self.vectors.dtype).eps / 2 * at_largest)


def _follow(mlp: BiasFreeMLP, u: Tensor) -> tuple[Tensor, Tensor]:
    """The output of an MLP but for its scale, and the mean squares of its norms, from ReLU of the first map on."""
    squares = []

    def normalise(u: Tensor) -> Tensor:
        """Leave out the scale of a norm."""
        if isinstance(mlp.norm, nn.Identity):
            return u
        centred = u - u.mean() if isinstance(mlp.norm, CentredNorm) else u
        squares.append(centred.square().mean())
        return centred

    u = normalise(u)
    for linear in mlp.middle:
        u = normalise(u + functional.relu(linear(u)))
    return functional.linear(u, mlp.last.weight), torch.stack(squares) if squares else u.new_zeros(0)


class FirstMap(NamedTuple):
    """The first map of BFMLP_2, split; S is 2 where the intensity has a value for each feature, one set for each sign."""

    target: Tensor  # (S, N, D) A
    source: Tensor  # (S, N, D) B
    distance: Tensor  # (S, D) q
    intensity: ScalarMLP
    embedded: ScalarMLP | None  # embedding of a distance; None where messages read the distance itself

    def read(self, graph: Graph, edges: slice, product: Tensor, distance: Tensor) -> Tensor:
        """(e, D) product of the first map for some edges, from their (e,) inner products and distances."""
        i, j = graph.targets[edges], graph.sources[edges]
        scale, row = self.intensity.split(product)
        if self.embedded:
            distance, _ = self.embedded.split(distance)
        if len(self.target) == 1:
            scale = scale * self.intensity.vectors[row, 0]
            z = self.target[0].index_select(0, i) + self.source[0].index_select(0, j)
            z = torch.addcmul(z, distance[:, None].to(z.dtype), self.distance[0].to(z.dtype))
        else:
            z = self.target[row, i] + self.source[row, j] + distance[:, None] * self.distance[row]
        return z * scale[:, None].to(z.dtype)


def first_map(mlp: BiasFreeMLP, h: Tensor, intensity: ScalarMLP, embedded: ScalarMLP | None) -> FirstMap:
    """Split the first map of BFMLP_2.

    Args:
        mlp: BFMLP_2.
        h: (N, D) features.
        intensity: BFMLP_1.
        embedded: MLP of the distance; None for the distance itself.

    Returns:
        Its parts.
    """
    width = h.shape[1]
    at_target, at_source, of_distance = mlp.first.weight.split([width, width, mlp.first.in_features - 2 * width], dim=1)
    vector = embedded.vectors[0] if embedded else h.new_ones(1)  # distances are not negative
    # A single intensity is a factor that `FirstMap.read` multiplies by.
    is_single = intensity.vectors.shape[1] == 1
    gates = [vector.new_ones(mlp.first.in_features)] if is_single else list(intensity.vectors)
    parts = [gate.split([width, width, len(vector)]) for gate in gates]
    # Products of cells are few beside those of edges, and their sum loses digits in half precision.
    with _without_autocast(h):
        return FirstMap(
            torch.stack([functional.linear(h * part[0], at_target) for part in parts]),
            torch.stack([functional.linear(h * part[1], at_source) for part in parts]),
            torch.stack([functional.linear(vector * part[2], of_distance) for part in parts]),
            intensity,
            embedded,
        )


class EdgeSums(NamedTuple):
    """Sums over the edges of each receiving cell."""

    hidden: Tensor  # (N, D) input of the last map of BFMLP_2
    step: Tensor  # (N, 2) sum_j (x_i - x_j) BFMLP_3(msg_ij); zero without BFMLP_3
    number: Tensor  # (N,) edges whose inner product is not zero, which are those without a void cell


def is_plain(graph: Graph) -> bool:
    """Whether the sums over neighbours are plain sums, and not those of a derived kind of graph."""
    return type(graph) is Graph


def sum_edges(
    graph: Graph,
    first: FirstMap,
    mlps: tuple[BiasFreeMLP, BiasFreeMLP | None],
    h: Tensor,
    shift: Tensor,
    backend: Backend | None = None,
    *,
    keeps_edges: bool = False,
) -> EdgeSums:
    """Run BFMLP_2 and BFMLP_3 on all edges, and sum over neighbours.

    Args:
        graph: N cells and E edges.
        first: From `first_map`.
        mlps: BFMLP_2; BFMLP_3, or None if no cell has to move.
        h: (N, D) features.
        shift: (N, 2) how far each cell has moved, in radii.
        backend: Sums all edges at once, for a graph that is not plain.
        keeps_edges: Whether the backward pass reads the tensors of edges from memory. It computes them again otherwise,
            which takes a third more products.

    Returns:
        The sums.
    """
    run = _EdgeRun(graph, first, *mlps, h, shift)
    if not is_plain(graph) and backend is not None:
        hidden, step, number = run.values(slice(0, graph.num_edges))
        sums = (backend.sum_edges(graph, values) for values in (hidden, step, number[:, None]))
        pooled, moved, counted = sums
        return EdgeSums(pooled, moved, counted[:, 0])
    parts = []
    for cells, edges in _chunks(graph, h):
        if torch.is_grad_enabled() and not keeps_edges:
            parts.append(checkpoint(run.sums, cells, edges, use_reentrant=False))
        else:
            parts.append(run.sums(cells, edges))
    if not parts:
        return EdgeSums(h.new_zeros(h.shape), shift.new_zeros(shift.shape), h.new_zeros(len(h)))
    return EdgeSums(*(torch.cat(each) for each in zip(*parts, strict=True)))


class _EdgeRun:
    """What is the same for all chunks of edges of a layer."""

    def __init__(
        self, graph: Graph, first: FirstMap, mlp2: BiasFreeMLP, mlp3: BiasFreeMLP | None, h: Tensor, shift: Tensor
    ) -> None:
        self.graph, self.first, self.mlp2, self.mlp3, self.h, self.shift = graph, first, mlp2, mlp3, h, shift
        # BFMLP_3 reads messages, the output of the last map of BFMLP_2: one product in place of two.
        with _without_autocast(h):
            self.merged = mlp3.first.weight @ mlp2.last.weight if mlp3 else None

    def values(self, edges: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(e, D) input of the last map of BFMLP_2, (e, 2) steps, and (e,) 1 where the inner product is not zero."""
        graph, h = self.graph, self.h
        i, j = graph.targets[edges], graph.sources[edges]
        working = h.to(torch.promote_types(h.dtype, torch.float32))
        product = (working.index_select(0, i) * working.index_select(0, j)).mean(dim=-1)
        dx = graph.displacement[edges] + self.shift[i] - self.shift[j]
        # torch defines the gradient of the norm at zero as zero, so self loops do no harm.
        z = self.first.read(graph, edges, product, torch.linalg.vector_norm(dx, dim=-1))
        hidden = run_middle(z, self.mlp2.middle, self.mlp2.norm)
        number = (product != 0).to(dx.dtype)
        if self.mlp3 is None or self.merged is None:
            return hidden, torch.zeros_like(dx), number
        scale = self.mlp3.last(run_middle(functional.linear(hidden, self.merged), self.mlp3.middle, self.mlp3.norm))
        return hidden, dx * scale.to(dx.dtype), number

    def sums(self, cells: slice, edges: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Sums for some receiving cells, whose edges are `edges`."""
        place = self.graph.targets[edges] - cells.start
        return tuple(_sum(values, place, cells.stop - cells.start) for values in self.values(edges))  # type: ignore[return-value]


def _without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, on devices that have it."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _sum(values: Tensor, place: Tensor, num_cells: int) -> Tensor:
    """Sum (e, ...) values by place; half precision is summed in float32."""
    working = values.to(torch.promote_types(values.dtype, torch.float32))
    total = working.new_zeros(num_cells, *values.shape[1:]).index_add(0, place, working)
    return total.to(values.dtype)


def _chunks(graph: Graph, h: Tensor) -> Iterator[tuple[slice, slice]]:
    """Consecutive receiving cells and their edges, such that a tensor of a chunk has some MB; at least one cell each."""
    if graph.indptr.is_meta:  # has shapes and no numbers
        yield slice(0, graph.num_cells), slice(0, graph.num_edges)
        return
    largest = max(1, (_CHUNK_CPU if h.device.type == "cpu" else _CHUNK_GPU) // h.shape[1])
    indptr = graph.indptr.cpu()
    first = 0
    while first < graph.num_cells:
        last = int(torch.searchsorted(indptr, indptr[first] + largest, right=True)) - 1
        last = min(max(last, first + 1), graph.num_cells)
        yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))
        first = last
