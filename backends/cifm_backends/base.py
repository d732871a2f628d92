"""Interface of backends: the edge part of a message-passing layer, and the graph that it runs on.

A backend holds no parameters, so a checkpoint runs on every backend.
Letters: N cells, E edges j -> i sorted by target i, D features, H heads, P = D / H features of a head,
B radial basis functions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """A radius graph in compressed rows: the neighbours of cell i are `sources[indptr[i]:indptr[i + 1]]`, ascending.

    Args:
        indptr: (N + 1,) int64.
        sources: (E,) int64, the sending cell j of each edge.
        targets: (E,) int64, the receiving cell i of each edge, ascending.
        displacement: (E, 2) float, (x_i - x_j) / radius. Differences are taken in double precision before they are
            rounded, so a tissue far from the origin loses no digits.
        cache: Data that backends derive from this graph, by a key that starts with the name of the backend.
    """

    indptr: Tensor
    sources: Tensor
    targets: Tensor
    displacement: Tensor
    # Excluded from comparison: two graphs are equal whatever backends have run on them.
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_cells(self) -> int:
        """Number of cells, N."""
        return self.indptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """Number of edges, E."""
        return self.sources.shape[0]


class Messages(NamedTuple):
    """Result of the edge part of a layer, for each cell.

    Args:
        pooled: (N, D) sum_j msg_ij.
        shift: (N, 2) sum_j (x_i - x_j) <v, msg_ij> / (1 + sum_j mean_h |Int_ijh|), in radii (Eq. 13, normalised).
    """

    pooled: Tensor
    shift: Tensor


class NodeTerms(NamedTuple):
    """Bias-free projections of the cells' features.

    Args:
        query: (N, D) Q, split into H heads.
        key: (N, D) K, split into H heads.
        target: (N, D) A, the part of the message that depends on the receiving cell.
        source: (N, D) B, the part of the message that depends on the sending cell.
    """

    query: Tensor
    key: Tensor
    target: Tensor
    source: Tensor


class EdgeValues(NamedTuple):
    """Values at the two ends of each edge, for the literal form of a layer.

    Args:
        target: (E, D) h_i.
        source: (E, D) h_j.
        product: (E, 1) mean over channels of h_i h_j.
        displacement: (E, 2) x_i - x_j, in radii.
    """

    target: Tensor
    source: Tensor
    product: Tensor
    displacement: Tensor


class EdgeTerms(NamedTuple):
    """Parameters of the layer that act on edges.

    Args:
        radial: (D, B) C, weights of the radial basis.
        coordinate: (D,) v; the product of a message with it scales the coordinate step.
        num_heads: H.
    """

    radial: Tensor
    coordinate: Tensor
    num_heads: int


@runtime_checkable
class Backend(Protocol):
    """Base class of backends, which run the edge part of a layer.

    `messages` serves the factored form of a layer, `read_edges` and `sum_edges` the literal one as printed. A backend may
    inherit the last two, which use plain torch operations: most of the literal form's work is in the MLPs of the layer.

    The module of the registered class must import quickly, because `auto` reads the priority of every class. Import
    libraries that are slow or optional in `__init__`.

    Args:
        name: As given to `--backend`.
        priority: `auto` takes the backend with the highest priority among those that run on the device.
        stores_edges: Whether `messages` holds tensors of size E x D. If it does not, inference uses larger tiles than
            training.
    """

    name: str
    priority: int = 0
    stores_edges: bool = True

    def version(self) -> str:
        """Names and versions of the libraries it uses, shown by `cifm backends` and stored as provenance."""
        ...

    def supports(self, device: str) -> bool:
        """Whether the backend runs on a device type such as `cpu` or `cuda`."""
        ...

    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer, differentiably in every tensor.

        With dx = displacement_ij + shift_i - shift_j and u = |dx|^2:

            Int_ijh = phi(<Q_ih, K_jh> / sqrt(P)),  phi(z) = z / (1 + |z|)          (Eq. 11)
            msg_ij  = Int_ij * silu(A_i + B_j + C rho(u))                            (Eq. 12)
            pooled_i = sum_j msg_ij                                                  (Eq. 14, inner sum)
            shift_i  = sum_j dx <v, msg_ij> / (1 + sum_j mean_h |Int_ijh|)           (Eq. 13)

        where rho is `radial_basis`.

        Args:
            graph: The radius graph.
            nodes: Projections of the cells' features.
            edges: Edge parameters.
            shift: (N, 2) displacement of each cell from its input position, in radii.

        Returns:
            Pooled messages and the coordinate step.
        """
        ...

    def read_edges(self, graph: Graph, h: Tensor, shift: Tensor) -> EdgeValues:
        """Gather the features of both ends of every edge, differentiably in every tensor.

        Args:
            graph: The radius graph.
            h: (N, D) features.
            shift: (N, 2) displacement of each cell from its input position, in radii.

        Returns:
            The values that Eqs 11-13 take from the two ends of an edge.
        """
        i_E, j_E = graph.targets, graph.sources
        working = h.to(torch.promote_types(h.dtype, torch.float32))  # gradients are summed in this precision
        target, source = working[i_E], working[j_E]
        product = (target * source).mean(dim=-1, keepdim=True)
        # Displacements stay in float32, since differences of positions lose digits in half precision.
        displacement = graph.displacement + shift[i_E] - shift[j_E]
        return EdgeValues(target.to(h.dtype), source.to(h.dtype), product.to(h.dtype), displacement)

    def sum_edges(self, graph: Graph, values: Tensor) -> Tensor:
        """Sum values of edges over the edges of each receiving cell, differentiably.

        Args:
            graph: The radius graph.
            values: (E, F) values of the edges.

        Returns:
            (N, F) sums. Half precision is summed in float32.
        """
        working = torch.promote_types(values.dtype, torch.float32)
        # Cells without edges keep the zero.
        total = torch.zeros(graph.num_cells, values.shape[1], dtype=working, device=values.device)
        return total.index_add(0, graph.targets, values.to(working)).to(values.dtype)


Method = Callable[[Any, Graph, NodeTerms, EdgeTerms, "Tensor"], Messages]


def in_working_precision(*unconverted: torch.dtype) -> Callable[[Method], Method]:
    """Decorate `messages` of a backend so that its inputs have one floating type, also under autocast.

    Half-precision features are widened to float32, since sums over neighbours lose digits in bfloat16. Geometry and
    parameters are converted to the type of the features. Results are converted back to the types of the inputs.

    Args:
        unconverted: Half-precision types of features that the backend widens itself; they are passed on as they are.

    Returns:
        A decorator. The decorated method receives inputs in float32 or float64, all of one type except features of an
        unconverted type, with autocast off.
    """

    def decorate(method: Method) -> Method:
        """Wrap `Backend.messages`."""

        @wraps(method)
        def messages(backend: Backend, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
            """Call the method with autocast off and convert its results to the type of `nodes`."""
            stored = nodes.target.dtype  # bfloat16 under autocast
            working = torch.promote_types(stored, torch.float32)
            features = stored if stored in unconverted else working
            # Autocast would convert products inside the backend back to half precision.
            with _without_autocast(shift.device.type):
                # The new graph shares the cache of the old one, so data derived from it is computed once.
                result = method(
                    backend,
                    replace(graph, displacement=graph.displacement.to(working)),
                    NodeTerms(*(term.to(features) for term in nodes)),
                    EdgeTerms(edges.radial.to(working), edges.coordinate.to(working), edges.num_heads),
                    shift.to(working),
                )
            # The shift keeps its own type: in a network under autocast it is float32 while features are bfloat16.
            return Messages(result.pooled.to(stored), result.shift.to(shift.dtype))

        return messages

    return decorate


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Switch autocast off, on devices that have it."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
