"""The slides that are trained on, and the masked tiles drawn from them.

Every draw has a generator of its own, derived from the seed and the step, so a resumed run draws what the
uninterrupted one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.tiles import Tiler
from cifm_cli.errors import CifmError
from cifm_cli.model.masking import MaskedTile, choose_masked, mask_tile, reach_um
from cifm_cli.model.vocabulary import Panel, match_panel, union_vocabulary
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.recipe import Recipe

_BLOCK = 50_000  # cells read at a time when a whole region is summed


@dataclass(frozen=True)
class Example:
    """A masked tile and the truth.

    Args:
        tile: What the network reads.
        target: (M, P) log-normalised expression of the masked cells.
    """

    tile: MaskedTile
    target: torch.Tensor

    def to(self, device: torch.device) -> Example:
        """Copy to a device; itself when it is there."""
        return Example(self.tile.to(device), self.target.to(device))


@dataclass(frozen=True)
class TrainingSlide:
    """A slide, its genes in the vocabulary, and its regions ready to be cut into tiles.

    Args:
        slide: At the recipe's radius.
        panel: Its genes in the vocabulary.
        tilers: Region to tiler; no cell of another region is ever seen.
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

    Raises:
        CifmError: A slide can't be read, shares no gene with the vocabulary, or has an empty training region.
    """

    def __init__(self, paths: Sequence[Path], recipe: Recipe, vocabulary: tuple[str, ...] | None = None) -> None:
        opened = [open_slide(path).with_radius(recipe.data.radius_um) for path in paths]
        self.recipe = recipe
        self.vocabulary = vocabulary or union_vocabulary(opened)
        self.slides = [self._ready(slide) for slide in opened]

    def _ready(self, slide: Slide) -> TrainingSlide:
        reach = reach_um(self.recipe, slide.radius_um)
        tilers = {name: Tiler(slide.xy_um, slide.region(name), reach) for name in (keys.TRAIN, keys.VALIDATION)}
        for name, tiler in tilers.items():
            if len(tiler.rows) < 2:
                raise CifmError(
                    f"slide {slide.name}: its {name} region has {len(tiler.rows)} cells",
                    "leave this slide out with --data, or prepare a larger piece of it",
                )
        return TrainingSlide(slide, match_panel(slide, self.vocabulary), tilers)

    @property
    def num_cells(self) -> int:
        """Cells of all training regions."""
        return sum(len(part.tilers[keys.TRAIN].rows) for part in self.slides)

    def draw(self, region: str, seed: int, *stream: int | str) -> Example:
        """Draw a tile: a slide (each as likely as another, Eq. 15), a stretch of its region, the masked cells.

        Args:
            region: `train` or `validation`.
            seed: The user's seed.
            stream: What the draw is for, such as `("train", step)`.

        Returns:
            The same example for the same arguments.
        """
        generator = numpy_generator(seed, region, *stream)
        return self._draw_from(self.slides[generator.integers(len(self.slides))], region, generator)

    def validation(self, seed: int) -> list[Example]:
        """The examples of every look at the validation region, from every slide, always the same."""
        return [
            self._draw_from(part, keys.VALIDATION, numpy_generator(seed, "look", position, number))
            for position, part in enumerate(self.slides)
            for number in range(self.recipe.train.validation_tiles)
        ]

    def _draw_from(self, part: TrainingSlide, region: str, generator: np.random.Generator) -> Example:
        tiler, size = part.tilers[region], self.recipe.data.tile_cells
        start = generator.integers(max(len(tiler.rows) - size, 0) + 1)
        tile = tiler.tile(tiler.rows[start : start + size])
        masked = choose_masked(tile.core, self.recipe, generator)
        ready = mask_tile(part.slide, tile, masked, part.panel, self.recipe)
        truth = part.slide.expression(tile.rows[masked], self.recipe.data.target_sum)
        return Example(ready, torch.from_numpy(truth[:, part.panel.columns].toarray()))

    def profiles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean expression and share of expressing cells, over the training cells that measure the gene.

        Returns:
            Two (G,) float32 tensors.
        """
        sums, expressing, measured = (np.zeros(len(self.vocabulary)) for _ in range(3))
        for part in self.slides:
            genes = part.panel.vocabulary_rows
            for rows in _blocks(part.tilers[keys.TRAIN].rows):
                block = part.slide.expression(rows, self.recipe.data.target_sum)[:, part.panel.columns]
                sums[genes] += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
                expressing[genes] += block.getnnz(axis=0)
                measured[genes] += len(rows)
        measured = np.maximum(measured, 1)
        return torch.from_numpy(sums / measured).float(), torch.from_numpy(expressing / measured).float()


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
