"""From the tensors of the public release to those of a network with `model.message = "release"`.

Letters: G channels, D features, K features of a distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cifm_cli.errors import CifmError
from cifm_cli.release.names import HINT, TensorStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.release.names import ReleaseNames

_AGAIN = "copy the file again"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class ReleaseLayerMaps:
    """The MLPs of a layer."""

    intensity: list[Tensor]
    distance: list[Tensor]
    message: list[Tensor]
    step: list[Tensor]
    update: list[Tensor]


@dataclass(frozen=True)
class ReleaseGraphNetwork:
    """Encoder or decoder."""

    layers: list[ReleaseLayerMaps]
    output: list[Tensor]  # maps of the MLP after the last layer; none without one


@dataclass(frozen=True)
class ReleaseWeights:
    """The maps of the release."""

    genes: list[Tensor]
    encoder: ReleaseGraphNetwork
    decoder: ReleaseGraphNetwork
    mask: Tensor  # (D,)
    magnitude: list[Tensor]
    expressed: list[Tensor]
    unused: list[str]  # names of tensors that nothing reads

    @property
    def width(self) -> int:
        """D."""
        return len(self.genes[0])

    @property
    def num_channels(self) -> int:
        """G."""
        return self.genes[0].shape[1]

    def model_recipe(self) -> dict[str, Any]:
        """The section `model` of the recipe that has these shapes."""
        first = self.encoder.layers[0]
        return {
            "message": "release",
            "width": self.width,
            "encoder_layers": len(self.encoder.layers),
            "decoder_layers": len(self.decoder.layers),
            "heads": 1,
            "mlp_layers": len(self.genes),
            "norm": True,
            "residual": False,
            "self_loops": True,
            "distance_features": len(first.distance[-1]),
            "feature_gates": True if len(first.intensity[-1]) > 1 else None,
            "output_maps": len(self.encoder.output) or None,
        }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of the release as float32.

    Raises:
        CifmError: The file is damaged, a tensor has no floating type, or a value is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CifmError(f"{path}: not a readable safetensors file ({error!s:.200})", _AGAIN) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise CifmError(f"{path}: tensor {name} is of type {tensor.dtype}, numbers are needed", HINT)
        tensors[name] = tensor.float()
        if tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensors[name]))):
            raise CifmError(f"{path}: tensor {name} has a value that is not finite", _AGAIN)
    return tensors


def sort_tensors(path: Path, tensors: dict[str, Tensor], names: ReleaseNames) -> ReleaseWeights:
    """Find the modules of the release among its tensors.

    Args:
        path: Their file, for messages.
        tensors: From `read_tensors`.
        names: Names of the modules.

    Returns:
        The modules, whose shapes fit together.

    Raises:
        CifmError: A module is missing, a tensor is unknown, or a shape does not fit.
    """
    store = TensorStore(path, tensors)
    weights = ReleaseWeights(
        genes=store.take_maps(names.gene_encoder),
        encoder=_take_network(store, names.encoder, names),
        decoder=_take_network(store, names.decoder, names),
        mask=store.take_vector(names.mask),
        magnitude=store.take_maps(names.magnitude),
        expressed=store.take_maps(names.expressed),
        unused=store.drop(names.unused),
    )
    store.require_empty()
    _check_shapes(path, weights, names)
    return weights


def _take_network(store: TensorStore, module: str, names: ReleaseNames) -> ReleaseGraphNetwork:
    """Take encoder or decoder."""
    layers = []
    for number in range(store.count_layers(f"{module}.{names.layers}")):
        prefix = f"{module}.{names.layers}.{number}"
        roles = (names.intensity, names.distance, names.message, names.step, names.update)
        layers.append(ReleaseLayerMaps(*(store.take_maps(f"{prefix}.{role}") for role in roles)))
    return ReleaseGraphNetwork(layers, store.take_optional_maps(f"{module}.{names.output}"))


def _check_shapes(path: Path, weights: ReleaseWeights, names: ReleaseNames) -> None:
    """Check that all MLPs have the shapes that follow from the gene encoder and the first layer."""
    width, num_channels = weights.width, weights.num_channels
    heads = {names.magnitude: weights.magnitude, names.expressed: weights.expressed}
    _check_maps(path, {names.gene_encoder: weights.genes}, (num_channels, width, width), len(weights.genes))
    _check_maps(path, heads, (width, width, num_channels), len(weights.genes))
    if weights.mask.shape != (width,):
        raise CifmError(f"{path}: {names.mask} has {len(weights.mask)} features, {width} are needed", HINT)
    outputs = {f"{names.encoder}.{names.output}": weights.encoder.output}
    outputs[f"{names.decoder}.{names.output}"] = weights.decoder.output
    if any(outputs.values()):
        # Both or none: an empty list differs from the maps of the other.
        _check_maps(path, outputs, (width, width, width), max(map(len, outputs.values())))
    for module, network in ((names.encoder, weights.encoder), (names.decoder, weights.decoder)):
        for number, layer in enumerate(network.layers):
            _check_layer(path, f"{module}.{names.layers}.{number}", layer, weights, names)


def _check_layer(
    path: Path, prefix: str, layer: ReleaseLayerMaps, weights: ReleaseWeights, names: ReleaseNames
) -> None:
    """Check the MLPs of a layer; all layers have as many features of a distance as the first one, and such intensities."""
    width, depth, first = weights.width, len(weights.genes), weights.encoder.layers[0]
    num_distance, num_gates = len(first.distance[-1]), len(first.intensity[-1])
    size_in = 2 * width + num_distance
    if num_gates not in (1, size_in):
        raise CifmError(f"{path}: {names.intensity} has {num_gates} outputs; 1 or {size_in} are needed", HINT)
    _check_maps(path, {f"{prefix}.{names.intensity}": layer.intensity}, (1, width, num_gates), depth)
    _check_maps(path, {f"{prefix}.{names.distance}": layer.distance}, (1, width, num_distance), depth)
    _check_maps(path, {f"{prefix}.{names.message}": layer.message}, (size_in, width, width), depth)
    _check_maps(path, {f"{prefix}.{names.step}": layer.step}, (width, width, 1), depth)
    _check_maps(path, {f"{prefix}.{names.update}": layer.update}, (width, width, width), depth)


def _check_maps(path: Path, mlps: dict[str, list[Tensor]], sizes: tuple[int, int, int], num_maps: int) -> None:
    """Compare MLPs with their input, hidden and output features."""
    size_in, hidden, size_out = sizes
    needed = [(hidden, size_in), *[(hidden, hidden)] * (num_maps - 2), (size_out, hidden)]
    for module, maps in mlps.items():
        found = [tuple(weight.shape) for weight in maps]
        if found != needed:
            raise CifmError(f"{path}: the maps of {module} are {found}, {needed} are needed", HINT)


def to_network(weights: ReleaseWeights, channels: Tensor, radius_um: float) -> dict[str, Tensor]:
    """Translate the weights.

    Args:
        weights: From `sort_tensors`.
        channels: (genes,) channels that are kept, in the order of the vocabulary.
        radius_um: Radius of the graph. A network has distances in radii, the release in micrometres: the first map of a
            distance is multiplied by it.

    Returns:
        Tensors by the names that they have in a checkpoint.
    """
    tensors = {"genes.weight": weights.genes[0][:, channels].T.contiguous(), "padding": weights.mask}
    tensors |= {f"gene_maps.middle.{number}.weight": weight for number, weight in enumerate(weights.genes[1:-1])}
    tensors["gene_maps.last.weight"] = weights.genes[-1]
    for name, network in (("encoder", weights.encoder), ("decoder", weights.decoder)):
        for number, layer in enumerate(network.layers):
            distance = [radius_um * layer.distance[0], *layer.distance[1:]]
            roles = {"bfmlp1": layer.intensity, "distance": distance, "bfmlp2": layer.message}
            for role, maps in (roles | {"bfmlp3": layer.step, "bfmlp4": layer.update}).items():
                tensors |= _name_maps(f"{name}.{number}.{role}", maps)
        if network.output:
            tensors |= _name_maps(f"{name}_output", network.output)
    for name, maps in (("magnitude", weights.magnitude), ("logit", weights.expressed)):
        trunk = _name_maps(f"head.{name}_trunk", maps)
        del trunk[f"head.{name}_trunk.last.weight"]
        tensors |= trunk
        tensors[f"head.{name}.weight"] = maps[-1][channels]
        tensors[f"head.{name}.bias"] = torch.zeros(len(channels))
    return tensors


def _name_maps(module: str, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """The maps of a bias-free MLP by their names in a network."""
    middle = {f"{module}.middle.{number}.weight": weight for number, weight in enumerate(maps[1:-1])}
    return {f"{module}.first.weight": maps[0], **middle, f"{module}.last.weight": maps[-1]}
