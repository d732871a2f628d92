"""The simulated time: at every step some cells are masked, inferred from the present state, and drawn anew.

Letters: N cells of the tissue (residents, then injected), Q cells of a step, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.sampling import draw_counts
from cifm_cli.simulation.states import States, fit_states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.model.vocabulary import Panel
    from cifm_cli.simulation.injection import Injection

Form = Literal["state", "sample", "mean", "gated"]
SWEEPS: Final = 2  # times every cell is updated, unless the user says otherwise
GATE: Final = 0.3  # P(expressed) up to which `gated` says zero


@dataclass(frozen=True)
class Schedule:
    """When which cells are updated, and how.

    Args:
        wanted_steps: Number of steps; as many as update every cell twice when absent.
        share: Share of the residents updated in a step; in 1 / share steps each is updated once.
        form: What a cell becomes: `state`, a cell of one of the tissue's own states (see `States`); `sample`, whole
            counts drawn gene by gene; `mean`, the prediction itself; `gated`, the prediction where it is likely to
            be expressed.
        seed: The user's seed.
    """

    wanted_steps: int | None
    share: float
    form: Form
    seed: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.wanted_steps or SWEEPS * self.steps_per_sweep

    @property
    def steps_per_sweep(self) -> int:
        """Steps in which every resident is updated exactly once."""
        return max(1, round(1 / self.share))

    def cells(self, num_residents: int, replicate: int, step: int) -> Rows:
        """Residents updated in a step: a part of a random order that is drawn anew for every sweep.

        Args:
            num_residents: How many there are.
            replicate: Which replicate.
            step: From 0.

        Returns:
            Ascending rows.
        """
        sweep, part = divmod(step, self.steps_per_sweep)
        order = numpy_generator(self.seed, "sweep", replicate, sweep).permutation(num_residents)
        return np.sort(np.array_split(order, self.steps_per_sweep)[part])


@dataclass(frozen=True)
class Tissue:
    """A state of the tissue.

    Args:
        slide: Residents, then injected cells; its counts are the state.
        num_residents: Cells that are updated.
        depths: (N,) sum of each cell's counts, which no step changes.
    """

    slide: Slide
    num_residents: int
    depths: NDArray[np.float64]

    @property
    def counts(self) -> csr_matrix:
        """(N, P) counts."""
        return self.slide.counts(np.arange(self.slide.num_cells))

    def with_counts(self, cells: Rows, counts: csr_matrix) -> Tissue:
        """The tissue with new counts for some cells."""
        row = np.arange(self.slide.num_cells)
        row[cells] = self.slide.num_cells + np.arange(len(cells))
        state = vstack([self.counts, counts.astype(np.float32)], format="csr")[row]
        return replace(self, slide=replace(self.slide, source=MemoryCounts(state)))


def restrict(slide: Slide, rows: Rows, panel: Panel) -> Tissue:
    """Cut the part of a slide that is simulated: some cells, and the genes that the model knows.

    Args:
        slide: At the model's radius.
        rows: Ascending rows that exist.
        panel: Genes that slide and model share.

    Returns:
        A tissue of residents only, in memory.
    """
    counts = slide.counts(rows)[:, panel.columns]
    part = replace(
        slide,
        xy_um=slide.xy_um[rows],
        total_counts=slide.total_counts[rows],
        split=slide.split[rows],
        gene_ids=tuple(slide.gene_ids[column] for column in panel.columns),
        symbols=tuple(slide.symbols[column] for column in panel.columns),
        source=MemoryCounts(counts),
    )
    return Tissue(part, len(rows), _sums(counts))


def inject(tissue: Tissue, injection: Injection) -> Tissue:
    """Put cells into a tissue.

    Args:
        tissue: Residents.
        injection: Cells with the same genes.

    Returns:
        The tissue with the injected cells after the residents.
    """
    slide = tissue.slide
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, injection.xy_um]),
        total_counts=np.concatenate([slide.total_counts, injection.total_counts]),
        split=np.concatenate([slide.split, np.zeros(len(injection.xy_um), dtype=np.int8)]),
        source=MemoryCounts(vstack([tissue.counts, injection.counts.astype(np.float32)], format="csr")),
    )
    return Tissue(larger, tissue.num_residents, np.concatenate([tissue.depths, _sums(injection.counts)]))


@dataclass(frozen=True)
class Dynamics:
    """The model, and how its predictions become cells; fitted once on an untouched tissue and the same for every run.

    Args:
        engine: The model.
        schedule: What happens when.
        states: For the form `state`.
    """

    engine: LoadedModel
    schedule: Schedule
    states: States | None

    def run(self, tissue: Tissue, replicate: int = 0) -> Iterator[Tissue]:
        """Let a tissue change.

        The random numbers depend on seed, replicate and step alone, so that two tissues with the same residents differ
        by what the model makes of them, not by luck.

        Args:
            tissue: The first state.
            replicate: Which replicate.

        Yields:
            The state after every step.
        """
        for step in range(self.schedule.steps):
            cells = self.schedule.cells(tissue.num_residents, replicate, step)
            tissue = self.update(tissue, cells, numpy_generator(self.schedule.seed, "counts", replicate, step))
            yield tissue

    def update(self, tissue: Tissue, cells: Rows, generator: np.random.Generator) -> Tissue:
        """Mask some cells, infer them from all others, and bring what is inferred to each cell's depth.

        Args:
            tissue: The state before.
            cells: (Q,) ascending rows, all updated at once.
            generator: Source of randomness; used up.

        Returns:
            The state after.
        """
        prediction = predict_cells(self.engine, tissue.slide, np.arange(tissue.slide.num_cells), cells)
        depths = tissue.depths[cells]
        whole = np.rint(depths).astype(np.int64)
        if self.states:
            return tissue.with_counts(cells, csr_matrix(self.states.draw(prediction, whole, generator)))
        target_sum = self.engine.checkpoint.recipe.data.target_sum
        expected = expected_counts(prediction, self.schedule.form, target_sum)
        nothing = expected.sum(axis=1) == 0
        expected[nothing] = tissue.slide.counts(cells[nothing]).toarray()  # such a cell stays as it is
        profiles = expected / np.maximum(expected.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        if self.schedule.form == "sample":
            return tissue.with_counts(cells, csr_matrix(draw_counts(profiles, whole, generator)))
        return tissue.with_counts(cells, csr_matrix(profiles * depths[:, None]))


def prepare_dynamics(engine: LoadedModel, tissue: Tissue, schedule: Schedule) -> Dynamics:
    """Fit what the schedule's form needs.

    Args:
        engine: The model.
        tissue: Untouched.
        schedule: What will happen when.

    Returns:
        The dynamics, for this tissue with and without injected cells.
    """
    states = fit_states(engine, tissue.slide, schedule.share, schedule.seed) if schedule.form == "state" else None
    return Dynamics(engine, schedule, states)


def expected_counts(prediction: Prediction, form: Form, target_sum: float) -> NDArray[np.float64]:
    """Turn a prediction of log-normalised expression back into expected counts, up to a factor for each cell.

    For `sample` it matters that the mean of a logarithm is not the logarithm of a mean: a gene that one cell in three
    expresses at level 6 has the mean 2, and expm1(2) is sixty times too small. So what is undone is the level of the
    cells that do express it, mean / P(expressed), at most that of a cell with no other gene.

    Args:
        prediction: Of Q cells.
        form: `sample`, `mean` or `gated`.
        target_sum: What expression is normalised to.

    Returns:
        (Q, P), not negative.
    """
    if form == "gated":
        return np.expm1(prediction.gated(GATE).mean.astype(np.float64))
    mean = prediction.mean.astype(np.float64)
    if form == "mean":
        return np.expm1(mean)
    expressed = prediction.expressed.astype(np.float64)
    level = np.minimum(mean, expressed * np.log1p(target_sum)) / np.maximum(expressed, np.finfo(float).tiny)
    counts: NDArray[np.float64] = expressed * np.expm1(level)
    return counts


def _sums(counts: csr_matrix) -> NDArray[np.float64]:
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
