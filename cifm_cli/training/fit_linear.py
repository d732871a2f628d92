"""Fit of the linear correction to practice cells of all training slides together, before the first step.

The correction is fitted to what the smoother of each slide leaves unexplained. Penalty and gain of each output are chosen on
practice cells that are held out, so that a correction which does not help there is left out: on cells of other slides if there
are several, since a correction that is used on other slides needs a higher penalty, else on other cells of the slide.

Letters: n practice cells, S scales, G genes that a training slide measures, P of a slide's panel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from cifm_cli import keys
from cifm_cli.model.linear_correction import Corrections, bounded, linear_errors
from cifm_cli.model.smoother import Smoother
from cifm_cli.model.surroundings import describe_surroundings, slide_of
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.reduced_ridge import ReducedRidge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.model.example import Example
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.training.corpus import TrainingSlide
    from cifm_cli.training.session import Session

logger = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # fractions of the total variance of the features
GAINS = (
    0.0,
    0.25,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
)  # of each output; zero leaves it out, and a high penalty may shrink too much
MAX_GROUPS = 4  # of slides, each left out in turn
MAX_ROWS, MAX_DUAL_ROWS = 15_000, 3_000  # practice cells; fewer if they are fewer than the features
MAX_VALUES = 2**28  # features and targets in memory, in total, 1 GiB
MAX_TILES = 400  # of a slide, where hardly any cell of a tile is masked
ROWS_PER_CELL = 2  # a cell may be masked several times, with other visible neighbours
VALIDATED_PART = 0.2  # validation cells, as a part of the number of training cells
MAX_CHOICE_GENES = 1_000  # genes that penalties are chosen on
NUM_OUTPUTS = len(Corrections._fields)


@dataclass(frozen=True)
class Practice:
    """Masked cells of a tile, and what the smoother of the slide predicts for them."""

    genes: Tensor  # (P,) vocabulary rows
    differences: Tensor  # (n, S, P) means around the cells minus those of the slide
    estimates: Corrections  # mean, logit of P(expressed) and logarithm of the composition of the smoother
    values: Tensor  # (n, P) true log-normalised expression
    counts: Tensor  # (n, P) true counts
    slide: SlideParameters  # parameters of the slide

    def __len__(self) -> int:
        """Number of cells, n."""
        return len(self.values)

    def losses(self, correction: Corrections) -> list[float]:
        """Mean squared error of the mean, and cross-entropies of P(expressed) and of the composition."""
        mean, logit, composition = (
            estimate + change for estimate, change in zip(self.estimates, correction, strict=True)
        )
        log = composition.log_softmax(1)
        return [
            float(functional.mse_loss(mean, self.values)),
            float(functional.binary_cross_entropy_with_logits(logit, (self.values > 0).float())),
            float(-(self.counts * log).sum() / self.counts.sum().clamp(min=1)),
        ]

    def take_genes(self, genes: Tensor) -> Practice:
        """Leave out genes whose vocabulary rows are not in `genes`."""
        kept = torch.isin(self.genes, genes)
        return replace(
            self,
            genes=self.genes[kept],
            differences=self.differences[:, :, kept],
            estimates=Corrections(*(estimate[:, kept] for estimate in self.estimates)),
            values=self.values[:, kept],
            counts=self.counts[:, kept],
        )


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
    group_of = slide_groups(corpus.slides)
    if len(set(group_of.values())) > 1:  # each group of slides is left out of the regression in turn
        validation = [
            (group_of[each.slide.name], tile)
            for each, tiles in zip(corpus.slides, training, strict=True)
            for tile in tiles
        ]
    else:
        validation_rows = int(VALIDATED_PART * max_rows) // len(corpus.validation_slides)
        validation = [
            (0, practice)
            for each in corpus.validation_slides
            for practice in draw_practice(session, each, keys.VALIDATION, validation_rows)
        ]
    features, targets = join_slides(training, genes, num_scales)
    group = np.repeat(
        [group_of[each.slide.name] for each in corpus.slides], [sum(map(len, tiles)) for tiles in training]
    )
    del training
    ridge = ReducedRidge(features, targets)
    penalties, gains = choose(ridge, group, validation, genes)
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
        wanted -= len(practice)
        tiles.append(practice)
    return tiles


@torch.no_grad()
def practise(example: Example, smoother: Smoother, max_rows: int) -> Practice:
    """Predict the masked cells of a tile by the smoother; at most `max_rows` of them."""
    slide = slide_of(example.tile)
    surroundings = describe_surroundings(example.tile, linear=None)
    mean, logit, composition, _ = smoother(surroundings.terms, surroundings.logarithms, slide, example.tile.genes)
    rows = slice(max_rows)
    return Practice(
        genes=example.tile.genes,
        differences=surroundings.differences[rows],
        estimates=Corrections(mean[rows], logit[rows], composition[rows]),
        values=example.target.values[rows],
        counts=example.target.counts[rows],
        slide=slide,
    )


def join_slides(
    slides: Sequence[Sequence[Practice]], genes: Tensor, num_scales: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features and targets of the regression. Slides weigh the same (Eq. 15), and each is centred on its own mean.

    Args:
        slides: The practice cells of each slide.
        genes: (G,) ascending vocabulary rows.
        num_scales: S.

    Returns:
        (N, S G) features and (N, 3 G) targets. Both are zero for a gene that the slide does not measure.
    """
    numbers = [sum(len(practice) for practice in tiles) for tiles in slides]
    features = torch.zeros(sum(numbers), num_scales, len(genes))
    targets = torch.zeros(sum(numbers), NUM_OUTPUTS, len(genes))
    first = 0
    for tiles, number in zip(slides, numbers, strict=True):
        rows = slice(first, first + number)
        mean_depth = max(sum(float(practice.counts.sum()) for practice in tiles) / max(number, 1), 1.0)
        for practice in tiles:
            last = first + len(practice)
            places = torch.searchsorted(genes, practice.genes)
            features[first:last, :, places] = practice.differences
            targets[first:last, :, places] = linear_errors(
                practice.values, practice.counts, practice.estimates, practice.slide, mean_depth
            )
            first = last
        # Rows of a slide have the total weight 1 / number of slides.
        weight = (len(features) / (len(slides) * max(number, 1))) ** 0.5
        for matrix in (features[rows], targets[rows]):
            matrix.sub_(matrix.mean(0)).mul_(weight)
    return features.flatten(1).numpy(), targets.flatten(1).numpy()


def slide_groups(slides: Sequence[TrainingSlide]) -> dict[str, int]:
    """Number of the group of each slide: slides of one sample are in one group, as they are alike.

    Where every slide is a sample of its own, neighbours in the order of their names are: sections of one block have similar
    names.
    """
    names = sorted(each.slide.name for each in slides)
    samples = {each.slide.name: str((each.slide.facts or {}).get(keys.SAMPLE) or each.slide.name) for each in slides}
    if len(set(samples.values())) == len(slides):
        size = -(-len(names) // min(MAX_GROUPS, max(1, len(names) // 2)))
        samples = {name: str(position // size) for position, name in enumerate(names)}
    numbers = {
        sample: number % MAX_GROUPS for number, sample in enumerate(dict.fromkeys(samples[name] for name in names))
    }
    return {each.slide.name: numbers[samples[each.slide.name]] for each in slides}


def choose(
    ridge: ReducedRidge,
    group: NDArray[np.int64],
    validation: Sequence[tuple[int, Practice]],
    genes: Tensor,
) -> tuple[list[float], list[float]]:
    """Penalty and gain of each output with the smallest loss on held-out cells.

    Args:
        ridge: The regression on the rows of all slides.
        group: (N,) group of the slide of each row.
        validation: Practice cells that no regression is fitted to, with the group of their slide.
        genes: (G,) vocabulary rows of the genes.

    Returns:
        Three penalties and three gains; the smaller gain if two are as good.
    """
    groups = np.unique(group)
    losses = np.zeros((len(PENALTIES), len(GAINS), NUM_OUTPUTS))
    for number in groups:
        own = [practice for of_group, practice in validation if of_group == number or len(groups) == 1]
        if own:
            losses += held_out_losses(ridge.leave_out(group == number) if len(groups) > 1 else ridge, own, genes)
    best = [np.unravel_index(losses[:, :, output].argmin(), losses.shape[:2]) for output in range(NUM_OUTPUTS)]
    return [PENALTIES[penalty] for penalty, _ in best], [GAINS[gain] for _, gain in best]


def held_out_losses(ridge: ReducedRidge, validation: Sequence[Practice], genes: Tensor) -> NDArray[np.float64]:
    """Losses on practice cells that a regression is not fitted to.

    Args:
        ridge: The regression.
        validation: The cells.
        genes: (G,) vocabulary rows of its genes.

    Returns:
        Losses for each of `PENALTIES`, each of `GAINS` and each output.
    """
    num_scales = validation[0].differences.shape[1]
    features = torch.zeros(sum(map(len, validation)), num_scales, len(genes))
    parts = np.cumsum([0, *map(len, validation)])
    for practice, first, last in zip(validation, parts, parts[1:], strict=False):
        known = practice.take_genes(genes)
        features[first:last, :, torch.searchsorted(genes, known.genes)] = known.differences
    # Every stride-th gene: a penalty is one number, and predictions of all genes take long.
    places = torch.arange(0, len(genes), -(-len(genes) // MAX_CHOICE_GENES))
    columns = torch.cat([output * len(genes) + places for output in range(NUM_OUTPUTS)]).numpy()
    measured = [practice.take_genes(genes[places]) for practice in validation]
    losses = np.zeros((len(PENALTIES), len(GAINS), NUM_OUTPUTS))
    matrix = features.flatten(1).numpy()
    similarities = ridge.similarities(matrix)
    for number, penalty in enumerate(PENALTIES):
        predicted = torch.from_numpy(ridge.predict(penalty, matrix, columns, similarities))
        predicted = predicted.view(len(features), NUM_OUTPUTS, len(places))
        for practice, first, last in zip(measured, parts, parts[1:], strict=False):
            own = torch.searchsorted(genes[places], practice.genes)
            full = bounded(*predicted[first:last, :, own].unbind(1))
            for position, gain in enumerate(GAINS):
                losses[number, position] += practice.losses(Corrections(*(gain * part for part in full)))
    return losses


def target_scales(targets: NDArray[np.float32], num_genes: int) -> NDArray[np.float32]:
    """(3 G,) units in which errors of outputs are comparable.

    Each output counts the same. Within a composition, a relative error counts less in a rare gene, as in the likelihood.
    """
    variance = np.mean(np.square(targets), axis=0, dtype=np.float64).reshape(NUM_OUTPUTS, num_genes)
    usual = variance.mean(axis=1, keepdims=True)
    scales = np.sqrt(np.repeat(usual, num_genes, axis=1))
    # The variance of the logarithm of a fraction is about proportional to 1 / fraction.
    scales[-1] = np.sqrt(variance[-1] + 1e-3 * usual[-1])
    return np.asarray(np.maximum(scales, 1e-9), dtype=np.float32).ravel()
