"""The layer, gene maps and heads of the paper's public release, which differ from Eqs 11-14 as printed.

Letters: N cells, n of them kept, M inferred, E edges, D features, K features of a distance, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cifm_cli.model.bias_free import BiasFreeMLP, CentredNorm, HiddenMaps, run_middle
from cifm_cli.model.edge_maps import ScalarMLP, first_map, sum_edges
from cifm_cli.model.products import Linear

if TYPE_CHECKING:
    from cifm_backends.base import Backend
    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.recipe_sections import ModelRecipe


def release_norm(recipe: ModelRecipe) -> nn.Module:
    """The norm between the maps of every MLP of the release."""
    return CentredNorm() if recipe.norm else nn.Identity()


# In radii: 20 nm at the radius of the release. No two cells are as close, unless they have the same coordinates.
SMALLEST_DISTANCE = 1e-3


class ReleaseLayer(nn.Module):
    """Eqs 11-14 as the public release has them.

        Int_ij = BFMLP_1(mean over channels of h_i h_j)                             (Eq. 11)
        msg_ij = BFMLP_2(Int_ij [h_i, h_j, BFMLP_d(d_ij)])                          (Eq. 12)
        x_i'   = x_i + sum_j (x_i - x_j) BFMLP_3(msg_ij) / c_i                      (Eq. 13)
        h_i'   = BFMLP_4(sum_j msg_ij)                                              (Eq. 14)

    c_i is the number of edges of the cell on which the inner product is not zero, that is of neighbours that are not void,
    the cell itself included. All MLPs are normalised; that of the distance is not in the paper. `edge_maps` computes the
    part on edges.

    With three norms in a row, the MLP of a distance has the same output for all distances but zero, in single
    precision. Where the cells have moved then makes no difference, and `reads_shift` tells the layer before.

    Args:
        recipe: The model section of a recipe.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width, depth, norm = recipe.width, recipe.mlp_layers, release_norm(recipe)
        num_distance = recipe.distance_features or width
        size_in = 2 * width + num_distance
        self.bfmlp1 = BiasFreeMLP((1, width, size_in if recipe.feature_gates else 1), depth, norm)
        self.distance = BiasFreeMLP((1, width, num_distance), depth, norm)
        self.bfmlp2 = BiasFreeMLP((size_in, width, width), depth, norm)
        self.bfmlp3 = BiasFreeMLP((width, width, 1), depth, norm)
        self.bfmlp4 = BiasFreeMLP((width, width, width), depth, norm)

    def forward(
        self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor, *, moves: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run one layer; see `FactoredLayer.forward`."""
        first = first_map(self.bfmlp2, h, ScalarMLP.of(self.bfmlp1), ScalarMLP.of(self.distance))
        sums = sum_edges(layer.graph, first, (self.bfmlp2, self.bfmlp3 if moves else None), h, shift, backend)
        pooled = self.bfmlp2.last(layer.select_outputs(sums.hidden))
        # A cell without neighbours that are not void has a step of zero, whatever it is divided by.
        moved = shift + sums.step / sums.number.clamp(min=1)[:, None]
        return self.bfmlp4(pooled).to(h.dtype), layer.select_outputs(moved)

    @torch.no_grad()
    def reads_shift(self, layer: LayerGraph) -> bool:
        """Whether the shift of the cells makes a difference, but for pairs that it brings within `SMALLEST_DISTANCE`."""
        graph = layer.graph
        if graph.indptr.is_meta or not ScalarMLP.of(self.distance).is_constant_from(SMALLEST_DISTANCE):
            return True
        is_near = torch.linalg.vector_norm(graph.displacement, dim=-1) < SMALLEST_DISTANCE
        # Cells at the same place may be moved apart.
        return bool((is_near & (graph.sources != graph.targets)).any())


class ReleaseGeneMaps(nn.Module):
    """The MLP of the gene input after its first map, which is `GeneInput`.

    Args:
        recipe: The model section of a recipe.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width = recipe.width
        self.norm = release_norm(recipe)
        self.middle = nn.ModuleList(Linear(width, width, bias=False) for _ in range(recipe.mlp_layers - 2))
        self.last = Linear(width, width, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map the (N, D) product of the first map to (N, D) features."""
        features: Tensor = self.last(run_middle(z, self.middle, self.norm))
        return features


def release_trunk(recipe: ModelRecipe) -> HiddenMaps:
    """The maps of a head before its last one, which is a `GeneOutput`."""
    return HiddenMaps(recipe.width, recipe.width, recipe.mlp_layers - 1, release_norm(recipe))


def release_output(recipe: ModelRecipe) -> BiasFreeMLP | None:
    """The MLP after the last layer of encoder or decoder; None if the recipe has none."""
    width = recipe.width
    number = recipe.output_maps
    return BiasFreeMLP((width, width, width), number, release_norm(recipe)) if number else None
