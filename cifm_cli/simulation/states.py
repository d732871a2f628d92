"""Cell states: draw the state that stands at a place, and then one of the tissue's own cells of that state.

A predicted mean belongs to no cell: between a tumour nest and a T cell it is half of either. Genes drawn from it one by
one give cells of no type, and within one sweep half of a tissue is `unassigned`. So an updated cell draws a state, and
then one of the untouched tissue's real cells of that state, brought to its own depth.

A model that infers states says how likely each is; some cells are masked and predicted, and the probabilities weighed such
that on average each state is as frequent as it is in this tissue. For a model that does not, the tissue's cells are sorted (k-means on
principal components), some are masked and predicted, and a logistic regression learns the probability of each state
given the prediction. All of it is fitted once, before anything is injected.

Letters: N cells of the untouched tissue, Q updated cells, P genes, K states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cifm_cli.inference.predict import predict_cells
from cifm_cli.model.masking import to_expression
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.sampling import draw_one, settle
from cifm_cli.statistics.clustering import cluster_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.model.states import CellStates

MOST_STATES: Final = 40
CELLS_PER_STATE: Final = 50  # at least, so that small tissues have few states
COMPONENTS: Final = 30  # principal components that states are told by
FEATURES: Final = 20  # principal components of the predictions that they are read from
ROUNDS: Final = 5  # times that a share of the cells is masked and predicted to learn from
STIFFNESS: Final = 0.05  # inverse strength of the regression's penalty
BALANCING: Final = 100  # steps in which the weights of the states settle
NEAREST: Final = 20  # deeper cells of a state, from the cell's depth on, of which one is drawn


@dataclass(frozen=True)
class States:
    """The states of a tissue, and how to read them off predictions.

    Args:
        counts: (N, P) counts of the untouched tissue.
        depths: (N,) sum of each cell.
        members: Cells of each state, by depth.
        reader: From predicted means, (Q, P), to probabilities of the states; absent where the model infers them.
        balance: (K,) weight of each state that the model infers.
    """

    counts: csr_matrix
    depths: NDArray[np.int64]
    members: list[Rows]
    reader: Pipeline | None = None
    balance: NDArray[np.float64] | None = None

    def draw(
        self, prediction: Prediction, depths: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw cells.

        Args:
            prediction: Of Q cells.
            depths: (Q,) what the counts of each cell sum to.
            generator: Source of randomness; used up.

        Returns:
            (Q, P) counts.
        """
        state = draw_one(self._probability(prediction), generator)
        donors = self._donors(state, depths, generator.random(len(state)))
        counts = self.counts[donors].toarray().astype(np.int64)
        copies = np.maximum(depths // self.depths[donors], 1)  # a shallow donor is taken several times over
        return settle(counts * copies[:, None], counts.astype(np.float64), depths, generator)

    def _probability(self, prediction: Prediction) -> NDArray[np.float64]:
        """(Q, K) of the states; none for a state of which the tissue has no cell."""
        if self.balance is not None and prediction.states is not None:
            return np.asarray(np.maximum(prediction.states, np.finfo(np.float32).tiny) * self.balance)
        if self.reader is None:
            raise ValueError("neither the model nor a reader tells the states")
        probability = np.zeros((len(prediction.mean), len(self.members)))
        probability[:, self.reader.classes_] = self.reader.predict_proba(prediction.mean)
        return probability

    def _donors(self, state: Rows, depths: NDArray[np.int64], uniform: NDArray[np.float64]) -> Rows:
        """One cell of each state asked for, a little deeper than asked for where there is one."""
        donors = np.empty(len(state), dtype=np.int64)
        for number in np.unique(state):
            asked, pool = np.flatnonzero(state == number), self.members[number]
            first = np.minimum(np.searchsorted(self.depths[pool], depths[asked]), max(len(pool) - NEAREST, 0))
            donors[asked] = pool[first + (uniform[asked] * min(NEAREST, len(pool))).astype(np.int64)]
        return donors


def fit_states(engine: LoadedModel, tissue: Slide, share: float, seed: int) -> States:
    """Sort the cells of an untouched tissue into states, the model's own where it has some.

    Args:
        engine: The model.
        tissue: All cells that exist, with genes that the model knows.
        share: Share of the cells masked at once, as in the simulation.
        seed: The user's seed.

    Returns:
        The states.
    """
    everyone = np.arange(tissue.num_cells)
    counts = csr_matrix(tissue.counts(everyone))
    depths = np.rint(np.asarray(counts.sum(axis=1)).ravel()).astype(np.int64)
    alive = np.flatnonzero(depths > 0)
    expression = tissue.expression(alive, engine.checkpoint.recipe.data.target_sum)
    state = np.full(tissue.num_cells, -1, dtype=np.int64)
    by_depth = alive[np.argsort(depths[alive], kind="stable")]
    states = engine.cell_states
    if states is not None:
        state[alive], num_states = _own_states(engine, tissue, expression, states), len(states.profiles)
    else:
        state[alive] = _sort_into_states(expression, seed)
        num_states = int(state.max()) + 1
    members = [by_depth[state[by_depth] == number] for number in range(num_states)]
    masks = [_mask(alive, share, seed, number) for number in range(ROUNDS)]
    found = [predict_cells(engine, tissue, everyone, masked) for masked in masks]
    inferred = [prediction.states for prediction in found if prediction.states is not None]
    if inferred:
        frequency = np.array([len(pool) for pool in members]) / len(alive)
        return States(counts, depths, members, balance=_balance(np.concatenate(inferred), frequency))
    reader = _fit_reader(np.concatenate([one.mean for one in found]), state[np.concatenate(masks)], seed)
    return States(counts, depths, members, reader)


def _own_states(engine: LoadedModel, tissue: Slide, expression: csr_matrix, states: CellStates) -> NDArray[np.int64]:
    """State of every cell, by the model's profiles."""
    genes = torch.from_numpy(engine.panel(tissue).vocabulary_rows).to(engine.device)
    cells = to_expression(expression, genes.cpu().numpy(), torch.float32).to(engine.device)
    return np.asarray(states.assign_states(cells, genes).cpu().numpy())


def _balance(probability: NDArray[np.float32], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the states with which their mean probability is their frequency, found step by step.

    Args:
        probability: (Q, K) inferred for masked cells.
        frequency: (K,) of the tissue's own cells; a state without any gets no weight.

    Returns:
        (K,).
    """
    weight = (frequency > 0).astype(np.float64)
    for _ in range(BALANCING):
        weighed = np.maximum(probability, np.finfo(np.float32).tiny) * weight
        mean = (weighed / weighed.sum(axis=1, keepdims=True)).mean(axis=0)
        weight *= np.divide(frequency, mean, out=np.zeros_like(mean), where=mean > 0)
    return weight


def _mask(cells: Rows, share: float, seed: int, number: int) -> Rows:
    size = max(1, round(share * len(cells)))
    return np.sort(numpy_generator(seed, "states", number).choice(cells, size, replace=False))


def _sort_into_states(expression: csr_matrix, seed: int) -> NDArray[np.int64]:
    """State of every cell, by k-means on principal components; every state has a cell."""
    num_states = int(np.clip(expression.shape[0] // CELLS_PER_STATE, 1, MOST_STATES))
    number = int(numpy_generator(seed, "states").integers(2**31))
    found = cluster_cells(expression, num_states, num_components=COMPONENTS, seed=number, restarts=3, batch_size=4096)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def _fit_reader(means: NDArray[np.float32], state: NDArray[np.int64], seed: int) -> Pipeline:
    """Learn P(state | prediction) on predictions of masked cells."""
    from sklearn.decomposition import PCA
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(np.unique(state)) == 1:
        return make_pipeline(DummyClassifier()).fit(means, state)
    number = int(numpy_generator(seed, "reader").integers(2**31))
    features = PCA(min(FEATURES, *means.shape), whiten=True, svd_solver="full", random_state=number)
    return make_pipeline(features, LogisticRegression(C=STIFFNESS, max_iter=500)).fit(means, state)
