"""The slides that are trained on, and the masked tiles made from them.

Every tile has a generator of its own, derived from the seed and its number, so a resumed run sees what the uninterrupted
one would have seen. Tiles are read from disk when they are made: in memory are the place and the depth of every cell,
about 50 bytes, and the counts of the few tiles at hand.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise, open_slide, radius_notes
from cifm_cli.data.tiles import Tiler
from cifm_cli.errors import CifmError
from cifm_cli.model.masking import MaskedTile, choose_masked, mask_tile, reach_um
from cifm_cli.model.objective import Target
from cifm_cli.model.vocabulary import Panel, match_panel, union_vocabulary, warn_of_few_shared
from cifm_cli.provenance import numpy_generator
from cifm_cli.training.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.recipe import Recipe

logger = logging.getLogger(__name__)

_BLOCK = 20_000  # cells read at a time when a whole region is summed


@dataclass(frozen=True)
class Example:
    """A masked tile and the truth.

    Args:
        tile: What the network reads.
        target: Of the masked cells.
    """

    tile: MaskedTile
    target: Target

    def to(self, device: torch.device) -> Example:
        """Copy to a device; itself when it is there."""
        return Example(self.tile.to(device), self.target.to(device))


@dataclass(frozen=True)
class TrainingSlide:
    """A slide, its genes in the vocabulary, and its regions ready to be cut into tiles.

    Args:
        slide: At the recipe's radius.
        panel: Its genes in the vocabulary.
        tilers: `train`, `validation` or both, to tiler; no cell of another region is ever seen.
    """

    slide: Slide
    panel: Panel
    tilers: dict[str, Tiler]


class Corpus:
    """All slides of a training run.

    Args:
        paths: Prepared slides.
        recipe: A whole recipe.
        vocabulary: Ensembl ids of the model to go on from; the union of the slides' when absent.
        seed: Of every training and validation tile.

    Raises:
        CifmError: A slide can't be read, shares no gene with the vocabulary, or has an empty training region; or the
            slides that the recipe names for validation are not there, or are all there are.
    """

    def __init__(
        self, paths: Sequence[Path], recipe: Recipe, vocabulary: tuple[str, ...] | None = None, seed: int = 0
    ) -> None:
        # Counts stay on disk: many slides, each small enough to be held, would fill the memory together.
        prepared = [open_slide(path, hold=False) for path in paths]
        for note in (note for slide in prepared for note in radius_notes(slide, recipe.data.radius_um)):
            logger.warning(note)
        opened = [slide.with_radius(recipe.data.radius_um) for slide in prepared]
        self.recipe = recipe
        apart = set(recipe.data.validation_slides)
        _refuse_strangers(apart, {slide.name for slide in opened})
        self.vocabulary = vocabulary or union_vocabulary([slide for slide in opened if slide.name not in apart])
        own = {name: name for name in ((keys.TRAIN,) if apart else (keys.TRAIN, keys.VALIDATION))}
        self.slides = [self._ready(slide, own) for slide in opened if slide.name not in apart]
        held_out = [self._ready(slide, {keys.VALIDATION: keys.ALL}) for slide in opened if slide.name in apart]
        self.looked_at = held_out or self.slides
        self.seed = seed
        self._sampler = Sampler([len(part.tilers[keys.TRAIN].rows) for part in self.slides], recipe.data, seed)

    def _ready(self, slide: Slide, regions: dict[str, str]) -> TrainingSlide:
        """Cut up a slide; `regions` says which of its regions serves for what."""
        reach = reach_um(self.recipe, slide.radius_um)
        tilers = {use: Tiler(slide.xy_um, slide.region(region), reach) for use, region in regions.items()}
        for name, tiler in tilers.items():
            if len(tiler.rows) < 2:
                raise CifmError(
                    f"slide {slide.name}: its {name} region has {len(tiler.rows)} cells",
                    "leave this slide out with --data, or prepare a larger piece of it",
                )
        panel = match_panel(slide, self.vocabulary)
        warn_of_few_shared(slide, panel)  # the vocabulary may be that of a run that is fine-tuned
        return TrainingSlide(slide, panel, tilers)

    @property
    def num_cells(self) -> int:
        """Cells of all training regions."""
        return sum(len(part.tilers[keys.TRAIN].rows) for part in self.slides)

    @property
    def num_looks(self) -> int:
        """Validation tiles of all slides that are looked at."""
        return len(self.looked_at) * self.recipe.train.validation_tiles

    def train_example(self, number: int) -> Example:
        """The training tile of a number, counted from the start of training; the sampler says where it is."""
        place = self._sampler.stretch(number)
        part = self.slides[place.slide]
        rows = part.tilers[keys.TRAIN].rows[place.start : place.stop]
        return self._mask(part, keys.TRAIN, rows, numpy_generator(self.seed, "train", number))

    def look_example(self, number: int) -> Example:
        """One of the `num_looks` tiles of every look at the validation region; always the same."""
        position, tile = divmod(number, self.recipe.train.validation_tiles)
        generator = numpy_generator(self.seed, "look", position, tile)
        return self._draw_from(self.looked_at[position], keys.VALIDATION, generator)

    def draw(self, region: str, seed: int, *stream: int | str) -> Example:
        """Draw a tile for another purpose: a slide (each as likely as another), a stretch of its region, masked cells.

        Args:
            region: `train` or `validation`.
            seed: The user's seed.
            stream: What the draw is for, such as `("smoother", number)`.

        Returns:
            The same example for the same arguments.
        """
        generator = numpy_generator(seed, region, *stream)
        parts = self.slides if region == keys.TRAIN else self.looked_at
        return self._draw_from(parts[generator.integers(len(parts))], region, generator)

    def _draw_from(self, part: TrainingSlide, region: str, generator: np.random.Generator) -> Example:
        rows, size = part.tilers[region].rows, self.recipe.data.tile_cells
        start = generator.integers(max(len(rows) - size, 0) + 1)
        return self._mask(part, region, rows[start : start + size], generator)

    def _mask(self, part: TrainingSlide, region: str, core: Rows, generator: np.random.Generator) -> Example:
        tile = part.tilers[region].tile(core)
        masked = choose_masked(tile.core, tile.xy_um[tile.core] / part.slide.radius_um, self.recipe, generator)
        ready = mask_tile(part.slide, tile, masked, part.panel, self.recipe)
        rows, columns = tile.rows[masked], part.panel.columns
        counts = part.slide.counts(rows)[:, columns].toarray()
        values = part.slide.expression(rows, self.recipe.data.target_sum)[:, columns].toarray()
        return Example(ready, Target(torch.from_numpy(values), torch.from_numpy(counts)))

    def measured_genes(self) -> torch.Tensor:
        """Ascending rows of the vocabulary, int64, that at least one of the slides measures."""
        return torch.from_numpy(np.unique(np.concatenate([part.panel.vocabulary_rows for part in self.slides])))

    def profiles(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean expression, share of expressing cells and share of counts, over the training cells that measure a gene.

        Returns:
            Three (G,) float32 tensors; the last is positive.
        """
        sums, expressing, measured, counts = (np.zeros(len(self.vocabulary)) for _ in range(4))
        for part in self.slides:
            genes = part.panel.vocabulary_rows
            for rows in _blocks(part.tilers[keys.TRAIN].rows):
                raw = part.slide.counts(rows)
                block = log_normalise(raw, part.slide.total_counts[rows], self.recipe.data.target_sum)
                block, raw = block[:, part.panel.columns], raw[:, part.panel.columns]
                counts[genes] += np.asarray(raw.sum(axis=0, dtype=np.float64)).ravel()
                sums[genes] += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
                expressing[genes] += block.getnnz(axis=0)
                measured[genes] += len(rows)
        measured = np.maximum(measured, 1)
        rate = (counts + 1) / measured
        found = (sums / measured, expressing / measured, rate / rate.sum())
        return tuple(torch.from_numpy(profile).float() for profile in found)  # type: ignore[return-value]

    def some_cells(self, most: int) -> csr_matrix:
        """Expression of some training cells, spread evenly over all training regions.

        Args:
            most: Cells at most.

        Returns:
            (n, G) log-normalised; a gene that a slide does not measure is zero.
        """
        stride = max(1, -(-self.num_cells // most))
        parts = []
        for part in self.slides:
            rows = part.tilers[keys.TRAIN].rows[::stride]
            found = part.slide.expression(rows, self.recipe.data.target_sum)[:, part.panel.columns].tocsr()
            genes = part.panel.vocabulary_rows[found.indices]
            parts.append(csr_matrix((found.data, genes, found.indptr), (len(rows), len(self.vocabulary))))
        return vstack(parts, format="csr")


def _refuse_strangers(named: set[str], slides: set[str]) -> None:
    """Slides set apart for validation must be there, and leave some to train on."""
    if unknown := sorted(named - slides):
        raise CifmError(
            f"data.validation_slides: no slide {', '.join(unknown)} among {', '.join(sorted(slides))}",
            "name slides as their files are named, without .h5ad",
        )
    if named == slides:
        raise CifmError("data.validation_slides names every slide: none is left to train on", "leave some out of it")


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
