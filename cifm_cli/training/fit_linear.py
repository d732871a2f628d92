"""Fit of the linear correction to practice cells of all training slides together, before the first step.

The correction is fitted to what the smoother of each slide leaves unexplained. Penalty and gain of each output are chosen on
practice cells that are held out for validation, so that a correction which does not help there is left out.

Letters: n practice cells, S scales, G genes that a training slide measures, P of a slide's panel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from cifm_cli import keys
from cifm_cli.model.linear_correction import Corrections, correct_composition
from cifm_cli.model.slide_fit import example_terms, slide_of
from cifm_cli.model.smoother import Smoother, probability_logit
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.reduced_ridge import ReducedRidge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from cifm_cli.model.example import Example
    from cifm_cli.model.linear_correction import LinearCorrection
    from cifm_cli.training.corpus import TrainingSlide
    from cifm_cli.training.session import Session

logger = logging.getLogger(__name__)

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # fractions of the total variance of the features
GAINS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of each output; zero leaves it out
MAX_ROWS, MAX_DUAL_ROWS = 15_000, 4_000  # practice cells; fewer if they are fewer than the features
MAX_VALUES = 2**28  # features and targets in memory, in total, 1 GiB
MAX_TILES = 400  # of a slide, where hardly any cell of a tile is masked
ROWS_PER_CELL = 2  # a cell may be masked several times, with other visible neighbours
VALIDATED_PART = 0.2  # validation cells, as a part of the number of training cells
NUM_OUTPUTS = len(Corrections._fields)


@dataclass(frozen=True)
class Practice:
    """Masked cells of a tile, and what the smoother of the slide predicts for them."""

    genes: Tensor  # (P,) vocabulary rows
    differences: Tensor  # (n, S, P) means around the cells minus those of the slide
    mean: Tensor  # (n, P) predicted log-normalised expression
    expressed: Tensor  # (n, P) predicted P(expressed)
    composition: Tensor  # (n, P) logarithms of the predicted fractions
    values: Tensor  # (n, P) log-normalised expression
    counts: Tensor  # (n, P) counts

    def errors(self, mean_depth: float) -> Tensor:
        """Differences between target and prediction; those of a composition are weighted by the counts of the cell.

        Args:
            mean_depth: Mean number of counts of the cells of the slide.

        Returns:
            (n, 3, P), in the order of `Corrections`.
        """
        fractions = self.counts.sum(1, keepdim=True) * self.composition.softmax(1)
        return torch.stack(
            [
                self.values - self.mean,
                (self.values > 0).float() - self.expressed,
                (self.counts - fractions) / mean_depth,
            ],
            dim=1,
        )

    def losses(self, correction: Corrections) -> list[float]:
        """Mean squared error of the mean, and cross-entropies of P(expressed) and of the composition."""
        logit = probability_logit(self.expressed + correction.expressed)
        logs = correct_composition(self.composition, correction.composition).log_softmax(1)
        return [
            float(functional.mse_loss(self.mean + correction.mean, self.values)),
            float(functional.binary_cross_entropy_with_logits(logit, (self.values > 0).float())),
            float(-(self.counts * logs).sum() / self.counts.sum().clamp(min=1)),
        ]


@torch.no_grad()
def fit_linear_correction(session: Session) -> None:
    """Fit the linear correction of the network, if its recipe asks for one.

    Args:
        session: At step 0, with fitted slides. The buffers of the correction are changed.
    """
    linear, corpus = session.network.linear, session.corpus
    if linear is None:
        return
    genes, num_scales = corpus.measured_genes(), len(session.recipe.objective.scales)
    num_features = num_scales * len(genes)
    max_rows = MAX_VALUES // (num_features + NUM_OUTPUTS * len(genes))
    max_rows = min(max_rows, MAX_ROWS if num_features <= MAX_DUAL_ROWS else MAX_DUAL_ROWS)
    training = [draw_practice(session, each, keys.TRAIN, max_rows // len(corpus.slides)) for each in corpus.slides]
    validation_rows = int(VALIDATED_PART * max_rows) // len(corpus.validation_slides)
    validation = [
        practice
        for each in corpus.validation_slides
        for practice in draw_practice(session, each, keys.VALIDATION, validation_rows)
    ]
    validation = [practice for practice in validation if len(practice.genes)]
    features, targets = join_slides(training, genes, num_scales)
    del training
    ridge = ReducedRidge(features, targets)
    penalties = choose_penalties(ridge, validation, genes)
    groups = [slice(number * len(genes), (number + 1) * len(genes)) for number in range(NUM_OUTPUTS)]
    rank = min(linear.reduce.shape[2], *features.shape, len(genes))
    reduced, weights = ridge.reduce(
        list(zip(groups, penalties, strict=True)),
        target_scales(targets, len(genes)),
        rank,
        numpy_generator(session.seed, "linear"),
    )
    reduce = linear.reduce.new_zeros(num_scales, linear.reduce.shape[1], rank)
    outputs = linear.outputs.new_zeros(NUM_OUTPUTS, rank, linear.outputs.shape[2])
    reduce[:, genes] = torch.from_numpy(reduced.reshape(num_scales, len(genes), rank)).to(reduce)
    outputs[:, :, genes] = torch.from_numpy(weights.reshape(rank, NUM_OUTPUTS, -1).swapaxes(0, 1).copy()).to(outputs)
    linear.fill(reduce, outputs)
    gains = choose_gains(linear, validation)
    linear.fill(reduce, outputs * outputs.new_tensor(gains)[:, None, None])
    logger.debug(
        f"linear correction: {len(features):,} cells, {num_features:,} features, penalties {penalties}, gains {gains}"
    )


def draw_practice(session: Session, training_slide: TrainingSlide, use: str, max_rows: int) -> list[Practice]:
    """Mask cells of a slide for practice.

    Args:
        session: Its corpus draws the tiles.
        training_slide: The slide.
        use: `train` or `validation`.
        max_rows: Largest number of cells.

    Returns:
        The masked cells, tile by tile.
    """
    corpus = session.corpus
    smoother = Smoother(len(corpus.vocabulary), session.recipe.objective)
    number = corpus.fitted_slides.index(training_slide)
    wanted = min(max_rows, ROWS_PER_CELL * len(training_slide.tilers[use].rows))
    tiles: list[Practice] = []
    for tile in range(MAX_TILES):
        if wanted <= 0:
            break
        practice = practise(corpus.draw_example(training_slide, use, "linear", number, tile), smoother, wanted)
        wanted -= len(practice.mean)
        tiles.append(practice)
    return tiles


def practise(example: Example, smoother: Smoother, max_rows: int) -> Practice:
    """Predict the masked cells of a tile by the smoother; at most `max_rows` of them."""
    slide = slide_of(example)
    terms, frequencies = example_terms(example)
    mean, logit, composition, _ = smoother(terms, frequencies, slide, example.tile.genes)
    rows = slice(max_rows)
    return Practice(
        genes=example.tile.genes,
        differences=terms.means[rows, :-1] - slide.mean,
        mean=mean[rows],
        expressed=logit[rows].sigmoid(),
        composition=composition[rows],
        values=example.target.values[rows],
        counts=example.target.counts[rows],
    )


def join_slides(
    slides: Sequence[Sequence[Practice]], genes: Tensor, num_scales: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """Features and targets of the regression. Slides weigh the same (Eq. 15), and each is centred on its own mean.

    Args:
        slides: The practice cells of each slide.
        genes: (G,) ascending vocabulary rows.
        num_scales: S.

    Returns:
        (N, S G) features and (N, 3 G) targets. Both are zero for a gene that the slide does not measure.
    """
    numbers = [sum(len(practice.mean) for practice in tiles) for tiles in slides]
    features = torch.zeros(sum(numbers), num_scales, len(genes))
    targets = torch.zeros(sum(numbers), NUM_OUTPUTS, len(genes))
    first = 0
    for tiles, number in zip(slides, numbers, strict=True):
        rows = slice(first, first + number)
        mean_depth = max(sum(float(practice.counts.sum()) for practice in tiles) / max(number, 1), 1.0)
        for practice in tiles:
            last = first + len(practice.mean)
            places = torch.searchsorted(genes, practice.genes)
            features[first:last, :, places] = practice.differences
            targets[first:last, :, places] = practice.errors(mean_depth)
            first = last
        for values in (features[rows], targets[rows]):
            values -= values.mean(0)
            # Rows of a slide have the total weight 1 / number of slides.
            values *= (len(features) / (len(slides) * max(number, 1))) ** 0.5
    return features.flatten(1).numpy(), targets.flatten(1).numpy()


def corrections_of(
    predicted: np.ndarray[tuple[int, int], np.dtype[np.float32]], validation: Sequence[Practice], genes: Tensor
) -> Iterator[tuple[Practice, Corrections]]:
    """Cut (N, 3 G) predicted errors into those of each tile."""
    by_output = torch.from_numpy(predicted).view(len(predicted), NUM_OUTPUTS, len(genes))
    first = 0
    for practice in validation:
        part = by_output[first : first + len(practice.mean)]
        first += len(practice.mean)
        yield practice, Corrections(*part[:, :, torch.searchsorted(genes, practice.genes)].unbind(1))


def choose_penalties(ridge: ReducedRidge, validation: Sequence[Practice], genes: Tensor) -> list[float]:
    """The penalty of each output with the smallest loss on validation tiles."""
    measured = [restrict_genes(practice, genes) for practice in validation]
    num_scales = validation[0].differences.shape[1]
    features = torch.zeros(sum(len(practice.mean) for practice in measured), num_scales, len(genes))
    first = 0
    for practice in measured:
        last = first + len(practice.mean)
        features[first:last, :, torch.searchsorted(genes, practice.genes)] = practice.differences
        first = last
    flat = features.flatten(1).numpy()
    losses = np.array(
        [
            np.mean([p.losses(c) for p, c in corrections_of(ridge.predict(penalty, flat), measured, genes)], axis=0)
            for penalty in PENALTIES
        ]
    )
    return [PENALTIES[best] for best in losses.argmin(axis=0)]


def restrict_genes(practice: Practice, genes: Tensor) -> Practice:
    """Leave out genes that no training slide measures: nothing is known of their errors."""
    kept = torch.isin(practice.genes, genes)
    if bool(kept.all()):
        return practice
    return Practice(
        practice.genes[kept],
        practice.differences[:, :, kept],
        *(getattr(practice, name)[:, kept] for name in ("mean", "expressed", "composition", "values", "counts")),
    )


def choose_gains(linear: LinearCorrection, validation: Sequence[Practice]) -> list[float]:
    """The gain of each output with the smallest loss on validation tiles; the smallest one if they are equal."""
    losses = np.zeros((len(GAINS), NUM_OUTPUTS))
    for practice in validation:
        device = linear.reduce.device
        full = linear(practice.differences.to(device), practice.genes.to(device))
        for number, gain in enumerate(GAINS):
            losses[number] += practice.losses(Corrections(*(gain * part.cpu() for part in full)))
    return [GAINS[best] for best in losses.argmin(axis=0)]


def target_scales(
    targets: np.ndarray[tuple[int, int], np.dtype[np.float32]], num_genes: int
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(3 G,) units in which errors of outputs are comparable.

    Each output counts the same. Within a composition, an error counts more in a rare gene, as in the likelihood.
    """
    variance = np.mean(np.square(targets), axis=0, dtype=np.float64).reshape(NUM_OUTPUTS, num_genes)
    scales = np.repeat(np.sqrt(variance.mean(axis=1, keepdims=True)), num_genes, axis=1)
    # The variance of a fraction is about proportional to the fraction.
    scales[-1] = np.sqrt(np.maximum(np.sqrt(variance[-1] * variance[-1].mean()), 1e-3 * variance[-1].mean()))
    return np.maximum(scales, 1e-9).astype(np.float32).ravel()
