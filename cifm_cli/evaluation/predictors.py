"""Models and baselines as the judge sees them: something that infers the hidden cells of a round.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.baselines import Context, Estimate, train_profile
from cifm_cli.evaluation.metrics import Truth
from cifm_cli.inference.predict import predict_cells
from cifm_cli.model.masking import reach_um
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.baselines import Baseline, Profile, Settings
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.engine import Engine


@dataclass(frozen=True)
class Bench:
    """What all predictors of a slide share.

    Args:
        slide: As it was prepared.
        columns: (P,) columns of the slide that are scored: the genes that every model knows.
        target_sum: Of the normalisation.
        radius_um: Radius of the graph of the first model.
        reach_um: Its full receptive field.
        seed: The user's seed.
    """

    slide: Slide
    columns: Rows
    target_sum: float
    radius_um: float
    reach_um: float
    seed: int

    @cached_property
    def training(self) -> Profile:
        """What the slide's training region tells of each gene."""
        return train_profile(self.slide, self.slide.region(keys.TRAIN), self.columns, self.target_sum)

    @property
    def symbols(self) -> tuple[str, ...]:
        """P gene symbols."""
        return tuple(self.slide.symbols[column] for column in self.columns)

    def context(self, part: Round) -> Context:
        """What baselines may use in a round; void cells tell nothing and are left out."""
        rows = part.visible[self.slide.total_counts[part.visible] > 0]
        expression = self.slide.expression(rows, self.target_sum)[:, self.columns]
        training = self._training_without(part.hidden)
        return Context(self.slide.xy_um[rows], expression, training, self.radius_um, self.reach_um)

    def _training_without(self, hidden: Rows) -> Profile:
        """The training profile; without the hidden cells where training cells themselves are scored."""
        cells = self.slide.region(keys.TRAIN)
        others = np.setdiff1d(cells, hidden)
        if not 0 < len(others) < len(cells):
            return self.training
        return train_profile(self.slide, others, self.columns, self.target_sum)

    def truth(self, rows: Rows) -> Truth:
        """What was hidden in some cells."""
        values = self.slide.expression(rows, self.target_sum)[:, self.columns].toarray()
        return Truth(self.slide.counts(rows)[:, self.columns], values, self.training, self.target_sum)


def set_up_bench(slide: Slide, engines: Sequence[Engine], seed: int) -> Bench:
    """Find what the models and the slide have in common.

    Args:
        slide: Any slide.
        engines: Models, the first one setting radius and reach.
        seed: The user's seed.

    Returns:
        The bench.

    Raises:
        CifmError: The models normalise differently, share no gene, or the slide has no training cells.
    """
    recipes = [engine.checkpoint.recipe for engine in engines]
    if len({recipe.data.target_sum for recipe in recipes}) > 1:
        raise CifmError("the models were trained with different data.target_sum", "evaluate them one by one")
    columns = engines[0].panel(slide).columns
    for engine in engines[1:]:
        columns = np.intersect1d(columns, engine.panel(slide).columns)
    if not len(columns):
        raise CifmError(f"slide {slide.name}: the models share none of its genes", "evaluate them one by one")
    if not len(slide.region(keys.TRAIN)):
        raise CifmError(
            f"slide {slide.name}: no cells in its train region, from which the baselines learn",
            "prepare a larger piece of the tissue",
        )
    slide = engines[0].fit_slide(slide)
    radius_um = slide.radius_um
    return Bench(slide, columns, recipes[0].data.target_sum, radius_um, reach_um(recipes[0], radius_um), seed)


class Predictor(Protocol):
    """Something that infers hidden cells."""

    @property
    def name(self) -> str:
        """Its key in the results."""
        ...

    def candidates(self) -> Sequence[Settings]:
        """Hyper-parameters to choose among on the validation region."""
        ...

    def infer(self, bench: Bench, part: Round, settings: Settings) -> Estimate:
        """Infer the hidden cells of a round from its visible ones.

        Args:
            bench: The slide and what is scored.
            part: Which cells are hidden.
            settings: One of the candidates.

        Returns:
            (Q, P) in the order of `part.hidden`.
        """
        ...


@dataclass(frozen=True)
class BaselinePredictor:
    """A baseline; all it is given of the hidden cells is where they are."""

    baseline: Baseline

    @property
    def name(self) -> str:
        """The baseline's."""
        return self.baseline.name

    def candidates(self) -> Sequence[Settings]:
        """The baseline's."""
        return self.baseline.candidates()

    def infer(self, bench: Bench, part: Round, settings: Settings) -> Estimate:
        """See `Predictor`."""
        generator = numpy_generator(bench.seed, "baseline", self.name, part.number)
        return self.baseline.predict(bench.context(part), bench.slide.xy_um[part.hidden], settings, generator)


@dataclass(frozen=True)
class ModelPredictor:
    """A trained model, at its own radius.

    Args:
        name: `model`, or `model:<run>` for those after the first.
        engine: The model.
    """

    name: str
    engine: Engine

    def candidates(self) -> Sequence[Settings]:
        """Nothing to choose but the gate."""
        return [{}]

    def infer(self, bench: Bench, part: Round, _settings: Settings) -> Estimate:
        """See `Predictor`."""
        slide = bench.slide.with_radius(self.engine.checkpoint.recipe.data.radius_um)
        found = predict_cells(self.engine, slide, part.visible, part.hidden)
        position = np.searchsorted(found.panel.columns, bench.columns)
        return Estimate(found.mean[:, position], found.expressed[:, position])


def infer_rounds(
    predictor: Predictor,
    bench: Bench,
    rounds: Sequence[Round],
    settings: Settings,
    advance: Callable[[], None] | None = None,
) -> Estimate:
    """Infer every hidden cell of several rounds.

    Args:
        predictor: Who infers.
        bench: The slide and what is scored.
        rounds: Rounds that hide different cells.
        settings: Of the predictor.
        advance: Called after each round.

    Returns:
        (Q, P) in the order of `hidden_rows`.
    """
    rows = hidden_rows(rounds)
    mean = np.empty((len(rows), len(bench.columns)), dtype=np.float32)
    share = np.empty_like(mean)
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        found = predictor.infer(bench, part, settings)
        mean[position], share[position] = found.mean, found.share
        if advance:
            advance()
    return Estimate(mean, share)


def hidden_rows(rounds: Sequence[Round]) -> Rows:
    """All rows that some rounds hide, ascending."""
    return np.sort(np.concatenate([part.hidden for part in rounds]))
