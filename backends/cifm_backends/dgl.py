"""The DGL backend: Eqs 11-14 through DGL graphs and their g-SDDMM and g-SpMM kernels, on the CPU and on CUDA.

DGL is imported when the backend is created, not with this module, so this module imports on machines without DGL. The
kernels of DGL gather features to edges and sum edges into cells; the operations in between hold a few E x D tensors.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from cifm_backends import BackendUnavailableError
from cifm_backends.base import Backend, EdgeTerms, EdgeValues, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.torch_reference import intensity, radial_basis

if TYPE_CHECKING:
    from torch import Tensor

INSTALL = "pip install 'cifm[dgl]' on Python 3.11"


class DglBackend(Backend):
    """Runs on the devices that the installed build of DGL supports.

    Raises:
        BackendUnavailableError: DGL is not installed, or its shared libraries do not load.
    """

    name = "dgl"
    priority = 20

    def __init__(self) -> None:
        # Without it, the first import of DGL asks for a backend and writes a file into the user's home.
        os.environ.setdefault("DGLBACKEND", "pytorch")
        try:
            self._dgl: Any = import_module("dgl")
        # DGL raises OSError (FileNotFoundError) where its compiled library does not match the version of torch.
        except (ImportError, OSError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "dgl":
                raise BackendUnavailableError(f"not installed; optional: {INSTALL}") from error
            reason = (str(error).splitlines() or [""])[0]
            raise BackendUnavailableError(
                f"installed, but does not load ({reason}); a release that does: {INSTALL}"
            ) from error

    def version(self) -> str:
        """Version of DGL."""
        return f"dgl {self._dgl.__version__}"

    def supports(self, device: str) -> bool:
        """The CPU, and CUDA if DGL was built for it. The wheels on the package index were not."""
        return device == "cpu" or (device == "cuda" and bool(self._dgl.ndarray.gpu(0).exist))

    @in_working_precision()
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        ops, g = self._dgl.ops, self._graph(graph)
        heads = edges.num_heads, nodes.query.shape[-1] // edges.num_heads
        # In DGL, u is the source j and v the target i, so that u_sub_v is shift_j - shift_i.
        dx_E = graph.displacement - ops.u_sub_v(g, shift, shift)
        rho_E = radial_basis(dx_E.square().sum(-1), edges.radial.shape[1])
        product_E = ops.u_dot_v(g, nodes.key.unflatten(-1, heads), nodes.query.unflatten(-1, heads))
        int_E = intensity(product_E * heads[1] ** -0.5)  # Eq. 11, (E, H, 1)
        inner_E = functional.silu(ops.u_add_v(g, nodes.source, nodes.target) + rho_E @ edges.radial.T)
        msg_E = (inner_E.unflatten(-1, heads) * int_E).flatten(-2)  # Eq. 12
        step = ops.copy_e_sum(g, dx_E * (msg_E @ edges.coordinate)[:, None])
        total = ops.copy_e_sum(g, int_E.abs().mean(-2))
        return Messages(ops.copy_e_sum(g, msg_E), step / (1 + total))  # Eq. 13

    def read_edges(self, graph: Graph, h: Tensor, shift: Tensor) -> EdgeValues:
        """Gather the features of both ends of every edge; see `Backend.read_edges`."""
        ops, g = self._dgl.ops, self._graph(graph)
        working = h.to(torch.promote_types(h.dtype, torch.float32))
        target, source = ops.copy_v(g, working), ops.copy_u(g, working)
        # Eq. 11: a mean over channels
        product = ops.u_dot_v(g, working, working) / h.shape[1]
        displacement = graph.displacement - ops.u_sub_v(g, shift, shift)
        return EdgeValues(target.to(h.dtype), source.to(h.dtype), product.to(h.dtype), displacement)

    def sum_edges(self, graph: Graph, values: Tensor) -> Tensor:
        """Sum values of edges into cells; see `Backend.sum_edges`."""
        # As in `Backend.sum_edges`, half precision is summed in float32. DGL needs one type for all operands.
        working = values.to(torch.promote_types(values.dtype, torch.float32))
        total: Tensor = self._dgl.ops.copy_e_sum(self._graph(graph), working)
        return total.to(values.dtype)

    def _graph(self, graph: Graph) -> Any:  # noqa: ANN401 - DGL is not typed
        # All layers of a network run on few graphs, so each is converted once.
        if "dgl" not in graph.cache:
            graph.cache["dgl"] = self._dgl.graph((graph.sources, graph.targets), num_nodes=graph.num_cells)
        return graph.cache["dgl"]
