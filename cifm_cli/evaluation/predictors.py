"""Models and baselines as the judge sees them: something that infers the hidden cells of a round.

Letters: Q hidden cells, P scored genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cifm_cli.evaluation.context import Estimate
from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.baselines import Baseline
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.context import Settings
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.inference.loaded_model import LoadedModel


class Predictor(Protocol):
    """Something that infers hidden cells."""

    @property
    def name(self) -> str:
        """Its key in the results."""
        ...

    def candidates(self) -> Sequence[Settings]:
        """Hyper-parameters to choose among on the validation region."""
        ...

    def infer(self, bench: Bench, part: Round, settings: Settings) -> Estimate:
        """Infer the hidden cells of a round from its visible ones.

        Args:
            bench: The slide and what is scored.
            part: Which cells are hidden.
            settings: One of the candidates.

        Returns:
            (Q, P) in the order of `part.hidden`.
        """
        ...


@dataclass(frozen=True)
class BaselinePredictor:
    """A baseline; all it is given of the hidden cells is where they are."""

    baseline: Baseline

    @property
    def name(self) -> str:
        """The baseline's."""
        return self.baseline.name

    def candidates(self) -> Sequence[Settings]:
        """The baseline's."""
        return self.baseline.candidates()

    def infer(self, bench: Bench, part: Round, settings: Settings) -> Estimate:
        """See `Predictor`."""
        generator = numpy_generator(bench.seed, "baseline", self.name, part.number)
        return self.baseline.predict(bench.context(part), bench.slide.xy_um[part.hidden], settings, generator)


@dataclass(frozen=True)
class ModelPredictor:
    """A trained model, at its own radius.

    Args:
        name: `model`, or `model:<run>` for those after the first.
        engine: The model.
    """

    name: str
    engine: LoadedModel

    def candidates(self) -> Sequence[Settings]:
        """Nothing to choose but the gate."""
        return [{}]

    def infer(self, bench: Bench, part: Round, _settings: Settings) -> Estimate:
        """See `Predictor`."""
        slide = bench.slide_at(self.engine.checkpoint.recipe.data.radius_um)
        found = predict_cells(self.engine, slide, part.visible, part.hidden)
        scored = found.take_genes(np.searchsorted(self.engine.panel(slide).columns, bench.columns))
        return Estimate(scored.mean, scored.expressed, scored.composition, scored.states)


def infer_rounds(
    predictor: Predictor,
    bench: Bench,
    rounds: Sequence[Round],
    settings: Settings,
    advance: Callable[[], None] | None = None,
) -> Estimate:
    """Infer every hidden cell of several rounds.

    Args:
        predictor: Who infers.
        bench: The slide and what is scored.
        rounds: Rounds that hide different cells.
        settings: Of the predictor.
        advance: Called after each round.

    Returns:
        (Q, P) in the order of `hidden_rows`.
    """
    rows = hidden_rows(rounds)
    whole: dict[str, NDArray[np.float32]] = {}
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        for name, values in vars(predictor.infer(bench, part, settings)).items():
            if values is not None:
                whole.setdefault(name, np.empty((len(rows), values.shape[1]), dtype=np.float32))[position] = values
        if advance:
            advance()
    return Estimate(**whole)


def hidden_rows(rounds: Sequence[Round]) -> Rows:
    """All rows that some rounds hide, ascending."""
    return np.sort(np.concatenate([part.hidden for part in rounds]))
