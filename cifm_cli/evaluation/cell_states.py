"""Distributions over cell states: what a model says, and what the cells around a hidden cell say.

A distribution is K probabilities for every hidden cell. Its samples are real cells of the training region, one of the
drawn state each.

Letters: Q hidden cells, V visible cells, T training cells, K states, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.evaluation.neighbours import nearest
from cifm_cli.model.states import nearest_profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.context import Settings
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.loaded_model import LoadedModel

NEIGHBOURS: Final = (32, 128, 512)
WIDTHS: Final = (0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # of the kernel, radii
# Cells' worth of training frequencies in every frequency; with the last, neighbours that tell nothing are not heard.
BELIEFS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0, 1e6)
_CELLS_AT_ONCE: Final = 20_000
_TINY: Final = 1e-9  # probability below which no predictor is believed


@dataclass(frozen=True)
class StateBook:
    """The states of one model, and the state of every cell of a slide.

    Args:
        bench: The slide.
        engine: The model, which has states.
        profiles: (K, P) mean expression of each state over the genes that the model shares with the slide.
    """

    bench: Bench
    engine: LoadedModel
    profiles: torch.Tensor

    @property
    def num_states(self) -> int:
        """K."""
        return len(self.profiles)

    @cached_property
    def state(self) -> NDArray[np.int64]:
        """(N,) state of each cell of the slide, from its own expression."""
        slide, columns = self.bench.slide, self.engine.panel(self.bench.slide).columns
        found = np.empty(slide.num_cells, dtype=np.int64)
        for start in range(0, slide.num_cells, _CELLS_AT_ONCE):
            rows = np.arange(start, min(start + _CELLS_AT_ONCE, slide.num_cells))
            values = slide.expression(rows, self.bench.target_sum)[:, columns].toarray()
            found[rows] = nearest_profile(torch.from_numpy(values), self.profiles).numpy()
        return found

    def visible_cells(self, part: Round) -> Rows:
        """(V,) visible cells of a round that show counts, the columns of `neighbour_weights`."""
        return part.visible[self.bench.slide.total_counts[part.visible] > 0]

    def training_cells(self, part: Round) -> Rows:
        """(T,) cells of the training region that show counts and are not hidden; the visible ones where none are."""
        slide = self.bench.slide
        rows = np.setdiff1d(slide.region(keys.TRAIN), part.hidden, assume_unique=True)
        rows = rows[slide.total_counts[rows] > 0]
        return rows if len(rows) else self.visible_cells(part)

    def frequency(self, part: Round) -> NDArray[np.float64]:
        """(K,) share of the training cells in each state, with one cell more for each."""
        number = np.bincount(self.state[self.training_cells(part)], minlength=self.num_states) + 1.0
        return np.asarray(number / number.sum())


def open_states(bench: Bench, engine: LoadedModel) -> StateBook | None:
    """The states of a model; None for a model without.

    Args:
        bench: The slide.
        engine: The model.

    Returns:
        The states.
    """
    states = engine.cell_states
    if states is None:
        return None
    genes = torch.from_numpy(engine.panel(bench.slide).vocabulary_rows)
    return StateBook(bench, engine, states.profiles.detach().cpu()[:, genes])


def neighbour_settings() -> list[Settings]:
    """What the neighbours' frequencies are tuned over: k, kernel width in radii, belief in the training frequencies."""
    return [{"k": k, "width": width, "belief": belief} for k in NEIGHBOURS for width in WIDTHS for belief in BELIEFS]


def neighbour_weights(book: StateBook, part: Round, settings: Settings) -> csr_matrix:
    """Weights of the visible cells around each hidden cell; see `neighbours.nearest`.

    Args:
        book: Of any model on the slide.
        part: Which cells are hidden.
        settings: `k` and `width`.

    Returns:
        (Q, V), V the visible cells that show counts.
    """
    context = book.bench.context(part)
    width_um = settings["width"] * book.bench.radius_um
    return nearest(context, book.bench.slide.xy_um[part.hidden], int(settings["k"]), width_um)


def neighbour_frequencies(book: StateBook, part: Round, weights: csr_matrix, belief: float) -> NDArray[np.float32]:
    """How often each state stands around the hidden cells: the neighbours' empirical distribution.

    Args:
        book: The states.
        part: Which cells are hidden.
        weights: From `neighbour_weights`.
        belief: Cells' worth of training frequencies mixed in.

    Returns:
        (Q, K) probabilities.
    """
    rows = book.visible_cells(part)
    member = csr_matrix(
        (np.ones(len(rows)), book.state[rows], np.arange(len(rows) + 1)), shape=(len(rows), book.num_states)
    )
    sums = (weights @ member).toarray() + belief * book.frequency(part)
    return np.asarray(sums / sums.sum(axis=1, keepdims=True), dtype=np.float32)


def draw_of_states(
    book: StateBook, part: Round, probability: NDArray[np.float32], num_draws: int, generator: np.random.Generator
) -> Rows:
    """Draw real training cells, each of a state drawn from the distribution.

    Args:
        book: The states.
        part: Which cells are hidden; none of them is drawn.
        probability: (Q, K).
        num_draws: m.
        generator: Source of randomness; used up.

    Returns:
        (Q, m) rows of the slide.
    """
    pool = book.training_cells(part)
    pool = pool[np.argsort(book.state[pool], kind="stable")]
    number = np.bincount(book.state[pool], minlength=book.num_states)
    cumulated = np.cumsum(probability.astype(np.float64) * (number > 0), axis=1)
    uniform = generator.random((len(probability), num_draws)) * cumulated[:, -1:]
    state = (uniform[:, :, None] >= cumulated[:, None, :]).sum(axis=2).clip(max=int(np.flatnonzero(number)[-1]))
    first = np.cumsum(number) - number
    return np.asarray(pool[first[state] + (generator.random(state.shape) * number[state]).astype(np.int64)])


def draw_of_neighbours(
    book: StateBook,
    part: Round,
    weights: csr_matrix,
    belief: float,
    num_draws: int,
    generator: np.random.Generator,
) -> Rows:
    """Draw the neighbours themselves, by weight; now and then, as belief has it, any training cell.

    Args:
        book: The states.
        part: Which cells are hidden; none of them is drawn.
        weights: From `neighbour_weights`.
        belief: Cells' worth of training cells among the neighbours.
        num_draws: m.
        generator: Source of randomness; used up.

    Returns:
        (Q, m) rows of the slide.
    """
    rows, pool = book.visible_cells(part), book.training_cells(part)
    mass = np.asarray(weights.sum(axis=1)).ravel()
    place = generator.random((len(mass), num_draws)) * (mass + belief)[:, None]
    # Cumulated over all cells, the weights of each are one stretch of a single ascending line.
    line = np.cumsum(weights.data, dtype=np.float64)
    start = np.concatenate([[0.0], line])[weights.indptr[:-1]]
    own = np.minimum(np.searchsorted(line, start[:, None] + place, side="right"), weights.indptr[1:, None] - 1)
    anyone = pool[(generator.random(place.shape) * len(pool)).astype(np.int64)]
    return np.asarray(np.where(place < mass[:, None], rows[weights.indices[own]], anyone))


def log_loss(probability: NDArray[np.float32], state: NDArray[np.int64]) -> NDArray[np.float64]:
    """Surprise at the actual states, in nats: the log score of a distribution.

    Args:
        probability: (Q, K).
        state: (Q,).

    Returns:
        (Q,).
    """
    own = probability[np.arange(len(state)), state].astype(np.float64)
    return np.asarray(-np.log(np.maximum(own, _TINY)))
