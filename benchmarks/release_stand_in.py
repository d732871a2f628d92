"""A folder like the paper's public release, with random weights, for tests and benchmarks. The release itself is not needed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

RADIUS_UM = 20.0


def stand_in_tensors(
    num_genes: int,
    width: int,
    *,
    num_maps: int = 4,
    distance_features: int | None = None,
    feature_gates: bool = False,
    output_maps: int = 0,
    num_layers: int = 2,
) -> dict[str, torch.Tensor]:
    """Draw the weights of a release, by the names that they have in its file.

    Args:
        num_genes: G.
        width: D.
        num_maps: Linear maps of each MLP.
        distance_features: Features of a distance; D if absent.
        feature_gates: Whether an intensity has a value for each feature of the input of a message.
        output_maps: Linear maps after the last layer of encoder and decoder; 0 for none.
        num_layers: Layers of the encoder, and of the decoder.

    Returns:
        Name to tensor.
    """
    import torch

    from cifm_cli.provenance import torch_generator

    generator = torch_generator(0, "release")

    def mlp(module: str, size_in: int, size_out: int, depth: int = num_maps) -> dict[str, torch.Tensor]:
        sizes = [(width, size_in), *[(width, width)] * (depth - 2), (size_out, width)]
        # Variances are kept by ReLU, so that no norm has to repair much.
        return {
            f"{module}.layers.{number}.weight": torch.randn(out, inner, generator=generator).mul_((2 / inner) ** 0.5)
            for number, (out, inner) in enumerate(sizes)
        }

    num_distance = distance_features or width
    size_in = 2 * width + num_distance
    tensors = mlp("gene_encoder", num_genes, width)
    for network in ("model", "mask_cell_decoder"):
        for number in range(num_layers):
            layer = f"{network}.convs.{number}"
            tensors |= mlp(f"{layer}.innerprod_embedding", 1, size_in if feature_gates else 1)
            tensors |= mlp(f"{layer}.dist_embedding", 1, num_distance)
            tensors |= mlp(f"{layer}.mlp_msg", size_in, width)
            tensors |= mlp(f"{layer}.mlp_pos", width, 1)
            tensors |= mlp(f"{layer}.mlp_upd", width, width)
        if output_maps:
            tensors |= mlp(f"{network}.pred", width, width, output_maps)
    tensors |= mlp("mask_cell_expression", width, num_genes) | mlp("mask_cell_dropout", width, num_genes)
    tensors["mask_embedding.weight"] = torch.randn(1, width, generator=generator)
    tensors["proj.weight"] = torch.randn(1, width, generator=generator)
    return tensors


def write_release(
    folder: Path, genes: Sequence[str], tensors: dict[str, torch.Tensor], radius_um: float = RADIUS_UM
) -> Path:
    """Write the three files of a release.

    Args:
        folder: The folder to create.
        genes: (G,) Ensembl ids.
        tensors: From `stand_in_tensors`.
        radius_um: Radius of the graph.

    Returns:
        The folder.
    """
    import torch
    from safetensors.torch import save_file

    width = tensors["mask_embedding.weight"].shape[1]
    code = folder / "models_cifm"
    code.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    arguments = argparse.Namespace(in_dim=len(genes), hidden_dim=width, num_layers=2, radius_spatial_graph=radius_um)
    torch.save(arguments, code / "args.pt")
    torch.save([[gene] for gene in genes], code / "channel2ensembl.pt")
    return folder
