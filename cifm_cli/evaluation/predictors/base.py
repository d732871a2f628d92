"""The interface of predictors, and its implementations for models and for baselines.

The leak rule: no prediction depends, in any bit, on the counts of hidden or withheld cells; only their places may be used.
A `Baseline` is given nothing else. `tests/properties/test_leak_laws.py` checks every predictor in every geometry.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy as np

from cifm_cli.evaluation.adaptation import adapted_model
from cifm_cli.evaluation.folds import hidden_rows
from cifm_cli.inference.predict import predict_cells
from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.examples import TrainingFolds
    from cifm_cli.evaluation.folds import Fold
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells

MODEL = "model"
# A constant and random draws. They show where a measure rewards one or the other; a model that such a baseline outdoes is not
# worse for it, so none of them is ever the best baseline.
UNINFORMED = frozenset({"uniform", "bernoulli", "zeros"})
Parameters = dict[str, float]
"""Hyper-parameters of a predictor by name."""


class Baseline(ABC):
    """A predictor that a model must outperform, with the conventions of scikit-learn's estimators.

    Hyper-parameters are arguments of the constructor and attributes of the same names; what `fit` learns is stored in
    attributes whose names end with an underscore. Installed packages add baselines through the entry points
    `cifm.baselines`; the evaluation creates them without arguments.
    """

    name: ClassVar[str]

    def parameter_grid(self) -> Sequence[Parameters]:
        """Hyper-parameters to choose from; `fit` is called once for all of them."""
        return [{}]

    def fit(self, examples: TrainingFolds) -> Self:
        """Learn from training cells that were hidden as the scored cells are.

        Args:
            examples: Iterates over `Example`s. Nothing in them depends on a scored cell.

        Returns:
            Itself.
        """
        del examples
        return self

    def set_params(self, **parameters: float) -> Self:
        """Set hyper-parameters by name."""
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    @abstractmethod
    def predict(self, visible: VisibleCells, xy_um: NDArray[np.float64]) -> Prediction:
        """Predict cells from the visible cells around them.

        Args:
            visible: The visible cells.
            xy_um: (Q, 2) places of the cells to predict, micrometres.

        Returns:
            (Q, P) mean and P(expressed), which is usually the fraction of neighbours that express the gene; and a
            composition of the counts where the baseline has one.
        """


class Predictor(Protocol):
    """Predicts the hidden cells of a fold, from the visible cells and the places of the hidden ones alone."""

    @property
    def name(self) -> str:
        """Key in the results."""
        ...

    def parameter_grid(self) -> Sequence[Parameters]:
        """Hyper-parameters to choose from on the tuning folds."""
        ...

    def predict(self, dataset: EvaluationDataset, fold: Fold, parameters: Parameters) -> Prediction:
        """Predict the hidden cells of a fold from its visible cells.

        Args:
            dataset: The slide.
            fold: The fold.
            parameters: Of `parameter_grid`.

        Returns:
            (Q, P) in the order of `fold.hidden`.
        """
        ...


@dataclass(frozen=True)
class BaselinePredictor:
    """A baseline, fitted on the training examples of each fold."""

    baseline: Baseline  # unfitted; it stays as it is

    @property
    def name(self) -> str:
        """Name of the baseline."""
        return self.baseline.name

    def parameter_grid(self) -> Sequence[Parameters]:
        """See `Predictor`."""
        return self.baseline.parameter_grid()

    def predict(self, dataset: EvaluationDataset, fold: Fold, parameters: Parameters) -> Prediction:
        """See `Predictor`."""
        visible = dataset.visible_cells(fold)
        fitted = dataset.training_folds(fold).fitted(self.baseline).set_params(**parameters)
        return fitted.predict(visible, dataset.slide.xy_um[fold.hidden])


@dataclass(frozen=True)
class ModelPredictor:
    """A trained model, at its own radius."""

    name: str  # `model`, or `model:RUN` for those after the first
    model: LoadedModel
    adapt: str = "none"  # `slide`: adapted to the slide, from the cells that baselines learn from

    def parameter_grid(self) -> Sequence[Parameters]:
        """A model has no hyper-parameters; only the threshold of its gate is tuned."""
        return [{}]

    def predict(self, dataset: EvaluationDataset, fold: Fold, _parameters: Parameters) -> Prediction:
        """See `Predictor`."""
        slide = dataset.slide_at(self.model.checkpoint.recipe.data.radius_um)
        model = self.model_for(dataset, fold)
        prediction = predict_cells(model, slide, fold.visible, fold.hidden)
        if self.adapts and not dataset.shares_adaptation(fold):
            prediction = replace(prediction, states=None)  # the states of every fold are others
        return prediction.take_genes(np.searchsorted(model.panel(slide).columns, dataset.columns))

    @property
    def adapts(self) -> bool:
        """Whether the model is adapted to the slide; that of the paper has nothing to adapt."""
        return self.adapt == "slide" and self.model.checkpoint.network.pooled is not None

    def model_for(self, dataset: EvaluationDataset, fold: Fold) -> LoadedModel:
        """The model that predicts a fold."""
        return adapted_model(self.name, self.model, dataset, fold) if self.adapts else self.model


def is_model(name: str) -> bool:
    """Whether a predictor is a model, from its name."""
    return name.partition(":")[0] == MODEL


def predict_folds(
    predictor: Predictor,
    dataset: EvaluationDataset,
    folds: Sequence[Fold],
    parameters: Parameters,
    advance: Callable[[], None] | None = None,
) -> Prediction:
    """Predict the hidden cells of several folds.

    Args:
        predictor: The predictor.
        dataset: The slide.
        folds: Folds that hide different cells.
        parameters: Hyper-parameters.
        advance: Called after each fold.

    Returns:
        (Q, P) in the order of `hidden_rows`.
    """
    # Arrays of the final size are filled fold by fold; joining the parts at the end would need twice the memory.
    rows = hidden_rows(folds)
    arrays: dict[str, NDArray[np.float32]] = {}
    for fold in folds:
        position = np.searchsorted(rows, fold.hidden)
        for name, values in vars(predictor.predict(dataset, fold, parameters)).items():
            if values is not None:
                arrays.setdefault(name, np.empty((len(rows), values.shape[1]), dtype=np.float32))[position] = values
        if advance:
            advance()
    return Prediction(**arrays)
