"""Models and baselines as the judge sees them: something that infers the hidden cells of a round.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.context import Context, Estimate, Example, Practice, train_profile
from cifm_cli.evaluation.protocols import practice_rounds
from cifm_cli.evaluation.subsets import choose_subsets
from cifm_cli.evaluation.truth import Truth
from cifm_cli.inference.predict import predict_cells
from cifm_cli.model.masking import reach_um
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.baselines import Baseline
    from cifm_cli.evaluation.context import Profile, Settings
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.engine import Engine

_MOST_KEPT = 20_000_000  # expressed genes of visible cells that are kept from round to round
_MOST_ALONE = 2  # contexts kept whose practice serves no other round
_PRACTICE_CELLS = 15_000  # training cells that baselines learn from
_PRACTICE_VALUES = 20_000_000  # the same times genes


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
    _contexts: dict[Round, Context] = field(default_factory=dict, init=False, repr=False, compare=False)
    _practices: dict[str, Practice] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def training(self) -> Profile:
        """What the slide's training region tells of each gene."""
        return train_profile(self.slide, self.slide.region(keys.TRAIN), self.columns, self.target_sum)

    @cached_property
    def subsets(self) -> dict[str, NDArray[np.int64]]:
        """Genes that are looked at apart, chosen by the training cells."""
        return choose_subsets(self.slide, self.columns, self.target_sum, self.seed)

    @property
    def symbols(self) -> tuple[str, ...]:
        """P gene symbols."""
        return tuple(self.slide.symbols[column] for column in self.columns)

    def context(self, part: Round) -> Context:
        """What baselines may use in a round; void cells tell nothing and are left out."""
        if part not in self._contexts:
            if self._keeps_too_much():
                self._contexts.clear()
            training = self._training_without(part.hidden)
            context = self._look(part, training)
            self._contexts[part] = replace(context, practice=self._practice(part, training))
        return self._contexts[part]

    def _keeps_too_much(self) -> bool:
        """Contexts serve every predictor, but memory is finite."""
        known = self._contexts.values()
        num_alone = sum(context.practice not in self._practices.values() for context in known)
        return num_alone > _MOST_ALONE or sum(context.expression.nnz for context in known) > _MOST_KEPT

    def _look(self, part: Round, training: Profile) -> Context:
        rows = part.visible[self.slide.total_counts[part.visible] > 0]
        expression = self.slide.expression(rows, self.target_sum)[:, self.columns]
        counts = self.slide.counts(rows)[:, self.columns]
        return Context(self.slide.xy_um[rows], expression, counts, training, self.radius_um, self.reach_um)

    def _practice(self, part: Round, training: Profile) -> Practice:
        """Examples among the training cells, without those that are inferred."""
        cells = self.slide.region(keys.TRAIN)
        others = np.setdiff1d(cells, part.hidden, assume_unique=True)
        alone = len(others) < len(cells)
        num_cells = _PRACTICE_CELLS // 3 if alone else _PRACTICE_CELLS  # for one round's sake only
        practice = Practice(lambda: self._examples(part.geometry, others, training, num_cells))
        return practice if alone else self._practices.setdefault(part.geometry, practice)

    def _examples(self, geometry: str, rows: Rows, training: Profile, num_cells: int) -> Iterator[Example]:
        most = min(num_cells, max(1, _PRACTICE_VALUES // len(self.columns)))
        for part in practice_rounds(geometry, self.slide.xy_um, rows, self.radius_um, self.seed):
            if most <= 0:
                break
            chosen = np.sort(numpy_generator(self.seed, "practice", part.number).permutation(part.hidden)[:most])
            most -= len(chosen)
            expression = self.slide.expression(chosen, self.target_sum)[:, self.columns]
            counts = self.slide.counts(chosen)[:, self.columns]
            yield Example(self._look(part, training), self.slide.xy_um[chosen], expression, counts)

    def _training_without(self, hidden: Rows) -> Profile:
        """The training profile; without the hidden cells where training cells themselves are scored."""
        cells = self.slide.region(keys.TRAIN)
        others = np.setdiff1d(cells, hidden, assume_unique=True)
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
        composition = None if found.composition is None else found.composition[:, position]
        return Estimate(found.mean[:, position], found.expressed[:, position], composition, found.states)


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
    whole: dict[str, NDArray[np.float32]] = {}
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        for name, values in vars(predictor.infer(bench, part, settings)).items():
            if values is not None:
                whole.setdefault(name, np.empty((len(rows), values.shape[1]), dtype=np.float32))[position] = values
        if advance:
            advance()
    return Estimate(**whole)


def hidden_rows(rounds: Sequence[Round]) -> Rows:
    """All rows that some rounds hide, ascending."""
    return np.sort(np.concatenate([part.hidden for part in rounds]))
