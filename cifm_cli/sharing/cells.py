"""The cells whose neighbours are searched: embeddings of several slides as one table that is read in blocks.

Letters: N cells of all slides, n cells of some, D features, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from cifm_cli import provenance
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

Center = Literal["sample", "none"]
ROWS_AT_ONCE = 16_384  # 8 MB with 128 features


@dataclass(frozen=True)
class Part:
    """The cells of one slide, or those of one sample of a slide."""

    name: str  # name of the slide, for files and messages
    sample: str  # name of the sample
    embedding: NDArray[np.float32]  # (n, D), in memory or mapped from a file
    xy_um: NDArray[np.float64] | None = None  # (n, 2) micrometres
    types: NDArray[np.object_] | None = None  # (n,) annotated types, None for a cell without one
    group: str | None = None  # group of the sample, such as its condition
    platform: str | None = None  # platform that measured the slide


@dataclass(frozen=True)
class Cells:
    """Cells of all parts, one part after the other."""

    parts: tuple[Part, ...]
    shifts: NDArray[np.float32]  # (S, D) what is subtracted from the embeddings of each sample

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """S names, in the order in which they first occur."""
        return tuple(dict.fromkeys(part.sample for part in self.parts))

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """(P + 1,) first row of each of P parts, and N."""
        return np.cumsum([0, *(len(part.embedding) for part in self.parts)])

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(N,) position in `samples` of the sample of each cell."""
        numbers = [self.samples.index(part.sample) for part in self.parts]
        return np.repeat(numbers, np.diff(self.bounds))

    @property
    def num_cells(self) -> int:
        """N."""
        return int(self.bounds[-1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.parts[0].embedding.shape[1])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(S,) number of cells of each sample."""
        return np.bincount(self.codes, minlength=len(self.samples))

    def rows_of(self, part: int) -> slice:
        """The rows of a part."""
        return slice(int(self.bounds[part]), int(self.bounds[part + 1]))

    def read(self, rows: Rows) -> NDArray[np.float32]:
        """Read the embeddings of some cells, shifted.

        Args:
            rows: (n,) ascending rows.

        Returns:
            (n, D) float32.
        """
        values = np.empty((len(rows), self.width), dtype=np.float32)
        ends = np.searchsorted(rows, self.bounds)
        for number, part in enumerate(self.parts):
            first, last = int(ends[number]), int(ends[number + 1])
            if first < last:
                values[first:last] = part.embedding[rows[first:last] - self.bounds[number]]
        values -= self.shifts[self.codes[rows]]
        return values

    def blocks(self, rows: Rows | None = None, size: int = ROWS_AT_ONCE) -> Iterator[Rows]:
        """Divide ascending rows, by default all, into blocks."""
        every = np.arange(self.num_cells) if rows is None else rows
        for first in range(0, len(every), size):
            yield every[first : first + size]


def collect_cells(parts: Sequence[Part]) -> Cells:
    """Combine the parts into one table.

    Args:
        parts: At least two samples.

    Returns:
        The table. The mean over all cells is subtracted, because squared distances between large numbers are inexact.

    Raises:
        CifmError: There is one sample, or the embeddings differ in their number of features.
    """
    widths = {part.embedding.shape[1] for part in parts}
    if len(widths) > 1:
        raise CifmError(
            f"embeddings of {' and '.join(map(str, sorted(widths)))} features", "use embeddings of one model"
        )
    cells = Cells(tuple(parts), np.zeros((len({part.sample for part in parts}), widths.pop()), dtype=np.float32))
    if len(cells.samples) < 2:
        raise CifmError(
            f"one sample: {cells.samples[0]}",
            "give slides of two samples or more; `cifm prepare --sample` names the sample of a slide",
        )
    means = sample_means(cells)
    weights = cells.sizes / cells.num_cells
    return replace(cells, shifts=np.broadcast_to(weights @ means, means.shape).astype(np.float32))


def sample_means(cells: Cells) -> NDArray[np.float64]:
    """(S, D) mean embedding of each sample."""
    sums = np.zeros((len(cells.samples), cells.width))
    for rows in cells.blocks():
        values = cells.read(rows).astype(np.float64)
        for code in np.unique(cells.codes[rows]):
            sums[code] += values[cells.codes[rows] == code].sum(axis=0)
    return np.asarray(sums / cells.sizes[:, None])


def variance_between_samples(cells: Cells) -> float:
    """Fraction of the variance of the embeddings that lies between the means of the samples, before any shift."""
    unshifted = replace(cells, shifts=np.zeros_like(cells.shifts))
    means = sample_means(unshifted)
    weights = cells.sizes / cells.num_cells
    center = weights @ means
    between = float((weights * ((means - center) ** 2).sum(axis=1)).sum())
    total = sum(float(((unshifted.read(rows) - center) ** 2).sum()) for rows in cells.blocks()) / cells.num_cells
    return between / total if total > 0 else 0.0


def draw_balanced(cells: Cells, seed: int) -> Rows:
    """Draw the same number of cells from each sample: as many as the smallest has.

    Args:
        cells: The cells.
        seed: Seed of the draw.

    Returns:
        Ascending rows.
    """
    smallest = int(cells.sizes.min())
    drawn = []
    for code, name in enumerate(cells.samples):
        rows = np.flatnonzero(cells.codes == code)
        generator = provenance.numpy_generator(seed, "sharing balance", name)
        drawn.append(rows[generator.choice(len(rows), smallest, replace=False)])
    return np.sort(np.concatenate(drawn))
