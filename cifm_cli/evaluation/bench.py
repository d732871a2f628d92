"""A slide before the judge: which of its genes are scored, and what baselines may know of it in a round.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.context import Context, Example, Practice, train_profile
from cifm_cli.evaluation.piece import hide_around, margin_um, too_large
from cifm_cli.evaluation.protocols import hide, practised
from cifm_cli.evaluation.subsets import choose_subsets
from cifm_cli.evaluation.truth import Truth
from cifm_cli.model.masking import reach_um
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.context import Profile
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.engine import Engine

_MOST_KEPT = 10_000_000  # expressed genes of visible cells that are kept from round to round: 160 MB
_MOST_ALONE = 2  # contexts kept whose practice serves no other round
_PRACTICE_CELLS = 15_000  # training cells that baselines learn from
_PRACTICE_VALUES = 20_000_000  # the same times genes
_PRACTICE_SEEN = 30_000_000  # counts of the training region: with more, it is practised on pieces of it
_PRACTICE_PIECES = 5


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
        sight_um: Full receptive field of the model that looks furthest.
    """

    slide: Slide
    columns: Rows
    target_sum: float
    radius_um: float
    reach_um: float
    seed: int
    sight_um: float = 0.0
    _contexts: dict[Round, Context] = field(default_factory=dict, init=False, repr=False, compare=False)
    _practices: dict[str, Practice] = field(default_factory=dict, init=False, repr=False, compare=False)
    _slides: dict[float, Slide] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    def margin_um(self, geometry: str) -> float:
        """How far around a piece of tissue cells matter to anybody."""
        return margin_um(geometry, self.radius_um, max(self.reach_um, self.sight_um))

    def slide_at(self, radius_um: float | None) -> Slide:
        """The slide at a model's own radius; what is to be said of that is said once."""
        if radius_um is None:
            return self.slide
        if radius_um not in self._slides:
            self._slides[radius_um] = self.slide.with_radius(radius_um)
        return self._slides[radius_um]

    def context(self, part: Round) -> Context:
        """What baselines may use in a round; void cells tell nothing and are left out."""
        if part not in self._contexts:
            if self._keeps_too_much():
                self._contexts.clear()
            training = self._training_without(part.hidden)
            context = self._look(part, training)
            self._contexts[part] = replace(context, practice=self._practice(part, training))
        return self._contexts[part]

    def forget(self) -> None:
        """Let go of what the predictors of one geometry shared; whoever asks again gets the same."""
        self._contexts.clear()
        self._practices.clear()

    def _keeps_too_much(self) -> bool:
        """Contexts serve every predictor, but memory is finite."""
        known = self._contexts.values()
        num_alone = sum(context.practice not in self._practices.values() for context in known)
        return num_alone > _MOST_ALONE or sum(context.expression.nnz for context in known) > _MOST_KEPT

    def _look(self, part: Round, training: Profile) -> Context:
        rows = part.visible[self.slide.total_counts[part.visible] > 0]
        counts = self.slide.counts(rows)[:, self.columns]
        expression = log_normalise(counts, self.slide.total_counts[rows], self.target_sum)  # shares their indices
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
        for rounds, share in self._practice_rounds(practised(geometry), rows, most):
            left = share
            for part in rounds:
                if left <= 0:
                    break
                chosen = np.sort(numpy_generator(self.seed, "practice", part.number).permutation(part.hidden)[:left])
                left -= len(chosen)
                expression = self.slide.expression(chosen, self.target_sum)[:, self.columns]
                counts = self.slide.counts(chosen)[:, self.columns]
                yield Example(self._look(part, training), self.slide.xy_um[chosen], expression, counts)

    def _practice_rounds(self, geometry: str, rows: Rows, most: int) -> Iterator[tuple[list[Round], int]]:
        """Rounds of training cells, and how many to learn from; of a large region, those of pieces all over it."""
        if not len(rows):  # the training region is what is hidden altogether
            return
        size = most // _PRACTICE_PIECES
        if size == 0 or len(rows) <= _PRACTICE_PIECES * most or not too_large(self.slide, rows, _PRACTICE_SEEN):
            yield hide(geometry, self.slide.xy_um, rows, self.radius_um, self.seed), most
            return
        for stretch in np.array_split(rows, _PRACTICE_PIECES):
            first = (len(stretch) - most) // 2
            core = stretch[first : first + most]
            yield hide_around(self.slide, geometry, core, rows, self.margin_um(geometry), self.seed), size

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
    reaches_um = [reach_um(recipe, recipe.data.radius_um or slide.radius_um) for recipe in recipes]
    return Bench(
        slide, columns, recipes[0].data.target_sum, slide.radius_um, reaches_um[0], seed, sight_um=max(reaches_um)
    )
