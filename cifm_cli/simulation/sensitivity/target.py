"""Targets: the predicted expression of a gene, or the predicted probability of a label, in hidden residents.

Letters: N residents, R target residents, M hidden cells, P genes, K states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from cifm_cli.errors import CifmError
from cifm_cli.simulation.edits.labels import find_gene

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.simulation.edits.labels import CellLabels
    from cifm_cli.simulation.prepared_tissue import PreparedTissue
    from cifm_cli.simulation.sensitivity.refinement import Inferred
    from cifm_cli.simulation.state_sampler import StateSampler

GENE, LABEL = "gene:", "label:"  # prefixes of a target that is the name of both


class Readout(Protocol):
    """One number of each predicted cell."""

    def of_inferred(self, inferred: Inferred) -> Tensor:
        """(M,) values of a prediction in torch."""
        ...

    def of_prediction(self, prediction: Prediction) -> NDArray[np.float64]:
        """(M,) values of a prediction in NumPy."""
        ...


@dataclass(frozen=True)
class GeneReadout:
    """Mean log-normalised expression of a gene."""

    column: int  # the gene, of the P genes of the tissue

    def of_inferred(self, inferred: Inferred) -> Tensor:
        """(M,) values of a prediction in torch."""
        return inferred.mean[:, self.column]

    def of_prediction(self, prediction: Prediction) -> NDArray[np.float64]:
        """(M,) values of a prediction in NumPy."""
        return prediction.mean[:, self.column].astype(np.float64)


@dataclass(frozen=True)
class LabelReadout:
    """Probability of a label: that of each cell state, times the fraction of the cells of the state that have the label."""

    sampler: StateSampler
    share: NDArray[np.float64]  # (K,) fraction of the residents of each state that have the label

    def of_inferred(self, inferred: Inferred) -> Tensor:
        """(M,) values of a prediction in torch."""
        share = torch.from_numpy(self.share).to(inferred.mean)
        if self.sampler.weights is not None and inferred.states is not None:
            weights = torch.from_numpy(self.sampler.weights).to(inferred.mean)
            values = inferred.states.clamp(min=float(np.finfo(np.float32).tiny)) * weights
            return (values @ share) / values.sum(1)
        return self._classify(inferred.mean) @ share

    def of_prediction(self, prediction: Prediction) -> NDArray[np.float64]:
        """(M,) values of a prediction in NumPy."""
        weights = self.sampler.probability(prediction)
        return np.asarray(weights @ self.share / weights.sum(axis=1))

    def _classify(self, mean: Tensor) -> Tensor:
        """(M, K) probabilities by the classifier of a model without states, as `StateSampler.probability`."""
        if self.sampler.classifier is None:
            raise ValueError("neither the model nor a classifier gives probabilities of the states")
        steps = list(self.sampler.classifier.named_steps.values())
        probability = mean.new_zeros(len(mean), len(self.share))
        if len(steps) == 1:  # a single state
            probability[:, steps[0].classes_] = 1.0
            return probability
        components, regression = steps

        def to(values: NDArray[np.float64]) -> Tensor:
            """Convert an array to the precision of the prediction."""
            return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(mean)

        scores = (mean - to(components.mean_)) @ to(components.components_).T
        scores = scores / to(components.explained_variance_).sqrt()
        logits = scores @ to(regression.coef_).T + to(regression.intercept_)
        if logits.shape[1] == 1:  # two classes have one row of coefficients
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        states = torch.from_numpy(regression.classes_).to(mean.device)
        return probability.index_copy(1, states, logits.softmax(1))


@dataclass(frozen=True)
class Target:
    """What changes."""

    name: str  # symbol of the gene, or the label
    kind: str  # `gene` or `label`
    gene: int | None  # its column; None for a label
    cells: Rows  # (R,) ascending rows of the residents whose value is meant
    cells_label: str | None  # the label of these residents; None for all

    def describe(self) -> str:
        """The target in words."""
        number = f"{len(self.cells):,} residents" + (f" ({self.cells_label})" if self.cells_label else "")
        if self.kind == "gene":
            return f"the mean predicted log expression of {self.name} in {number}"
        return f"the mean predicted probability of {self.name} in {number}"


def find_target(typed: str, cells_label: str | None, prepared: PreparedTissue) -> Target:
    """Look up a target: a gene by symbol or Ensembl id, else a label.

    Args:
        typed: The name; `gene:NAME` and `label:NAME` tell which of both is meant.
        cells_label: Label of the residents whose value is meant; None for all.
        prepared: The tissue.

    Returns:
        The target.

    Raises:
        CifmError: There is neither such a gene nor such a label, it is both, or no resident has the label `cells_label`.
    """
    slide = prepared.tissue.slide
    rows = np.flatnonzero(slide.total_counts > 0)
    name = None
    if cells_label is not None:
        name = prepared.labels.find(cells_label)
        rows = np.intersect1d(rows, prepared.labels.rows(name))
    if not len(rows):
        raise CifmError(f"no {cells_label} among the {prepared.tissue.num_residents:,} simulated cells",
                        "choose another window with --crop, or another label")  # fmt: skip
    gene, label = _find_both(typed, prepared.labels, slide.symbols, slide.gene_ids)
    if gene is not None:
        return Target(slide.symbols[gene], "gene", gene, rows, name)
    return Target(str(label), "label", None, rows, name)


def _find_both(
    typed: str, labels: CellLabels, symbols: tuple[str, ...], gene_ids: tuple[str, ...]
) -> tuple[int | None, str | None]:
    """The gene or the label of a name; the other one is None."""
    key = typed.strip()
    if key.lower().startswith(GENE):
        return find_gene(key[len(GENE) :], symbols, gene_ids), None
    if key.lower().startswith(LABEL):
        return None, labels.find(key[len(LABEL) :].strip())
    gene, gene_error = _attempt_gene(key, symbols, gene_ids)
    try:
        label = labels.find(key)
    except CifmError as error:
        if gene is None:
            hint = gene_error.hint if gene_error and "did you mean" in gene_error.hint else error.hint
            raise CifmError(f"{typed!r}: neither a gene that slide and model share nor a label", hint) from error
        return gene, None
    if gene is not None:
        raise CifmError(f"{typed!r} is both a gene and a label", f"write {GENE}{key} or {LABEL}{key}")
    return None, label


def _attempt_gene(key: str, symbols: tuple[str, ...], gene_ids: tuple[str, ...]) -> tuple[int | None, CifmError | None]:
    try:
        return find_gene(key, symbols, gene_ids), None
    except CifmError as error:
        return None, error


def make_readout(target: Target, prepared: PreparedTissue, sampler: StateSampler | None) -> Readout:
    """What is read of a prediction.

    Args:
        target: The target.
        prepared: The tissue.
        sampler: The states of its cells, for a label.

    Returns:
        The readout.
    """
    if target.gene is not None:
        return GeneReadout(target.gene)
    if sampler is None:
        raise ValueError("a label is read from the probabilities of states")
    has_label = np.zeros(prepared.tissue.num_residents)
    has_label[prepared.labels.rows(target.name)] = 1.0
    share = np.array([has_label[cells].mean() if len(cells) else 0.0 for cells in sampler.members])
    return LabelReadout(sampler, share)
