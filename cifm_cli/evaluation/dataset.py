"""One slide under evaluation: its scored genes, and the visible cells, examples and targets of every fold.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise, radius_notes
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.examples import Example, Targets, TrainingFolds
from cifm_cli.evaluation.folds import exceeds_counts, make_folds, make_folds_around, margin_um, training_geometry
from cifm_cli.evaluation.metrics.gene_sets import choose_gene_sets
from cifm_cli.inference.adaptation.practice import PracticeFold
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells, gene_stats
from cifm_cli.model.masking import reach_um
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.folds import Fold, FoldPlan
    from cifm_cli.inference.loaded_model import LoadedModel

logger = logging.getLogger(__name__)

MAX_CACHED_NONZEROS = 10_000_000  # of the visible cells that stay in memory from fold to fold: 160 MB
MAX_FOLD_CACHES = 2  # folds with training examples of their own that stay in memory
MAX_EXAMPLE_CELLS = 15_000  # training cells that baselines learn from
MAX_EXAMPLE_VALUES = 20_000_000  # training cells times genes
MAX_TRAINING_COUNTS = 30_000_000  # of a training region; in a larger one, examples are taken from pieces of it
NUM_TRAINING_PIECES = 5


@dataclass(frozen=True)
class EvaluationDataset:
    """What all predictors of a slide share."""

    slide: Slide  # as it was prepared, but at the radius of the first model
    columns: Rows  # (P,) columns of the slide that are scored: the genes that every model knows
    target_sum: float  # of the normalisation
    radius_um: float  # radius of the graph of the first model
    reach_um: float  # full receptive field of the first model
    seed: int  # the user's seed
    max_reach_um: float = 0.0  # the widest receptive field of all models
    prepared_radius_um: float | None = None  # radius that the slide was prepared for; the slide's when absent
    # geometry to the plan of its folds, on some of which adaptation chooses weights and penalties
    plans: dict[str, FoldPlan] = field(default_factory=dict, repr=False, compare=False)
    adapted_models: dict[tuple[str, str | Fold], LoadedModel] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _visible: dict[Fold, VisibleCells] = field(default_factory=dict, init=False, repr=False, compare=False)
    _shared_training: dict[str, TrainingFolds] = field(default_factory=dict, init=False, repr=False, compare=False)
    _fold_training: dict[Fold, TrainingFolds] = field(default_factory=dict, init=False, repr=False, compare=False)
    _slides: dict[float, Slide] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_genes(self) -> int:
        """P."""
        return len(self.columns)

    @property
    def symbols(self) -> tuple[str, ...]:
        """P gene symbols."""
        return tuple(self.slide.symbols[column] for column in self.columns)

    @cached_property
    def gene_stats(self) -> GeneStats:
        """Statistics of each gene over the training region."""
        return self._stats(self.slide.region(keys.TRAIN))

    @cached_property
    def gene_sets(self) -> dict[str, NDArray[np.int64]]:
        """Genes that are scored separately, chosen by the training cells."""
        return choose_gene_sets(self.slide, self.columns, self.target_sum, self.seed)

    def margin_um(self, geometry: str) -> float:
        """Width of the margin around a piece of tissue within which cells influence any predictor."""
        return margin_um(geometry, self.radius_um, max(self.reach_um, self.max_reach_um))

    def slide_at(self, radius_um: float | None) -> Slide:
        """The slide at the radius of a model; at the prepared radius for None. Each warning is logged once."""
        prepared_um = self.prepared_radius_um or self.slide.radius_um
        wanted_um = radius_um or prepared_um
        if wanted_um == self.slide.radius_um:
            return self.slide
        if wanted_um not in self._slides:
            prepared = replace(self.slide, radius_um=prepared_um)
            for note in radius_notes(prepared, wanted_um):
                logger.warning(note)
            self._slides[wanted_um] = prepared.with_radius(wanted_um)
        return self._slides[wanted_um]

    def has_visible_counts(self, fold: Fold) -> bool:
        """Whether any visible cell has counts."""
        return bool((self.slide.total_counts[fold.visible] > 0).any())

    def targets(self, rows: Rows) -> Targets:
        """The actual expression of some cells."""
        values = self.slide.expression(rows, self.target_sum)[:, self.columns].toarray()
        return Targets(self.slide.counts(rows)[:, self.columns], values, self.gene_stats, self.target_sum)

    def visible_cells(self, fold: Fold) -> VisibleCells:
        """The cells that baselines may use in a fold. Void cells carry no information and are left out."""
        if fold not in self._visible:
            # Predictors are evaluated one after the other, each on all folds, so every fold is needed many times.
            if self._cache_is_full():
                self._visible.clear()
                self._fold_training.clear()
            self._visible[fold] = self._read_visible(fold.visible, self._stats_for(fold), fold.number)
        return self._visible[fold]

    def training_folds(self, fold: Fold) -> TrainingFolds:
        """Examples to learn from for a fold; without its hidden and withheld cells where these are training cells."""
        rows = self._learnable_rows(fold)
        if len(rows) == len(self.slide.region(keys.TRAIN)):
            if fold.geometry not in self._shared_training:
                draw = partial(self._draw_examples, fold.geometry, rows, self.gene_stats, MAX_EXAMPLE_CELLS)
                self._shared_training[fold.geometry] = TrainingFolds(draw, self.gene_stats)
            return self._shared_training[fold.geometry]
        if fold not in self._fold_training:
            # a third of the examples: they serve a single fold.
            stats = self.visible_cells(fold).gene_stats
            draw = partial(self._draw_examples, fold.geometry, rows, stats, MAX_EXAMPLE_CELLS // 3)
            self._fold_training[fold] = TrainingFolds(draw, stats)
        return self._fold_training[fold]

    def clear_caches(self) -> None:
        """Release what the predictors of one geometry shared; it is made anew on demand."""
        self._visible.clear()
        self._shared_training.clear()
        self._fold_training.clear()
        self.adapted_models.clear()

    def _cache_is_full(self) -> bool:
        nonzeros = sum(visible.expression.nnz for visible in self._visible.values())
        return len(self._fold_training) > MAX_FOLD_CACHES or nonzeros > MAX_CACHED_NONZEROS

    def _stats(self, rows: Rows) -> GeneStats:
        return gene_stats(self.slide, rows, self.columns, self.target_sum)

    def _read_visible(self, visible: Rows, stats: GeneStats, fold_number: int = 0) -> VisibleCells:
        # Void cells would count as neighbours that express nothing.
        rows = visible[self.slide.total_counts[visible] > 0]
        counts = self.slide.counts(rows)[:, self.columns]
        expression = log_normalise(counts, self.slide.total_counts[rows], self.target_sum)  # shares their indices
        xy_um = self.slide.xy_um[rows]
        return VisibleCells(xy_um, expression, counts, stats, self.radius_um, self.reach_um, self.seed, fold_number)

    def _learnable_rows(self, fold: Fold) -> Rows:
        """The training cells, without those that are hidden or withheld."""
        rows = np.setdiff1d(self.slide.region(keys.TRAIN), fold.hidden, assume_unique=True)
        return rows if fold.withheld is None else np.setdiff1d(rows, fold.withheld, assume_unique=True)

    def _stats_for(self, fold: Fold) -> GeneStats:
        """Statistics of the training cells that may be used in a fold; of the visible cells where there are none."""
        rows = self._learnable_rows(fold)
        if len(rows) == len(self.slide.region(keys.TRAIN)):
            return self.gene_stats
        return self._stats(rows if len(rows) else fold.visible)

    def practice_folds(self, fold: Fold) -> tuple[Rows, list[PracticeFold]]:
        """The cells that a model is adapted by for a fold: it practises on those that baselines learn from, hidden as theirs.

        Where the scored region contains training or tuning cells, folds need adaptations of their own. Their profiles are
        those of all visible cells of the fold, as the baselines that only average use all of them too.

        Returns:
            Ascending rows of the cells of the profiles, and the folds in which some of the cells are hidden.
        """
        rows = self._learnable_rows(fold)
        if self.shares_adaptation(fold):
            return rows, list(self._practice(fold.geometry, rows, MAX_EXAMPLE_CELLS))
        folds = self._practice(fold.geometry, rows, MAX_EXAMPLE_CELLS // 3)
        everything = np.union1d(rows, fold.visible)
        return everything, [
            replace(each, visible=np.setdiff1d(everything, each.hidden, assume_unique=True)) for each in folds
        ]

    def shares_adaptation(self, fold: Fold) -> bool:
        """Whether one adaptation serves all such folds of a geometry: it reads no training or tuning cell that they hide."""
        plan = self.plans.get(fold.geometry)
        overlapping = plan is not None and plan.overlapping
        return not overlapping and len(self._learnable_rows(fold)) == len(self.slide.region(keys.TRAIN))

    def _practice(self, geometry: str, rows: Rows, max_cells: int) -> Iterator[PracticeFold]:
        """Hide at most `max_cells` of `rows` as a geometry hides the scored cells."""
        max_cells = min(max_cells, max(1, MAX_EXAMPLE_VALUES // self.num_genes))
        for folds, num_cells in self._folds_of_training(training_geometry(geometry), rows, max_cells):
            left = num_cells
            for fold in folds:
                if left <= 0:
                    break
                if not self.has_visible_counts(fold):
                    continue
                order = numpy_generator(self.seed, "practice", fold.number).permutation(fold.hidden)
                queries = np.sort(order[:left])
                left -= len(queries)
                yield PracticeFold(fold.visible, fold.hidden, queries)

    def _draw_examples(self, geometry: str, rows: Rows, stats: GeneStats, max_cells: int) -> Iterator[Example]:
        """The cells of `_practice` as examples; `stats` are the statistics of `rows`."""
        for fold in self._practice(geometry, rows, max_cells):
            expression = self.slide.expression(fold.queries, self.target_sum)[:, self.columns]
            counts = self.slide.counts(fold.queries)[:, self.columns]
            # Statistics that include the hidden cells would reveal them: where the widest circle covers the whole
            # region, the difference between the two is exactly what is hidden.
            others = stats.without(self._stats(fold.hidden), len(rows), len(fold.hidden))
            visible = self._read_visible(fold.visible, others)
            yield Example(visible, self.slide.xy_um[fold.queries], expression, counts)

    def _folds_of_training(self, geometry: str, rows: Rows, max_cells: int) -> Iterator[tuple[list[Fold], int]]:
        """Folds of training cells and the number of cells to use of them; of pieces, where the region is large."""
        if not len(rows):  # the training region is hidden altogether
            return
        size = max_cells // NUM_TRAINING_PIECES
        small = len(rows) <= NUM_TRAINING_PIECES * max_cells
        if size == 0 or small or not exceeds_counts(self.slide, rows, MAX_TRAINING_COUNTS):
            yield make_folds(geometry, self.slide.xy_um, rows, self.radius_um, self.seed), max_cells
            return
        # Pieces from all over the region, because tissue varies in space.
        for stretch in np.array_split(rows, NUM_TRAINING_PIECES):
            first = (len(stretch) - max_cells) // 2
            core = stretch[first : first + max_cells]
            yield make_folds_around(self.slide, geometry, core, rows, self.margin_um(geometry), self.seed), size


def open_dataset(slide: Slide, models: Sequence[LoadedModel], seed: int, *, adapted: bool = False) -> EvaluationDataset:
    """Find the genes that models and slide share.

    Args:
        slide: Any slide.
        models: The first one sets radius and receptive field of the baselines.
        seed: The user's seed.
        adapted: Whether the models are adapted to the slide and so know all of its genes.

    Returns:
        The dataset.

    Raises:
        CifmError: The models normalise differently, share no gene, or the slide has no training cells.
    """
    recipes = [model.checkpoint.recipe for model in models]
    if len({recipe.data.target_sum for recipe in recipes}) > 1:
        raise CifmError("the models were trained with different data.target_sum", "evaluate them one by one")
    # All predictors are scored on the same genes, so a gene that one model lacks is left out for all.
    columns = models[0].panel(slide).columns
    for model in models[1:]:
        columns = np.intersect1d(columns, model.panel(slide).columns)
    if adapted:
        columns = np.arange(slide.num_genes)
    if not len(columns):
        raise CifmError(f"slide {slide.name}: the models share none of its genes", "evaluate them one by one")
    if not slide.total_counts[slide.region(keys.TRAIN)].any():
        raise CifmError(
            f"slide {slide.name}: no cells with counts in its train region, from which the baselines learn",
            "prepare a larger piece of the tissue",
        )
    prepared_um = slide.radius_um
    radius_um = recipes[0].data.radius_um
    models[0].log_overlap(slide)
    models[0].log_notes(radius_notes(slide, radius_um) if adapted else models[0].slide_notes(slide))
    slide = slide.with_radius(radius_um)
    reaches_um = [reach_um(recipe, recipe.data.radius_um or prepared_um) for recipe in recipes]
    return EvaluationDataset(
        slide,
        columns,
        recipes[0].data.target_sum,
        slide.radius_um,
        reaches_um[0],
        seed,
        max_reach_um=max(reaches_um),
        prepared_radius_um=prepared_um,
    )
