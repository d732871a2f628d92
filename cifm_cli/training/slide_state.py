"""The parameters of the slides of a run as named tensors, for training states and for other processes.

Slide number n is `<n>.<parameter>`, and the sums that its profiles are means of are `<n>.totals.<sum>`. They are stored,
not fitted again: a resumed run must not depend on the rounding of another machine.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from cifm_cli.model.gene_profiles import GeneTotals
from cifm_cli.model.slide_parameters import SlideParameters, parameters_problem
from cifm_cli.model.stored_layout import tensor_layout
from cifm_cli.tensor_files import Layout, layout_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cifm_cli.training.corpus import Corpus, TrainingSlide

_TOTALS = "totals."


def slide_tensors(corpus: Corpus) -> dict[str, Tensor]:
    """The parameters of all slides; none for an objective without."""
    tensors: dict[str, Tensor] = {}
    for number, each in enumerate(corpus.fitted_slides):
        if each.parameters and each.totals:
            named = each.parameters.tensors() | {f"{_TOTALS}{name}": t for name, t in each.totals.tensors().items()}
            tensors |= {f"{number}.{name}": tensor for name, tensor in named.items()}
    return tensors


def restore_slides(corpus: Corpus, tensors: Mapping[str, Tensor]) -> None:
    """Give the slides of a run their parameters.

    Args:
        corpus: The slides.
        tensors: From `slide_tensors`.

    Raises:
        ValueError: They are the parameters of other slides.
    """
    if corpus.recipe.objective.name != "residual" and not tensors:
        return
    expected: dict[str, Layout] = {}
    for number, each in enumerate(corpus.fitted_slides):
        expected |= _layout(corpus, each, number, tensors)
    if problem := layout_problem({name: tensor_layout(tensor) for name, tensor in tensors.items()}, expected):
        raise ValueError(problem)
    for number in range(len(corpus.fitted_slides)):
        if problem := parameters_problem(tensors, f"{number}."):
            raise ValueError(problem)
    for number, each in enumerate(corpus.fitted_slides):
        named = {field.name: tensors[f"{number}.{field.name}"] for field in fields(SlideParameters)}
        totals = {field.name: tensors[f"{number}.{_TOTALS}{field.name}"] for field in fields(GeneTotals)}
        each.parameters, each.totals = SlideParameters(**named), GeneTotals(**totals)


def _layout(corpus: Corpus, each: TrainingSlide, number: int, stored: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Types and shapes of the tensors of a slide; the number of its states is the one in the file, if that is possible."""
    objective = corpus.recipe.objective
    num_terms, num_genes = len(objective.scales) + 1, each.panel.num_genes
    frequency = stored.get(f"{number}.state_frequency")
    num_states = frequency.numel() if frequency is not None and 0 < frequency.numel() <= objective.states else 1
    shapes = {
        "mean": (num_genes,),
        "expressed": (num_genes,),
        "composition": (num_genes,),
        "mean_weights": (num_terms, num_genes),
        "expressed_weights": (num_terms, num_genes),
        "composition_weights": (num_terms,),
        "state_weights": (num_terms,),
        "state_profiles": (num_states, num_genes),
        "state_frequency": (num_states,),
    }
    totals = {f"{_TOTALS}{field.name}": Layout("F64", (num_genes,)) for field in fields(GeneTotals)}
    parameters = {name: Layout("F32", shape) for name, shape in shapes.items()}
    return {f"{number}.{name}": layout for name, layout in (parameters | totals).items()}
