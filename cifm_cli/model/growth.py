"""Growth of a vocabulary: the same network with rows for genes that it was not trained on.

Known genes keep their rows bit for bit, so predictions on a slide without new genes do not change. The rows of a new gene
are neutral: it is not read, and its prediction is that of the smoother. Where the co-expression with known genes is given,
the rows are derived from theirs.

Letters: G genes of the vocabulary, K known and N new genes of a slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.gene_maps import GeneInput, GeneOutput
from cifm_cli.model.heads import PlainHead, ResidualHead
from cifm_cli.provenance import seeded_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.model.coexpression import Coefficients, CoExpression
    from cifm_cli.model.slide_parameters import PooledParameters
    from cifm_cli.recipe import Recipe

    Numbers = NDArray[np.float64]

COMPOSITION_GAIN = 0.5  # of corrections of a composition: logarithms are linear for small corrections only
MIN_FRACTION = 1e-3  # of cells that express a gene, so that its logit is finite


def gene_axes(recipe: Recipe) -> dict[str, int]:
    """Find the tensors of the networks of a recipe that have an entry for every gene.

    Args:
        recipe: A whole recipe.

    Returns:
        Name in the state dictionary of an `Ensemble` to the axis of the genes.
    """
    # By comparison of two sizes: a part of the network that is added later is found without being declared anywhere.
    shapes = [_shapes(num_genes, recipe) for num_genes in (2, 3)]
    return {
        name: next(axis for axis, (size, other) in enumerate(zip(shape, shapes[1][name], strict=True)) if size != other)
        for name, shape in shapes[0].items()
        if shape != shapes[1][name]
    }


def _shapes(num_genes: int, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # tensors with a shape and no memory
        network = Ensemble(num_genes, recipe)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@torch.no_grad()
def grow(
    network: Ensemble,
    recipe: Recipe,
    vocabulary: Sequence[str],
    grown_vocabulary: Sequence[str],
    coexpressions: Sequence[CoExpression] = (),
) -> Ensemble:
    """Add rows for new genes to a network.

    Args:
        network: The network, which is not changed.
        recipe: Its recipe.
        vocabulary: Its G Ensembl ids.
        grown_vocabulary: The same and those of the new genes, see `union_vocabulary`.
        coexpressions: Co-expression on slides with new genes. A gene that is new on several slides is derived from the first one
            that has coefficients; a gene without any has neutral rows.

    Returns:
        A network for the grown vocabulary, on the device of the given one.

    Raises:
        ValueError: The grown vocabulary does not start with the vocabulary.
    """
    num_known, num_genes = len(vocabulary), len(grown_vocabulary)
    if tuple(grown_vocabulary[:num_known]) != tuple(vocabulary):
        raise ValueError("a grown vocabulary starts with the genes that the network knows")
    like = next(network.parameters())
    with seeded_torch(0, "growth"):
        grown = Ensemble(num_genes, recipe).to(like.device, like.dtype)
    known, axes = network.state_dict(), gene_axes(recipe)
    for name, tensor in grown.state_dict().items():
        (tensor.narrow(axes[name], 0, num_known) if name in axes else tensor).copy_(known[name])
    # All other new rows have the values of an untrained network: a correction of zero, profiles without information.
    for module in grown.modules():
        if isinstance(module, (GeneInput, GeneOutput)):
            module.weight[num_known:] = 0
    for new_rows, chosen, source in _choose_sources(num_known, grown_vocabulary, coexpressions):
        for member in grown.members:
            _derive_input(member.genes, new_rows, chosen, source, num_known)
            _derive_outputs(member.head, new_rows, chosen, source)
        if grown.pooled:
            _derive_pooled(grown.pooled, new_rows, chosen, source)
    return grown.train(network.training)


@torch.no_grad()
def restrict(network: Ensemble, recipe: Recipe, genes: Tensor) -> Ensemble:
    """Keep the rows of some genes, in their order.

    Args:
        network: The network, which is not changed.
        recipe: Its recipe.
        genes: (P,) distinct vocabulary rows.

    Returns:
        A network for a vocabulary of these genes. It shares the weights that belong to no gene.
    """
    with torch.device("meta"):  # its tensors are replaced
        restricted = Ensemble(len(genes), recipe)
    axes = gene_axes(recipe)
    kept = {
        name: tensor.index_select(axes[name], genes.to(tensor.device)) if name in axes else tensor
        for name, tensor in network.state_dict().items()
    }
    restricted.load_state_dict(kept, assign=True)
    return restricted.train(network.training)


def _choose_sources(
    num_known: int, vocabulary: Sequence[str], coexpressions: Sequence[CoExpression]
) -> Iterator[tuple[Tensor, NDArray[np.int64], CoExpression]]:
    """For each slide, the vocabulary rows of the new genes that are derived from it, and their positions in it."""
    missing = {gene: num_known + number for number, gene in enumerate(vocabulary[num_known:])}
    # The sort is stable: of several slides that tell something, the first one counts.
    for source in sorted(coexpressions, key=lambda each: not each.is_informative):
        chosen = np.array([number for number, gene in enumerate(source.new) if gene in missing], dtype=np.int64)
        if len(chosen):
            rows = [missing.pop(source.new[number]) for number in chosen]
            yield torch.tensor(rows), chosen, source


def _derive_input(
    genes: GeneInput, rows: Tensor, chosen: NDArray[np.int64], source: CoExpression, num_known: int
) -> None:
    """Set the rows of new genes in a gene input to those of the known genes that they predict."""
    # New genes stand in for those genes of the model that the slide does not measure. The others are read already, and would
    # count twice.
    gain = 1 - len(source.known) / num_known
    predicted = source.inverse.transfer(_array(genes.weight[torch.from_numpy(source.known)]))
    genes.weight[rows] = gain * _like(genes.weight, predicted[chosen])


def _derive_outputs(
    head: PlainHead | ResidualHead, rows: Tensor, chosen: NDArray[np.int64], source: CoExpression
) -> None:
    """Set the rows of new genes in the output maps of a head.

    A network says how much a known gene differs from its expectation, in the units of each map: expression, logits, and
    logarithms of fractions of the counts. The slopes of these units at the expectation turn coefficients of expression into
    coefficients of them.

    Args:
        head: The head.
        rows: Vocabulary rows of the new genes.
        chosen: Positions of these genes in the co-expression.
        source: The co-expression.
    """
    fractions = [np.clip(part, MIN_FRACTION, 1 - MIN_FRACTION) for part in (source.known_fraction, source.new_fraction)]
    slopes = [part * (1 - part) for part in fractions]  # of a probability as a function of its logit
    magnitude = _Rule(source, rows, chosen, source.expression)
    logit = _Rule(source, rows, chosen, source.expressed, slopes[0], 1 / slopes[1])
    if isinstance(head, PlainHead):
        # The maps of the paper predict the values themselves, and not a correction.
        magnitude.set_rows(head.magnitude, source.known_mean, source.new_mean)
        logit.set_rows(head.logit, *(np.log(part / (1 - part)) for part in fractions))
    elif source.is_informative:
        # The trained corrections of the blend make room for those of the network, and are alike in all genes.
        for weights in (head.smoother.mean_weights, head.smoother.expressed_weights):
            weights[:, rows] = weights[:, torch.from_numpy(source.known)].mean(dim=1, keepdim=True)
        magnitude.set_rows(head.magnitude)
        logit.set_rows(head.logit)
        floor = MIN_FRACTION * max(float(source.known_mean.mean()), MIN_FRACTION)
        gains = COMPOSITION_GAIN / np.maximum(source.new_mean, floor)
        _Rule(source, rows, chosen, source.expression, source.known_mean, gains).set_rows(head.composition)


class _Rule(NamedTuple):
    """How the values of new genes follow from those of known ones."""

    source: CoExpression  # the known genes
    rows: Tensor  # vocabulary rows of the new genes
    chosen: NDArray[np.int64]  # positions of these genes in the co-expression
    coefficients: Coefficients  # (K, N)
    known_factors: Numbers | float = 1.0  # (K,) factors of the known genes, beside the coefficients
    new_factors: Numbers | float = 1.0  # (N,) factors of the new genes

    def set_rows(self, output: GeneOutput, expectation: Numbers | float = 0.0, new: Numbers | float = 0.0) -> None:
        """Set the rows of the new genes in an output map.

        Args:
            output: The map.
            expectation: (K,) values that those of the known genes are compared with.
            new: (N,) values of the new genes where the known genes have these.
        """
        known = torch.from_numpy(self.source.known)
        output.weight[self.rows] = self._derive(output.weight, _array(output.weight[known]))
        differences = _array(output.bias[known]) - expectation
        biases = self._derive(output.bias, differences[:, None])[:, 0]
        output.bias[self.rows] = biases + _like(output.bias, np.broadcast_to(new, len(self.source.new))[self.chosen])

    def _derive(self, like: Tensor, values: Numbers) -> Tensor:
        """From (K, D) values of the known genes to those of the chosen ones."""
        scaled = values * np.broadcast_to(self.known_factors, len(values))[:, None]
        derived = self.coefficients.apply(scaled)
        return _like(like, (derived * np.broadcast_to(self.new_factors, len(derived))[:, None])[self.chosen])


def _derive_pooled(pooled: PooledParameters, rows: Tensor, chosen: NDArray[np.int64], source: CoExpression) -> None:
    """Set new genes in the pooled parameters, which are used on slides that the network is not adapted to.

    Profiles are those of the slide, the blend is the mean of those of the known genes, and profiles of states differ as far as
    those of the known genes do.
    """
    if not len(source.known) or not source.num_cells:
        return
    known, buffers = torch.from_numpy(source.known), dict(pooled.named_buffers())
    mean, composition, profiles = (buffers[name] for name in ("mean", "composition", "state_profiles"))
    mean[rows] = _like(mean, source.new_mean[chosen])
    buffers["expressed"][rows] = _like(mean, source.new_fraction[chosen])
    # One cell more that expresses each gene as the mean gene, so that no gene is impossible.
    added = max(float(source.known_share.mean()), MIN_FRACTION) / source.num_cells
    ratio = (source.new_share[chosen] + added) / (source.known_share + added).sum()
    composition[rows] = composition[known].sum() * _like(composition, ratio)
    for name in ("mean_weights", "expressed_weights"):
        buffers[name][:, rows] = buffers[name][:, known].mean(dim=1, keepdim=True)
    differences = source.expression.apply(_array((profiles[:, known] - mean[known]).T))
    profiles[:, rows] = mean[rows] + _like(profiles, differences[chosen].T)


def _array(tensor: Tensor) -> Numbers:
    """A tensor as an array in double precision."""
    return tensor.numpy(force=True).astype(np.float64)


def _like(tensor: Tensor, values: Numbers) -> Tensor:
    """An array as a tensor of the type and device of another."""
    return torch.from_numpy(np.array(values)).to(tensor.device, tensor.dtype)
