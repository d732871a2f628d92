"""Fit of the readout of embeddings, after the last step, to a sample of the training cells of all slides.

Every slide has the same weight, and is centred on its own mean expression. Cells outside the training regions are not read.

Letters: n sampled cells, G genes of the vocabulary, C components of a code, Q clusterings of K states, D width, F features of a
readout.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.tiles import chunks
from cifm_cli.inference.adaptation.practice import stats_of
from cifm_cli.inference.adaptation.slide_adaptation import SlideAdaptation
from cifm_cli.inference.encode import encode_features
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.model.readout import Readout
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.training.corpus import Corpus, TrainingSlide

    Numbers = NDArray[np.float64]
    Values = NDArray[np.float32]

MAX_CELLS = 20_000  # sampled cells of all slides together
PIECE_CELLS = 256  # consecutive cells that are sampled together: the cells around them are read too
COMPONENTS = 100  # of a code
# Of them, those that tell single cells and their closest neighbours apart: the rest is mostly noise there, and carries
# information only in means over many cells.
LEADING_COMPONENTS = 40
CLUSTERINGS = 4  # from different starts: fractions of states of one clustering alone transfer less well to other tissue
STATES = 40  # of each
CELLS_PER_STATE = 20  # at least, so that small tissues have few states
RESTARTS = 3  # of k-means
BATCH_CELLS = 4_096  # of mini-batch k-means
RADII = (1.0, 2.5, 5.0)  # in radii of the graph; docs/embedding.md compares them
# Total variance of the features of the encoder, of the code, and of what is around a cell within each radius. Wide means vary
# least over the tissue, and would have no part in the leading components without a larger weight.
ENCODER_WEIGHT, CODE_WEIGHT, RADIUS_WEIGHTS = 0.5, 0.5, (0.5, 1.0, 3.0)
MAX_CENTRES = 2_000  # cells of a slide whose distances to all others are measured
RADIUS_COMPONENTS = (LEADING_COMPONENTS, COMPONENTS, COMPONENTS)  # of the mean code within each radius
MAX_DENSE_GENES = 2_000  # up to which the covariance of the genes is computed
OVERSAMPLING, ITERATIONS = 20, 6  # of the subspace iteration for more genes


class _Features(NamedTuple):
    """Weighted moments of the features of one level."""

    mean: Numbers  # (F,)
    covariance: Numbers  # (F, F)


@dataclass(frozen=True)
class _SampledSlide:
    """The sampled cells of one slide."""

    model: LoadedModel  # the model for this slide
    training_slide: TrainingSlide
    cores: list[Rows]  # pieces of its training region
    mean: Values  # (P,) mean expression of the region
    expression: csr_matrix  # (n, G) log-normalised expression of those of the sampled cells that have counts


def fit_readout(model: LoadedModel, corpus: Corpus, seed: int) -> Readout:
    """Fit the readout of a trained model.

    Args:
        model: The model as trained.
        corpus: The slides of its training.
        seed: Seed of the sample, the states and the rotation.

    Returns:
        The readout.
    """
    max_cells = max(1, MAX_CELLS // len(corpus.slides))
    sampled = [
        _sample(model, each, max_cells, numpy_generator(seed, "readout", number))
        for number, each in enumerate(corpus.slides)
    ]
    loadings = fit_loadings([(each.expression, _on_vocabulary(each)) for each in sampled])
    mean = _mean_expression(sampled, len(corpus.vocabulary))
    width = model.checkpoint.recipe.model.width
    num_alone = width + loadings.shape[1]
    states = _fit_states([each.expression @ loadings - _on_vocabulary(each) @ loadings for each in sampled], seed)
    num_states = states.shape[0] * states.shape[1]
    num_features = num_alone + len(RADII) * (loadings.shape[1] + num_states)
    start = Readout(
        mean=mean,
        loadings=loadings,
        states=states,
        radii=np.array(RADII, np.float32),
        centre=np.zeros(num_features, np.float32),
        projection=np.zeros((num_features, 0), np.float32),
        cell_centre=np.zeros(num_alone, np.float32),
        cell_projection=np.zeros((num_alone, 0), np.float32),
    )
    among, alone = _measure(sampled, start)
    blocks = [(width, ENCODER_WEIGHT), *_code_blocks(loadings.shape[1], LEADING_COMPONENTS, CODE_WEIGHT)]
    around: list[tuple[int, float]] = []
    for number, weight in zip(RADIUS_COMPONENTS, radius_weights(list(map(_places, sampled))), strict=True):
        around += [*_code_blocks(loadings.shape[1], number, weight), (num_states, weight)]
    rotation = np.linalg.qr(numpy_generator(seed, "rotation").normal(size=(width, width)))[0]
    return replace(
        start,
        centre=among.mean.astype(np.float32),
        projection=_project(among.covariance, [*blocks, *around], rotation),
        cell_centre=alone.mean.astype(np.float32),
        cell_projection=_project(alone.covariance, blocks, rotation),
    )


def radius_weights(places: Sequence[Numbers]) -> Numbers:
    """Reduce the weights of radii whose circles hold much of the tissue.

    `RADIUS_WEIGHTS` make up for the small variance of means over many cells. On a section of a few circles, the circles of most
    cells overlap: their means vary little because they share cells, and with a large weight they tell sections and halves of
    sections apart rather than microenvironments.

    Args:
        places: (n, 2) positions of the cells of each slide, in radii of the graph.

    Returns:
        (R,) `RADIUS_WEIGHTS` times the fraction of the pairs of cells of a slide whose circles do not overlap.
    """
    return np.asarray(np.array(RADIUS_WEIGHTS) * np.mean([_fraction_apart(each) for each in places], axis=0))


def _fraction_apart(places: Numbers) -> Numbers:
    """(R,) fraction of the pairs of cells that are more than two radii apart; 1 without pairs."""
    if len(places) < 2:
        return np.ones(len(RADII))
    # Cells of a slide are in Hilbert order, so that every k-th of them is spread over the tissue.
    centres, tree = places[:: -(-len(places) // MAX_CENTRES)], cKDTree(places)
    near = [tree.query_ball_point(centres, 2 * radius, return_length=True).mean() - 1 for radius in RADII]
    return 1 - np.array(near) / (len(places) - 1)


def _places(each: _SampledSlide) -> Numbers:
    """(n, 2) positions of the cells of the training region that have counts, in radii of the graph."""
    slide, rows = each.training_slide.slide, each.training_slide.tilers[keys.TRAIN].rows
    return np.asarray(slide.xy_um[rows[slide.total_counts[rows] > 0]] / slide.radius_um)


def _code_blocks(num_components: int, number: int, weight: float) -> list[tuple[int, float]]:
    """Sizes and weights of the leading components of a code, which are used, and of the others, which are not."""
    used = min(number, num_components)
    return [(used, weight), (num_components - used, 0.0)]


def _sample(model: LoadedModel, each: TrainingSlide, max_cells: int, generator: np.random.Generator) -> _SampledSlide:
    """Draw pieces of the training region of a slide, and centre the model on the region."""
    recipe, slide, rows = model.checkpoint.recipe, each.slide, each.tilers[keys.TRAIN].rows
    totals = each.totals or sum_genes(slide, rows, each.panel, recipe.data.target_sum)
    pooled = model.checkpoint.network.pooled
    if pooled:
        parameters = pooled.parameters_of(each.genes).with_profiles(totals.profiles()).to(model.device)
        model = replace(model, adaptation=SlideAdaptation(parameters, stats_of(totals), None, {}))
    pieces = list(chunks(rows, min(PIECE_CELLS, max_cells)))
    number = min(len(pieces), -(-max_cells // PIECE_CELLS))
    cores = [pieces[piece] for piece in np.sort(generator.choice(len(pieces), number, replace=False))]
    drawn = np.concatenate(cores)
    drawn = drawn[slide.total_counts[drawn] > 0]
    block = slide.expression(drawn, recipe.data.target_sum)[:, each.panel.columns].tocsr()
    genes = each.panel.vocabulary_rows[block.indices]
    expression = csr_matrix((block.data, genes, block.indptr), (len(drawn), len(model.checkpoint.vocabulary)))
    return _SampledSlide(model, each, cores, totals.profiles().mean.numpy(), expression)


def _on_vocabulary(each: _SampledSlide) -> Values:
    """(G,) mean expression on a slide; zero for genes that it does not measure."""
    mean = np.zeros(each.expression.shape[1], np.float32)
    mean[each.training_slide.panel.vocabulary_rows] = each.mean
    return mean


def _mean_expression(sampled: Sequence[_SampledSlide], num_genes: int) -> Values:
    """(G,) mean over the slides that measure a gene; zero if none does."""
    number = np.zeros(num_genes)
    for each in sampled:
        number[each.training_slide.panel.vocabulary_rows] += 1
    total = np.sum([_on_vocabulary(each) for each in sampled], axis=0, dtype=np.float64)
    return np.asarray(total / np.maximum(number, 1), dtype=np.float32)


def fit_loadings(slides: Sequence[tuple[csr_matrix, Values]]) -> Values:
    """Find the principal components of the expression of several slides, each centred and with the same weight.

    Args:
        slides: (n, G) log-normalised expression of cells of each slide, and (G,) its mean.

    Returns:
        (G, C) orthonormal loadings; C is `COMPONENTS`, or fewer for few genes.
    """
    num_genes = slides[0][0].shape[1]
    number = min(COMPONENTS, num_genes)
    if num_genes <= MAX_DENSE_GENES:
        covariance = np.zeros((num_genes, num_genes))
        for expression, mean in slides:
            exact, num_cells = expression.astype(np.float64), max(expression.shape[0], 1)
            centre, average = mean.astype(np.float64), np.asarray(exact.sum(axis=0)).ravel() / num_cells
            covariance += (exact.T @ exact).toarray() / num_cells
            covariance += np.outer(centre, centre) - np.outer(centre, average) - np.outer(average, centre)
        vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :number]
    else:
        vectors = _large_components(slides, number)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _large_components(slides: Sequence[tuple[csr_matrix, Values]], number: int) -> Numbers:
    """(G, C) leading components, by subspace iteration (Halko et al. 2011) on expression that is never made dense."""
    roots = [np.full(x.shape[0], max(x.shape[0], 1) ** -0.5) for x, _ in slides]
    scaled = [diags(root) @ x for root, (x, _) in zip(roots, slides, strict=True)]
    stacked = vstack(scaled, format="csr").astype(np.float64)
    centres = np.stack([mean for _, mean in slides]).astype(np.float64)
    owner, root = np.repeat(np.arange(len(slides)), list(map(len, roots))), np.concatenate(roots)
    member = csr_matrix((root, (np.arange(len(root)), owner)), (len(root), len(slides)))
    transposed, by_slide = stacked.T.tocsr(), member.T.tocsr()

    def centred(vectors: Numbers) -> Numbers:
        """Multiply the centred and scaled expression by (G, k) vectors."""
        return np.asarray(stacked @ vectors - member @ (centres @ vectors))

    num_vectors = min(number + OVERSAMPLING, stacked.shape[1])
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(stacked.shape[1], num_vectors)))[0]
    for _ in range(ITERATIONS):
        product = centred(vectors)
        vectors = np.linalg.qr(transposed @ product - centres.T @ (by_slide @ product))[0]
    product = centred(vectors)
    return np.asarray(vectors @ np.linalg.eigh(product.T @ product)[1][:, ::-1][:, :number])


def _fit_states(codes: Sequence[Values], seed: int) -> Values:
    """(Q, K, C) centres of clusters of cells by their leading components, where every slide has the same weight.

    The centres are zero in the other components, in which cells are then equally far from all of them.
    """
    # Imported here, because scikit-learn takes a second to import.
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    cells = np.concatenate(codes)[:, :LEADING_COMPONENTS]
    weights = np.concatenate([np.full(len(each), 1 / max(len(each), 1)) for each in codes])
    number = max(1, min(STATES, len(cells) // CELLS_PER_STATE))
    if len(cells) == 0:
        return np.zeros((CLUSTERINGS, 1, codes[0].shape[1]), np.float32)
    states = []
    for random_state in numpy_generator(seed, "readout states").integers(2**31, size=CLUSTERINGS).tolist():
        clustering = MiniBatchKMeans(number, n_init=RESTARTS, batch_size=BATCH_CELLS, random_state=random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct cells than clusters
            clustering.fit(cells, sample_weight=weights * len(cells) / weights.sum())
        states.append(clustering.cluster_centers_)
    num_others = codes[0].shape[1] - cells.shape[1]
    return np.pad(np.asarray(states, dtype=np.float32), ((0, 0), (0, 0), (0, num_others)))


def _measure(sampled: Sequence[_SampledSlide], readout: Readout) -> tuple[_Features, _Features]:
    """Moments of the features of microenvironments and of cells."""
    sums: dict[Level, list[tuple[Numbers, Numbers]]] = {"microenvironment": [], "cell": []}
    for each in sampled:
        model = replace(each.model, checkpoint=replace(each.model.checkpoint, readout=readout))
        slide, rows = each.training_slide.slide, each.training_slide.tilers[keys.TRAIN].rows
        blocks = list(encode_features(model, slide, ["microenvironment", "cell"], each.cores, rows))
        kept = slide.total_counts[np.concatenate([block.rows for block in blocks])] > 0
        for level, pairs in sums.items():
            x = np.concatenate([block.features[level] for block in blocks])[kept].astype(np.float64)
            number = max(len(x), 1)
            pairs.append((x.sum(axis=0) / number, x.T @ x / number))
    return _moments(sums["microenvironment"]), _moments(sums["cell"])


def _moments(pairs: Sequence[tuple[Numbers, Numbers]]) -> _Features:
    """Mean and covariance over slides of the same weight."""
    mean = np.mean([first for first, _ in pairs], axis=0)
    second = np.mean([second for _, second in pairs], axis=0)
    return _Features(mean, second - np.outer(mean, mean))


def _project(covariance: Numbers, blocks: Sequence[tuple[int, float]], rotation: Numbers) -> Values:
    """Find the projection of features onto rotated principal components.

    Args:
        covariance: (F, F) of the features.
        blocks: Size and weight of each block of features: blocks are scaled to a total variance of this weight.
        rotation: (D, D).

    Returns:
        (F, D); the mean variance of a dimension is 1.
    """
    scale, first = np.zeros(len(covariance)), 0
    for size, weight in blocks:
        total = np.trace(covariance[first : first + size, first : first + size])
        scale[first : first + size] = (weight / total) ** 0.5 if total > 0 else 0.0
        first += size
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    width = len(rotation)
    kept, leading = values[::-1][:width].clip(min=0), vectors[:, ::-1][:, :width]
    unit = (width / kept.sum()) ** 0.5 if kept.sum() > 0 else 0.0
    return np.asarray(unit * scale[:, None] * leading @ rotation, dtype=np.float32)
