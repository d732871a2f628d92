"""A slide before the judge: which of its genes are scored, and what baselines may know of it in a round.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise, radius_notes
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.context import Context, Example, Practice, Profile, train_profile
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
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.loaded_model import LoadedModel

_MOST_KEPT = 10_000_000  # expressed genes of visible cells that are kept from round to round: 160 MB
_MOST_ALONE = 2  # contexts kept whose practice serves no other round
_PRACTICE_CELLS = 15_000  # training cells that baselines learn from
_PRACTICE_VALUES = 20_000_000  # the same times genes
_PRACTICE_SEEN = 30_000_000  # counts of the training region: with more, it is practised on pieces of it
_PRACTICE_PIECES = 5
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What all predictors of a slide share.

    Args:
        slide: As it was prepared, but for the radius, which is the first model's.
        columns: (P,) columns of the slide that are scored: the genes that every model knows.
        target_sum: Of the normalisation.
        radius_um: Radius of the graph of the first model.
        reach_um: Its full receptive field.
        seed: The user's seed.
        sight_um: Full receptive field of the model that looks furthest.
        prepared_um: Radius that the slide was prepared for; the slide's when absent.
    """

    slide: Slide
    columns: Rows
    target_sum: float
    radius_um: float
    reach_um: float
    seed: int
    sight_um: float = 0.0
    prepared_um: float | None = None
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
        """The slide at a model's own radius, or as it was prepared; what is to be said of that is said once."""
        prepared_um = self.prepared_um or self.slide.radius_um
        wanted_um = radius_um or prepared_um
        if wanted_um == self.slide.radius_um:
            return self.slide
        if wanted_um not in self._slides:
            prepared = replace(self.slide, radius_um=prepared_um)
            for note in radius_notes(prepared, wanted_um):
                logger.warning(note)
            self._slides[wanted_um] = prepared.with_radius(wanted_um)
        return self._slides[wanted_um]

    def context(self, part: Round) -> Context:
        """What baselines may use in a round; void cells tell nothing and are left out."""
        if part not in self._contexts:
            if self._keeps_too_much():
                self._contexts.clear()
            training = self._training_for(part)
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
        others = self._to_learn_from(part)
        alone = len(others) < len(self.slide.region(keys.TRAIN))
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
                if not self.shows_anything(part):
                    continue
                chosen = np.sort(numpy_generator(self.seed, "practice", part.number).permutation(part.hidden)[:left])
                left -= len(chosen)
                expression = self.slide.expression(chosen, self.target_sum)[:, self.columns]
                counts = self.slide.counts(chosen)[:, self.columns]
                known = self._training_less(training, len(rows), part.hidden)
                yield Example(self._look(part, known), self.slide.xy_um[chosen], expression, counts)

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

    def shows_anything(self, part: Round) -> bool:
        """Whether a cell that is not void is visible."""
        return bool((self.slide.total_counts[part.visible] > 0).any())

    def _to_learn_from(self, part: Round) -> Rows:
        """The training cells, without those that are hidden or withheld."""
        others = np.setdiff1d(self.slide.region(keys.TRAIN), part.hidden, assume_unique=True)
        return others if part.withheld is None else np.setdiff1d(others, part.withheld, assume_unique=True)

    def _training_for(self, part: Round) -> Profile:
        """The training profile; without the hidden cells where training cells themselves are scored."""
        others = self._to_learn_from(part)
        if len(others) == len(self.slide.region(keys.TRAIN)):
            return self.training
        # Where all training cells are hidden, the visible ones are all that anybody knows.
        rows = others if len(others) else part.visible
        return train_profile(self.slide, rows, self.columns, self.target_sum)

    def _training_less(self, training: Profile, num_cells: int, hidden: Rows) -> Profile:
        """The profile of some cells, less those that are hidden among them.

        A profile that holds the hidden cells tells of them: where the widest circle covers the region, what it lacks to
        the profile is what is hidden, turned round.

        Args:
            training: Of all these cells.
            num_cells: How many they are.
            hidden: Rows, not all of them.

        Returns:
            Of the others.
        """
        hid, num_left = train_profile(self.slide, hidden, self.columns, self.target_sum), num_cells - len(hidden)
        mean, share = (
            np.maximum(whole * num_cells - part * len(hidden), 0) / num_left
            for whole, part in ((training.mean, hid.mean), (training.share, hid.share))
        )
        return Profile(mean, share, np.maximum(training.counts - hid.counts, 0))

    def truth(self, rows: Rows) -> Truth:
        """What was hidden in some cells."""
        values = self.slide.expression(rows, self.target_sum)[:, self.columns].toarray()
        return Truth(self.slide.counts(rows)[:, self.columns], values, self.training, self.target_sum)


def set_up_bench(slide: Slide, engines: Sequence[LoadedModel], seed: int) -> Bench:
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
    if not slide.total_counts[slide.region(keys.TRAIN)].any():
        raise CifmError(
            f"slide {slide.name}: no cells with counts in its train region, from which the baselines learn",
            "prepare a larger piece of the tissue",
        )
    prepared_um = slide.radius_um
    slide = engines[0].fit_slide(slide)
    reaches_um = [reach_um(recipe, recipe.data.radius_um or prepared_um) for recipe in recipes]
    return Bench(
        slide,
        columns,
        recipes[0].data.target_sum,
        slide.radius_um,
        reaches_um[0],
        seed,
        sight_um=max(reaches_um),
        prepared_um=prepared_um,
    )
