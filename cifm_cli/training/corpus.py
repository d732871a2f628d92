"""The slides of a training run, and the masked tiles that are made from them.

The random draws of a tile depend on the seed and the number of the tile alone, so that a resumed run trains on the
same tiles as an uninterrupted one. Counts of small corpora are in memory; those of larger ones are read from disk when a
tile is made, and memory holds the coordinates and the depth of every cell, about 50 bytes per cell, and the counts of the
tiles that are in use.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from cifm_cli import keys
from cifm_cli.data.ensembl import species_prefix
from cifm_cli.data.slide import hold_counts, open_slide, radius_notes
from cifm_cli.data.tiles import Tiler
from cifm_cli.errors import CifmError
from cifm_cli.model.example import make_example
from cifm_cli.model.masking import Mask, choose_masked, reach_um
from cifm_cli.model.vocabulary import Panel, match_panel, panel_notes, union_vocabulary
from cifm_cli.provenance import numpy_generator
from cifm_cli.training.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.model.example import Example
    from cifm_cli.model.gene_profiles import GeneTotals
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.recipe import Recipe

logger = logging.getLogger(__name__)

WHOLE = slice(None)  # all cells of a region


@dataclass(eq=False)
class TrainingSlide:
    """A slide, its genes in the vocabulary, and its regions ready to be cut into tiles."""

    slide: Slide  # the slide, with the radius of the recipe
    panel: Panel  # its genes in the vocabulary
    # a tiler for the use `train`, `validation` or both. A tile has no cell that is for another use.
    tilers: dict[str, Tiler]
    parameters: SlideParameters | None = None  # set by `initialise`; the objective `balanced_mse` needs none
    # sums over the cells that its parameters are fitted to; None if they are fitted to other slides
    totals: GeneTotals | None = None

    @property
    def fitted_use(self) -> str:
        """The use of the cells that its parameters are fitted to: `train`, unless the whole slide is held out."""
        return keys.TRAIN if keys.TRAIN in self.tilers else keys.VALIDATION

    @property
    def genes(self) -> torch.Tensor:
        """(P,) vocabulary rows of its panel."""
        return torch.from_numpy(self.panel.vocabulary_rows)


class Corpus:
    """The slides of a training run.

    Args:
        paths: Prepared slides.
        recipe: A recipe.
        vocabulary: Ensembl ids of the run. None: `known`, then the other genes of the slides.
        seed: Seed of all training and validation tiles.
        known: Ensembl ids of the model that training starts from; every slide has some of them.

    Raises:
        CifmError: A slide can't be read, shares no gene with the vocabulary or has an empty training region, or the
            slides that the recipe names for validation are missing, or are all slides.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        recipe: Recipe,
        vocabulary: tuple[str, ...] | None = None,
        seed: int = 0,
        known: tuple[str, ...] = (),
    ) -> None:
        # Many slides, each small enough to be held, would fill the memory together.
        prepared = hold_counts([open_slide(path, hold=False) for path in paths])
        for note in (note for slide in prepared for note in radius_notes(slide, recipe.data.radius_um)):
            logger.warning(note)
        _check_species(prepared)
        slides = [slide.with_radius(recipe.data.radius_um) for slide in prepared]
        self.recipe = recipe
        self.seed = seed
        held_out = set(recipe.data.validation_slides)
        _check_held_out(held_out, {slide.name for slide in slides})
        trained = [slide for slide in slides if slide.name not in held_out]
        self.vocabulary = vocabulary or union_vocabulary(trained, known)
        for slide in slides if known else ():
            # Without a single known gene, a trained network sees nothing of a slide, whatever its weights are.
            match_panel(slide, known)
        # Each slide validates on a region of its own, unless whole slides are held out for that.
        own: dict[str, Collection[str]] = {} if held_out else {keys.VALIDATION: (keys.VALIDATION,)}
        self.slides = [
            self._cut(slide, {keys.TRAIN: recipe.data.trained_regions(slide.name)} | own) for slide in trained
        ]
        self.validation_slides = [
            self._cut(slide, {keys.VALIDATION: keys.REGIONS}) for slide in slides if slide.name in held_out
        ] or self.slides
        # The sampler needs the lengths only, so it draws tiles without reading any cell.
        self._sampler = Sampler(
            [len(training_slide.tilers[keys.TRAIN].rows) for training_slide in self.slides], recipe.data, seed
        )

    def _cut(self, slide: Slide, regions: dict[str, Collection[str]]) -> TrainingSlide:
        """Make a tiler for each use (`train` or `validation`) of regions of a slide."""
        reach = reach_um(self.recipe, slide.radius_um)
        tilers = {use: Tiler(slide.xy_um, slide.regions(names), reach) for use, names in regions.items()}
        for name, tiler in tilers.items():
            # A tile of one cell would have no visible cell once that cell is masked.
            if len(tiler.rows) < 2:
                raise CifmError(
                    f"slide {slide.name}: its {name} region has {len(tiler.rows)} cells",
                    "leave this slide out with --data, or prepare a larger section of it",
                )
        panel = match_panel(slide, self.vocabulary)
        for note in panel_notes(slide, panel):  # a vocabulary that comes from another run may lack many of the genes
            logger.warning(note)
        return TrainingSlide(slide, panel, tilers)

    @property
    def num_cells(self) -> int:
        """Number of cells that are trained on, in all slides."""
        return sum(len(training_slide.tilers[keys.TRAIN].rows) for training_slide in self.slides)

    @property
    def num_validation_tiles(self) -> int:
        """Number of tiles that a validation runs over."""
        return len(self.validation_slides) * self.recipe.train.validation_tiles

    def train_example(self, number: int) -> Example:
        """The training tile with a number, counted from the start of training."""
        core = self._sampler.cell_range(number)
        training_slide = self.slides[core.slide]
        rows = training_slide.tilers[keys.TRAIN].rows[core.start : core.stop]
        # A generator for each tile: the tiles before it need not be drawn, so any process can make any tile.
        augmentation = numpy_generator(self.seed, "augmentation", number)
        return self._mask(training_slide, keys.TRAIN, rows, numpy_generator(self.seed, "train", number), augmentation)

    def validation_example(self, number: int) -> Example:
        """One of the `num_validation_tiles` tiles, which are the same in every validation."""
        slide, tile = divmod(number, self.recipe.train.validation_tiles)
        generator = numpy_generator(self.seed, "look", slide, tile)
        return self._draw_from(self.validation_slides[slide], keys.VALIDATION, generator)

    def draw_example(self, training_slide: TrainingSlide, use: str, *stream: int | str, part: slice = WHOLE) -> Example:
        """Draw a tile of a slide for another purpose: a range of cells, and a mask.

        Args:
            training_slide: The slide.
            use: `train` or `validation`.
            stream: Purpose of the draw, such as `("smoother", number)`.
            part: Part of the cells of the region that tiles are drawn from.

        Returns:
            The same example for the same seed and arguments.
        """
        return self._draw_from(training_slide, use, numpy_generator(self.seed, use, *stream), part)

    def _draw_from(
        self, training_slide: TrainingSlide, use: str, generator: np.random.Generator, part: slice = WHOLE
    ) -> Example:
        """Draw a range of cells from a region of a slide, and mask some of them."""
        rows, size = training_slide.tilers[use].rows[part], self.recipe.data.tile_cells
        # Consecutive rows are near each other, as prepared slides are in Hilbert order.
        start = generator.integers(max(len(rows) - size, 0) + 1)
        return self._mask(training_slide, use, rows[start : start + size], generator)

    def _mask(
        self,
        training_slide: TrainingSlide,
        use: str,
        core: Rows,
        generator: np.random.Generator,
        augmentation: np.random.Generator | None = None,
    ) -> Example:
        """Cut the tile of some core cells, and mask some of these; vary the others with `augmentation`."""
        slide = training_slide.slide
        tile = training_slide.tilers[use].tile(core)
        masked = choose_masked(tile.core, tile.xy_um[tile.core] / slide.radius_um, self.recipe, generator)
        return make_example(
            slide,
            tile,
            Mask(masked, augmentation),
            training_slide.panel,
            self.recipe,
            training_slide.parameters,
            training_slide.totals if use == training_slide.fitted_use else None,
        )

    @property
    def fitted_slides(self) -> list[TrainingSlide]:
        """The slides that have parameters of their own: those that are trained on, then those held out."""
        return self.slides if self.validation_slides is self.slides else [*self.slides, *self.validation_slides]

    def measured_genes(self) -> torch.Tensor:
        """Ascending rows of the vocabulary, int64, that at least one of the training slides measures."""
        genes = [training_slide.genes for training_slide in self.slides]
        return torch.from_numpy(np.unique(torch.cat(genes).numpy()))

    def sample_cells(self, training_slides: Sequence[TrainingSlide], max_cells: int) -> csr_matrix:
        """Expression of at most `max_cells` cells with counts, spread evenly over the regions that slides are fitted to.

        Returns:
            (n, G) log-normalised; a gene that a slide does not measure is zero.
        """
        with_counts = []
        for each in training_slides:
            rows = each.tilers[each.fitted_use].rows
            with_counts.append(rows[each.slide.total_counts[rows] > 0])
        # Every stride-th cell along the Hilbert curves, with the stride rounded up, covers all areas of all slides.
        stride = max(1, -(-sum(map(len, with_counts)) // max_cells))
        blocks = []
        for each, rows in zip(training_slides, with_counts, strict=True):
            block = each.slide.expression(rows[::stride], self.recipe.data.target_sum)[:, each.panel.columns].tocsr()
            # Renumbering the columns of the non-zero values maps the panel to the vocabulary without a dense matrix.
            genes = each.panel.vocabulary_rows[block.indices]
            blocks.append(csr_matrix((block.data, genes, block.indptr), (block.shape[0], len(self.vocabulary))))
        return vstack(blocks, format="csr")


def _check_species(slides: Sequence[Slide]) -> None:
    """Refuse slides of several species: they have no gene in common, and would be two trainings in one."""
    of_slides: dict[str, Slide] = {}
    for slide in slides:
        (species, _) = Counter(map(species_prefix, slide.gene_ids)).most_common(1)[0]
        if species:
            of_slides.setdefault(species, slide)
    if len(of_slides) > 1:
        one, other = (f"{slide.name} ({species})" for species, slide in list(of_slides.items())[:2])
        raise CifmError(
            f"slides {one} and {other}: genes of different species have nothing in common",
            "map the genes of one to the other with cifm prepare --orthologs, or train on each species alone with --data",
        )


def _check_held_out(held_out: set[str], slides: set[str]) -> None:
    """Check that slides held out for validation exist, and that others are left to train on."""
    if unknown := sorted(held_out - slides):
        raise CifmError(
            f"data.validation_slides: no slide {', '.join(unknown)} among {', '.join(sorted(slides))}",
            "name slides as their files are named, without .h5ad",
        )
    if held_out == slides:
        raise CifmError("data.validation_slides names every slide: none is left to train on", "leave some out of it")
