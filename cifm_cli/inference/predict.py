"""Infer the expression of cells, or of free places, from the visible cells around them.

Letters: Q queries, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.model.masking import mask_tile, reach_um
from cifm_cli.model.precision import computing_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.output import Output
    from cifm_cli.model.vocabulary import Panel


@dataclass(frozen=True)
class Prediction:
    """What the model infers.

    Args:
        panel: Which genes; `panel.columns` are columns of the slide.
        mean: (Q, P) float32 log-normalised expression, not negative.
        expressed: (Q, P) float32 P(expressed).
        composition: (Q, P) float32 expected share of a cell's counts in each gene, from models that infer one.
        states: (Q, K) float32 probability of each of the model's cell states, from models that infer them.
    """

    panel: Panel
    mean: NDArray[np.float32]
    expressed: NDArray[np.float32]
    composition: NDArray[np.float32] | None = None
    states: NDArray[np.float32] | None = None

    def gated(self, threshold: float) -> NDArray[np.float32]:
        """The mean, zero where P(expressed) is at most `threshold`."""
        return np.where(self.expressed > threshold, self.mean, np.float32(0))

    def median(self, target_sum: float) -> NDArray[np.float32]:
        """The median of the distribution that mean and P(expressed) tell: zero, or with P(expressed) at one level.

        Up to P(expressed) = 1/2 the median is zero whatever the levels are. Above, it is the level of the cells that
        express the gene, mean / P(expressed). How far levels scatter around it no head says: just above 1/2 the true
        median is lower, as few of the expressing cells lie below it.

        Args:
            target_sum: What expression is normalised to; no level is above that of a cell with no other gene.

        Returns:
            (Q, P), not negative.
        """
        level = np.minimum(self.mean / np.maximum(self.expressed, np.float32(0.5)), np.float32(np.log1p(target_sum)))
        return np.where(self.expressed > 0.5, level, np.float32(0))


def estimator(engine: LoadedModel, form: str, threshold: float) -> Callable[[Prediction], NDArray[np.float32]]:
    """Choose a point estimate.

    Args:
        engine: The model.
        form: `mean`, `median` or `gated`.
        threshold: P(expressed) up to which `gated` says zero.

    Returns:
        From a prediction to its (Q, P) values.

    Raises:
        CifmError: The median is asked of a model that infers no mean.
    """
    recipe = engine.checkpoint.recipe
    if form == "median":
        if recipe.objective.name == "balanced_mse":  # Eq. 15 weighs each zero less, the more there are
            raise CifmError(
                "--form median: the model was trained with the objective balanced_mse, under which its magnitude is no "
                "mean, and a median does not follow from it",
                "ask for --form gated, or use a model with the objective residual",
            )
        return lambda found: found.median(recipe.data.target_sum)
    return (lambda found: found.gated(threshold)) if form == "gated" else (lambda found: found.mean)


def join(parts: Sequence[Prediction], order: Rows) -> Prediction:
    """Put predictions one after the other.

    Args:
        parts: Of the same model and panel, at least one.
        order: (Q,) where each cell of the result stands in all parts together.

    Returns:
        The prediction of all their cells.
    """

    def all_of(name: str) -> NDArray[np.float32] | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)[order]

    mean = np.concatenate([part.mean for part in parts])[order]
    expressed = np.concatenate([part.expressed for part in parts])[order]
    return Prediction(parts[0].panel, mean, expressed, all_of("composition"), all_of("states"))


def predict_cells(
    engine: LoadedModel, slide: Slide, visible: Rows, queries: Rows, advance: Callable[[float], None] | None = None
) -> Prediction:
    """Infer cells of a slide whose own counts are hidden.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`LoadedModel.fit_slide`).
        visible: Ascending rows the model may look at; queries among them are hidden nevertheless.
        queries: (Q,) rows to infer.
        advance: Called with the number of queries done.

    Returns:
        The prediction, in the order of `queries`.

    Raises:
        CifmError: Slide and model share no gene.
    """
    panel = engine.panel(slide)
    recipe = engine.checkpoint.recipe
    part, hidden = np.union1d(visible, queries), np.unique(queries)
    tiler = Tiler(slide.xy_um, part, reach_um(recipe, slide.radius_um))
    is_hidden = np.zeros(slide.num_cells, dtype=bool)
    is_hidden[hidden] = True

    def hide(core: Rows) -> tuple[Rows, MaskedTile]:
        tile = tiler.tile(core)
        return core, mask_tile(slide, tile, np.flatnonzero(is_hidden[tile.rows]), panel, recipe)

    answers: dict[str, NDArray[np.float32]] = {}
    cores = (stretch[is_hidden[stretch]] for stretch in chunks(part, recipe.data.tile_cells))
    for core, ready in prefetch(hide, filter(len, cores)):
        output = run_network(engine, ready)
        position = np.searchsorted(hidden, core)
        for name, values in answer(output).items():
            answers.setdefault(name, np.zeros((len(hidden), values.shape[1]), dtype=np.float32))[position] = values
        if advance:
            advance(len(core))
    asked = np.searchsorted(hidden, queries)
    if not answers:
        nothing = np.zeros((0, panel.num_genes), dtype=np.float32)
        return Prediction(panel, nothing, nothing)
    return Prediction(panel, **{name: values[asked] for name, values in answers.items()})


def answer(output: Output) -> dict[str, NDArray[np.float32]]:
    """What a head says, in the terms of a `Prediction`.

    Args:
        output: Of M cells.

    Returns:
        Field to its values.
    """
    found = {"mean": output.magnitude.clamp(min=0), "expressed": output.logit.sigmoid()}
    if output.composition is not None and output.state is not None:
        found |= {"composition": output.composition.softmax(1), "states": output.state.softmax(1)}
    return {name: values.float().cpu().numpy() for name, values in found.items()}


@torch.inference_mode()
def run_network(engine: LoadedModel, tile: MaskedTile) -> Output:
    """Infer the masked cells of the core of a tile.

    Args:
        engine: The model.
        tile: What it may look at.

    Returns:
        What the head says of M cells.
    """
    with computing_in(engine.precision, engine.device):
        output: Output = engine.checkpoint.network(engine.backend, tile.to(engine.device))
    return output


def add_places(slide: Slide, places_um: NDArray[np.float64]) -> tuple[Slide, Rows]:
    """Append free places to a slide, to be inferred as if a masked cell stood there.

    Args:
        slide: Any slide.
        places_um: (Q, 2) micrometres.

    Returns:
        The larger slide, and the rows of the places. They have no counts: only ask for them as queries.
    """
    rows = np.arange(slide.num_cells, slide.num_cells + len(places_um))
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, places_um]),
        total_counts=np.concatenate([slide.total_counts, np.zeros(len(places_um))]),
        split=np.concatenate([slide.split, np.zeros(len(places_um), dtype=np.int8)]),
    )
    return larger, rows
