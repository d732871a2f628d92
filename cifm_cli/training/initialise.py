"""Fits to the cells of each slide before the first step: gene profiles, cell states, and the weights of the smoother."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cifm_cli import keys
from cifm_cli.model.gene_profiles import GeneTotals, sum_genes
from cifm_cli.model.slide_fit import fit_slide_parameters
from cifm_cli.model.slide_parameters import start_parameters
from cifm_cli.model.states import fit_states
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scipy.sparse import csr_matrix

    from cifm_cli.model.example import Example
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.training.corpus import TrainingSlide
    from cifm_cli.training.session import Session

NUM_SMOOTHER_TILES = 24  # tiles of a slide that the linear weights are fitted on
NUM_VALIDATED_TILES = 12  # tiles that the fit is validated on
MAX_STATE_CELLS = 50_000  # cells that are clustered into cell states
VALIDATED_PART = 0.2  # part of the cells of a slide that the fit is validated on, if it has no region for that


def fit_slides(session: Session) -> None:
    """Fit the parameters of every slide, and those pooled over the training slides, which the network stores.

    The first prediction then equals that of a good baseline. The head of the paper has nothing to fit.

    Args:
        session: At step 0; the parameters of its slides and the buffers of its network are changed.
    """
    pooled, corpus = session.network.pooled, session.corpus
    if pooled is None:
        return
    for number, training_slide in enumerate(corpus.fitted_slides):
        fit_slide(session, training_slide, number)
    if len(corpus.slides) == 1:  # its parameters are those of all slides
        only = corpus.slides[0]
        pooled.fill(known_parameters(only), only.genes)
    else:
        measured = corpus.measured_genes()
        pooled.fill(fit_pooled(session).take_genes(measured), measured)


def fit_slide(session: Session, training_slide: TrainingSlide, number: int) -> None:
    """Fit the parameters of one slide to the cells of its region.

    Args:
        session: Its corpus draws the examples.
        training_slide: The slide; its parameters are set.
        number: Number of the slide, which seeds the draws.
    """
    corpus, use = session.corpus, training_slide.fitted_use
    region = training_slide.tilers[use].rows
    training_slide.totals = sum_genes(
        training_slide.slide, region, training_slide.panel, session.recipe.data.target_sum
    )
    cells = corpus.sample_cells([training_slide], MAX_STATE_CELLS)[:, training_slide.panel.vocabulary_rows]
    training_slide.parameters = start = make_start(session, training_slide.totals, cells, number)
    # A region of its own validates the fit; otherwise the last cells along the Hilbert curve do.
    has_region = use == keys.TRAIN and keys.VALIDATION in training_slide.tilers
    first = len(region) if has_region else len(region) - max(1, round(VALIDATED_PART * len(region)))
    examples = (
        corpus.draw_example(training_slide, use, "smoother", number, tile, part=slice(first))
        for tile in range(NUM_SMOOTHER_TILES)
    )
    validated, part = (keys.VALIDATION, slice(None)) if has_region else (use, slice(first, None))
    validation = (
        corpus.draw_example(training_slide, validated, "smoother check", number, tile, part=part)
        for tile in range(NUM_VALIDATED_TILES)
    )
    training_slide.parameters = fit_slide_parameters(start, examples, validation, session.recipe.objective.pool_decay)


def fit_pooled(session: Session) -> SlideParameters:
    """Fit parameters to all training slides together, over the G genes of the vocabulary."""
    corpus = session.corpus
    totals = GeneTotals.zeros(len(corpus.vocabulary))
    for each in corpus.slides:
        if each.totals:
            totals = totals.add(each.totals, each.genes)
    start = make_start(session, totals, corpus.sample_cells(corpus.slides, MAX_STATE_CELLS))

    def draw(slides: Sequence[TrainingSlide], use: str, purpose: str, num_tiles: int) -> Iterator[Example]:
        """Draw tiles of the slides in turn, which have the pooled parameters."""
        for tile in range(num_tiles):
            each = slides[tile % len(slides)]
            is_summed = use == keys.TRAIN
            view = replace(
                each,
                parameters=start.take_genes(each.genes),
                totals=totals.take_genes(each.genes) if is_summed else None,
            )
            yield corpus.draw_example(view, use, purpose, tile)

    return fit_slide_parameters(
        start,
        draw(corpus.slides, keys.TRAIN, "smoother", max(NUM_SMOOTHER_TILES, len(corpus.slides))),
        draw(corpus.validation_slides, keys.VALIDATION, "smoother check", NUM_VALIDATED_TILES),
        session.recipe.objective.pool_decay,
        whole_vocabulary=True,
    )


def make_start(session: Session, totals: GeneTotals, cells: csr_matrix, *stream: int) -> SlideParameters:
    """Gene profiles and cell states, with equal weights of the terms of the smoother.

    Args:
        session: Gives the number of terms and of states.
        totals: Sums over the cells.
        cells: (n, P) log-normalised expression of a sample of them.
        stream: Number of the slide, which seeds the states.

    Returns:
        The parameters.
    """
    objective = session.recipe.objective
    seed = int(numpy_generator(session.seed, "states", *stream).integers(2**31))
    states = fit_states(cells, objective.states, seed)
    return start_parameters(totals.profiles(), *states, len(objective.scales) + 1)


def known_parameters(training_slide: TrainingSlide) -> SlideParameters:
    """The parameters of a slide that is fitted."""
    if training_slide.parameters is None:
        raise ValueError(f"slide {training_slide.slide.name} has no parameters yet")
    return training_slide.parameters
