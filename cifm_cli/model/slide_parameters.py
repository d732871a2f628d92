"""What the head knows of one slide as a whole: gene profiles, blends of the smoother, and cell states.

Letters: P genes of the slide's panel, T terms of the smoother, K cell states of the slide. K may differ from slide to
slide. The parameters that are pooled over the training slides have the G genes of the vocabulary in place of P.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cifm_cli.model.gene_profiles import GeneProfiles
    from cifm_cli.recipe_sections import ObjectiveRecipe

POOLED = "pooled."  # prefix of the tensors of `PooledParameters` in files


@dataclass(frozen=True)
class SlideParameters:
    """Parameters of one slide. They are fitted to its cells in closed form, not trained by gradients."""

    mean: Tensor  # (P,) mean log-normalised expression of the cells
    expressed: Tensor  # (P,) fraction of the cells that express the gene
    composition: Tensor  # (P,) fraction of all counts, positive; the sum is 1
    mean_weights: Tensor  # (T, P) weights of the terms in the mean
    expressed_weights: Tensor  # (T, P) weights of the terms in P(expressed)
    composition_weights: Tensor  # (T,) weights of the terms in compositions, before the softmax
    state_weights: Tensor  # (T,) weights of the terms in state probabilities, before the softmax
    state_profiles: Tensor  # (K, P) mean expression of each cell state
    state_frequency: Tensor  # (K,) fraction of the cells in each state, positive; the sum is 1

    @property
    def num_genes(self) -> int:
        """P."""
        return len(self.mean)

    @property
    def num_states(self) -> int:
        """K."""
        return len(self.state_frequency)

    def to(self, where: torch.device | torch.dtype) -> SlideParameters:
        """Copy to a device, or convert to a precision."""
        return SlideParameters(**{name: tensor.to(where) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def take_genes(self, genes: Tensor) -> SlideParameters:
        """Select genes.

        Args:
            genes: (p,) positions of the genes to keep.

        Returns:
            The parameters of these genes; their composition sums to 1 again.
        """
        composition = self.composition[genes]
        return replace(
            self,
            mean=self.mean[genes],
            expressed=self.expressed[genes],
            composition=composition / composition.sum(),
            mean_weights=self.mean_weights[:, genes],
            expressed_weights=self.expressed_weights[:, genes],
            state_profiles=self.state_profiles[:, genes],
        )

    def first_states(self, number: int) -> SlideParameters:
        """Leave out the states after the first ones."""
        frequency = self.state_frequency[:number]
        return replace(self, state_profiles=self.state_profiles[:number], state_frequency=frequency / frequency.sum())

    def with_profiles(self, profiles: GeneProfiles) -> SlideParameters:
        """Replace the gene profiles, such as by those of other cells of the slide."""
        return replace(self, mean=profiles.mean, expressed=profiles.expressed, composition=profiles.composition)

    def with_weights(self, other: SlideParameters) -> SlideParameters:
        """Replace the weights of the terms by those of other parameters for the same genes."""
        return replace(
            self,
            mean_weights=other.mean_weights,
            expressed_weights=other.expressed_weights,
            composition_weights=other.composition_weights,
            state_weights=other.state_weights,
        )


def start_parameters(
    profiles: GeneProfiles, state_profiles: Tensor, state_frequency: Tensor, num_terms: int
) -> SlideParameters:
    """Parameters with equal weights of all terms, from which `fit_slide_parameters` starts.

    Args:
        profiles: Profiles of P genes.
        state_profiles: (K, P) mean expression of each state.
        state_frequency: (K,) fraction of the cells in each state.
        num_terms: T.

    Returns:
        The parameters.
    """
    equal = torch.full((num_terms, len(profiles.mean)), 1 / num_terms)
    return SlideParameters(
        mean=profiles.mean,
        expressed=profiles.expressed,
        composition=profiles.composition,
        mean_weights=equal,
        expressed_weights=equal,
        composition_weights=torch.zeros(num_terms),
        state_weights=torch.zeros(num_terms),
        state_profiles=state_profiles,
        state_frequency=state_frequency,
    )


class PooledParameters(nn.Module):
    """Parameters pooled over the training slides, as buffers of a network; for slides that it is not adapted to.

    Args:
        num_genes: G.
        recipe: Number of terms, and largest number of states.
    """

    def __init__(self, num_genes: int, recipe: ObjectiveRecipe) -> None:
        super().__init__()
        num_terms, num_states = len(recipe.scales) + 1, recipe.states
        self.register_buffer("mean", torch.zeros(num_genes))
        self.register_buffer("expressed", torch.zeros(num_genes))
        self.register_buffer("composition", torch.full((num_genes,), 1 / num_genes))
        self.register_buffer("mean_weights", torch.full((num_terms, num_genes), 1 / num_terms))
        self.register_buffer("expressed_weights", torch.full((num_terms, num_genes), 1 / num_terms))
        self.register_buffer("composition_weights", torch.zeros(num_terms))
        self.register_buffer("state_weights", torch.zeros(num_terms))
        self.register_buffer("state_profiles", torch.zeros(num_states, num_genes))
        # A frequency of zero marks a row without a state: small tissues have fewer states than the recipe allows.
        self.register_buffer("state_frequency", torch.full((num_states,), 1 / num_states))

    @torch.no_grad()
    def fill(self, parameters: SlideParameters, genes: Tensor) -> None:
        """Store parameters. Genes that they do not cover keep their profiles and weights.

        Args:
            parameters: Parameters for P genes, with at most as many states as the recipe allows.
            genes: (P,) vocabulary rows of these genes.
        """
        stored = SlideParameters(**dict(self.named_buffers()))
        stored.mean[genes] = parameters.mean.to(stored.mean)
        stored.expressed[genes] = parameters.expressed.to(stored.mean)
        # The covered genes keep their total, so that the composition of all genes still sums to 1.
        total = stored.composition[genes].sum()
        stored.composition[genes] = parameters.composition.to(stored.mean) * total
        stored.mean_weights[:, genes] = parameters.mean_weights.to(stored.mean)
        stored.expressed_weights[:, genes] = parameters.expressed_weights.to(stored.mean)
        stored.composition_weights.copy_(parameters.composition_weights)
        stored.state_weights.copy_(parameters.state_weights)
        # Of a gene that is not covered, the states are not known to differ.
        stored.state_profiles[:] = stored.mean
        stored.state_profiles[: parameters.num_states, genes] = parameters.state_profiles.to(stored.mean)
        stored.state_frequency.zero_()
        stored.state_frequency[: parameters.num_states] = parameters.state_frequency

    @property
    def num_genes(self) -> int:
        """G."""
        return len(self.get_buffer("mean"))

    @property
    def max_states(self) -> int:
        """Largest number of states that can be stored."""
        return len(self.get_buffer("state_frequency"))

    def parameters_of(self, genes: Tensor) -> SlideParameters:
        """The parameters for a panel.

        Args:
            genes: (P,) vocabulary rows of the panel.

        Returns:
            The parameters, without unused states.
        """
        stored = SlideParameters(**dict(self.named_buffers()))
        used = stored.state_frequency > 0
        stored = replace(
            stored, state_profiles=stored.state_profiles[used], state_frequency=stored.state_frequency[used]
        )
        return stored.take_genes(genes.to(stored.mean.device))


def parameters_problem(tensors: Mapping[str, Tensor], prefix: str) -> str | None:
    """Describe parameters in a file that no fit gives; None without any.

    Args:
        tensors: Tensors of the file by name.
        prefix: Prefix of the parameters among them.
    """
    # Logarithms are taken of both; among pooled parameters, a frequency of zero marks an unused state.
    composition, frequency = tensors.get(f"{prefix}composition"), tensors.get(f"{prefix}state_frequency")
    if composition is not None and bool((composition <= 0).any()):
        return f"tensor {prefix}composition has a value that is not positive"
    if frequency is not None and bool((frequency < 0).any() or not frequency.any()):
        return f"tensor {prefix}state_frequency has a negative value, or no positive one"
    return None
