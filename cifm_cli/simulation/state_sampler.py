"""Cell states: an updated cell becomes a real cell of a state that is drawn from the predicted probabilities.

A predicted mean is the profile of no real cell: between a tumour nest and T cells it is the average of both. Cells
whose genes are drawn from it one by one have no clear type, and after one sweep half of a tissue is `unassigned`.
Therefore a state is drawn for each updated cell, the counts of a cell of that state are copied from the tissue before
any edit, and these counts are brought to the depth of the updated cell.

A model with cell states of its own predicts their probabilities. Some cells are masked and predicted, and the
probabilities are reweighted so that on average each state is as frequent as in this tissue. For a model without states,
the cells of the tissue are clustered (k-means on principal components), and a logistic regression is fitted that maps
the predictions of masked cells to their clusters. Both are fitted once, before any edit.

Letters: N cells of the tissue before any edit, Q updated cells, P genes, K states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cifm_cli.inference.predict import predict_cells
from cifm_cli.model.masking import to_expression
from cifm_cli.model.states import assign_states
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.sampling import draw_category, match_depths
from cifm_cli.statistics.clustering import cluster_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.model.slide_parameters import SlideParameters

MAX_CLUSTERS: Final = 40
MIN_CELLS_PER_CLUSTER: Final = 50  # on average; small tissues get fewer clusters
CLUSTER_COMPONENTS: Final = 30  # principal components that are clustered
CLASSIFIER_COMPONENTS: Final = 20  # principal components of the predictions that the classifier uses
MASKED_SAMPLES: Final = 5  # samples of cells that are masked and predicted to fit the probabilities
CLASSIFIER_C: Final = 0.05  # inverse strength of the L2 penalty
REWEIGHTING_STEPS: Final = 100
CANDIDATES: Final = 20  # cells of a state, from the depth of the updated cell upwards, of which one is copied


@dataclass(frozen=True)
class StateSampler:
    """Draws cells of the states that a prediction makes probable."""

    counts: csr_matrix  # (N, P) counts of the tissue before any edit
    depths: NDArray[np.int64]  # (N,) row sums
    members: list[Rows]  # K arrays of rows, the cells of each state in order of depth
    # maps (Q, P) predicted means to probabilities of the states; None if the model predicts them
    classifier: Pipeline | None = None
    # (K,) factors of the probabilities that the model predicts; None if it does not
    weights: NDArray[np.float64] | None = None

    def draw(
        self, prediction: Prediction, depths: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw counts for some cells.

        Args:
            prediction: Prediction of Q cells.
            depths: (Q,) row sums of the result.
            generator: Source of randomness; do not use it afterwards.

        Returns:
            (Q, P) counts.
        """
        states = draw_category(self.probability(prediction), generator)
        return self.copy_cells(states, depths, generator.random(len(states)), generator)

    @cached_property
    def state(self) -> NDArray[np.int64]:
        """(N,) state of each cell of the tissue; -1 for a cell without counts."""
        state = np.full(len(self.depths), -1, dtype=np.int64)
        for number, cells in enumerate(self.members):
            state[cells] = number
        return state

    def copy_cells(
        self,
        states: NDArray[np.int64],
        depths: NDArray[np.int64],
        uniform: NDArray[np.float64],
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Copy a cell of a state for each of some cells, and bring its counts to their depth.

        Args:
            states: (Q,) states that have cells in the tissue.
            depths: (Q,) row sums of the result.
            uniform: (Q,) random numbers in [0, 1), by which the copied cells are chosen.
            generator: Source of randomness; do not use it afterwards.

        Returns:
            (Q, P) counts.
        """
        templates = self._choose_templates(states, depths, uniform)
        counts = self.counts[templates].toarray().astype(np.int64)
        # A template with few counts is multiplied first, so that fewer counts have to be added at random.
        factor = np.maximum(depths // self.depths[templates], 1)
        return match_depths(counts * factor[:, None], counts.astype(np.float64), depths, generator)

    def probability(self, prediction: Prediction) -> NDArray[np.float64]:
        """(Q, K) weights of the states, up to a factor per row; zero for a state without cells in the tissue."""
        if self.weights is not None and prediction.states is not None:
            return np.asarray(np.maximum(prediction.states, np.finfo(np.float32).tiny) * self.weights)
        if self.classifier is None:
            raise ValueError("neither the model nor a classifier gives probabilities of the states")
        # The classifier knows only the clusters of the masked samples; the others keep probability zero.
        probability = np.zeros((len(prediction.mean), len(self.members)))
        probability[:, self.classifier.classes_] = self.classifier.predict_proba(prediction.mean)
        return probability

    def _choose_templates(self, states: Rows, depths: NDArray[np.int64], uniform: NDArray[np.float64]) -> Rows:
        """(Q,) rows of cells of the drawn states, slightly deeper than `depths` where there are such cells."""
        templates = np.empty(len(states), dtype=np.int64)
        # One random number per cell, whatever its state, so that both arms of a simulation use the same ones.
        for state in np.unique(states):
            cells, members = np.flatnonzero(states == state), self.members[state]
            deep_enough = np.searchsorted(self.depths[members], depths[cells])
            # Deeper templates lose counts at random, which is thinning; shallower ones would need additional counts.
            first = np.minimum(deep_enough, max(len(members) - CANDIDATES, 0))
            templates[cells] = members[first + (uniform[cells] * min(CANDIDATES, len(members))).astype(np.int64)]
        return templates


def fit_state_sampler(model: LoadedModel, tissue: Slide, update_fraction: float, seed: int) -> StateSampler:
    """Assign the cells of a tissue to states: the model's own states, or clusters if it has none.

    Args:
        model: The model.
        tissue: The residents, with the genes that the model knows.
        update_fraction: Fraction of the cells that is masked at once, as in the simulation.
        seed: Seed of all random draws.

    Returns:
        The states.
    """
    all_cells = np.arange(tissue.num_cells)
    counts = csr_matrix(tissue.counts(all_cells))
    depths = np.rint(np.asarray(counts.sum(axis=1)).ravel()).astype(np.int64)
    # A cell without counts has no state and is no template.
    expressing = np.flatnonzero(depths > 0)
    expression = tissue.expression(expressing, model.checkpoint.recipe.data.target_sum)
    state = np.full(tissue.num_cells, -1, dtype=np.int64)
    # Sorted once here, as `_choose_templates` searches by depth.
    by_depth = expressing[np.argsort(depths[expressing], kind="stable")]
    parameters = model.slide_parameters(tissue)
    if parameters is not None:
        state[expressing], num_states = _states_of_model(expression, parameters), parameters.num_states
    else:
        state[expressing] = _cluster(expression, seed)
        num_states = int(state.max()) + 1
    members = [by_depth[state[by_depth] == number] for number in range(num_states)]
    samples = [_sample_cells(expressing, update_fraction, seed, number) for number in range(MASKED_SAMPLES)]
    predictions = [predict_cells(model, tissue, all_cells, masked) for masked in samples]
    probabilities = [prediction.states for prediction in predictions if prediction.states is not None]
    if probabilities:
        frequency = np.array([len(cells) for cells in members]) / len(expressing)
        return StateSampler(counts, depths, members, weights=_fit_weights(np.concatenate(probabilities), frequency))
    means = np.concatenate([prediction.mean for prediction in predictions])
    return StateSampler(counts, depths, members, _fit_classifier(means, state[np.concatenate(samples)], seed))


def _states_of_model(expression: csr_matrix, parameters: SlideParameters) -> NDArray[np.int64]:
    """(N,) the model's state of every cell."""
    profiles = parameters.state_profiles
    # States are assigned by the genes of the panel, whatever their rows in the vocabulary.
    cells = to_expression(expression, np.arange(parameters.num_genes), torch.float32).to(profiles.device)
    return np.asarray(assign_states(cells, profiles).cpu().numpy())


def _fit_weights(probability: NDArray[np.float32], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit weights of the states, such that the mean of the reweighted probabilities is the frequency, by iteration.

    Args:
        probability: (Q, K) predicted for masked cells.
        frequency: (K,) of the cells of the tissue; a state with frequency zero gets the weight zero.

    Returns:
        (K,) weights.
    """
    # Each step multiplies a weight by the ratio of the frequency to the mean probability so far.
    weights = (frequency > 0).astype(np.float64)
    for _ in range(REWEIGHTING_STEPS):
        # Probabilities that underflowed to zero would make rows of zeros.
        weighted = np.maximum(probability, np.finfo(np.float32).tiny) * weights
        mean = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
        weights *= np.divide(frequency, mean, out=np.zeros_like(mean), where=mean > 0)
    return weights


def _sample_cells(cells: Rows, fraction: float, seed: int, number: int) -> Rows:
    """A random sample of some cells, ascending."""
    size = max(1, round(fraction * len(cells)))
    return np.sort(numpy_generator(seed, "states", number).choice(cells, size, replace=False))


def _cluster(expression: csr_matrix, seed: int) -> NDArray[np.int64]:
    """(N,) cluster of every cell, by k-means on principal components; no cluster is empty."""
    num_clusters = int(np.clip(expression.shape[0] // MIN_CELLS_PER_CLUSTER, 1, MAX_CLUSTERS))
    clusters = cluster_cells(
        expression,
        num_clusters,
        num_components=CLUSTER_COMPONENTS,
        seed=int(numpy_generator(seed, "states").integers(2**31)),
        restarts=3,
        batch_size=4096,
    )
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def _fit_classifier(means: NDArray[np.float32], cluster: NDArray[np.int64], seed: int) -> Pipeline:
    """Fit P(cluster | prediction) to the predictions of masked cells."""
    from sklearn.decomposition import PCA
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # A logistic regression needs at least two classes.
    if len(np.unique(cluster)) == 1:
        return make_pipeline(DummyClassifier()).fit(means, cluster)
    state = int(numpy_generator(seed, "reader").integers(2**31))
    components = PCA(min(CLASSIFIER_COMPONENTS, *means.shape), whiten=True, svd_solver="full", random_state=state)
    return make_pipeline(components, LogisticRegression(C=CLASSIFIER_C, max_iter=500)).fit(means, cluster)
