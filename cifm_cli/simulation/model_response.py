"""What the model infers for residents with the edits minus without, beside the regression of `cifm_cli.response`.

The residents of a label in a distance band are hidden, some at a time, and predicted from the cells around them, in the
tissue before the edits and after them; the same residents are hidden in both. Nothing is drawn, so that nothing but the
edits can make a difference, and void cells make none. The label of a resident is not an input of the model: it only says over
which residents predictions are averaged.

Letters: R residents, P genes that slide and model share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.tissue import InjectedCells, inject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.simulation.tissue import TissueState

    Numbers = NDArray[np.float64]

MAX_PREDICTED: Final = 200  # residents of a label and band, over all replicates
HIDDEN_SHARE: Final = 0.1  # of the residents of the tissue, hidden at a time
_SMALL_RATE: Final = 1e-9


def model_changes(
    model: LoadedModel,
    before: TissueState,
    edited: Sequence[TissueState],
    residents: Mapping[tuple[str, float], Sequence[Rows]],
    seed: int,
) -> pd.DataFrame:
    """Compare what the model infers for residents with and without edits.

    Args:
        model: The model, adapted to the slide if the simulation is.
        before: The tissue before any edit.
        edited: The tissue after the edits, in every replicate.
        residents: For each label and band, the rows of its residents in every replicate.
        seed: Seed of the sample, where there are many residents.

    Returns:
        One row per label, band and gene: `label`, `band_high_um`, `gene_id`, `model_log2_change`, relative to the median gene
        and averaged over the replicates.
    """
    chosen = {key: _sample(rows, seed, *key) for key, rows in residents.items()}
    arms = [before, *edited]
    sums = {key: np.zeros((len(edited), 2, before.slide.num_genes)) for key in chosen}
    panel = model.panel(before.slide)
    for masked in hide_in_turn([rows for own in chosen.values() for rows in own], before.num_residents, seed):
        rates = [_rates(predict_cells(model, tissue.slide, tissue.expressing, masked)) for tissue in arms]
        for key, own in chosen.items():
            for replicate, rows in enumerate(own):
                position = np.flatnonzero(np.isin(masked, rows))
                for side, arm in enumerate((0, replicate + 1)):
                    sums[key][replicate, side, panel.columns] += rates[arm][position].sum(axis=0)
    gene_ids = np.array(before.slide.gene_ids, dtype=object)[panel.columns]
    tables = []
    for (label, high_um), found in sums.items():
        change = _log2_change(found[:, :, panel.columns])
        tables.append(
            pd.DataFrame({"label": label, "band_high_um": high_um, "gene_id": gene_ids, "model_log2_change": change})
        )
    return pd.concat(tables, ignore_index=True)


def void_change(model: LoadedModel, tissue: TissueState, places_um: Numbers, seed: int) -> float:
    """Largest difference that void cells make to the prediction of hidden residents.

    Args:
        model: The model.
        tissue: The tissue before any edit.
        places_um: (K, 2) places of the void cells, micrometres.
        seed: Seed of the hidden residents.

    Returns:
        Largest difference of a predicted fraction of counts.
    """
    empty = csr_matrix((len(places_um), tissue.slide.num_genes), dtype=np.float32)
    with_void = inject(tissue, InjectedCells(places_um, empty, np.zeros(len(places_um))))
    masked = hide_in_turn([np.arange(tissue.num_residents)], tissue.num_residents, seed)[0]
    with_, without = (_rates(predict_cells(model, one.slide, one.expressing, masked)) for one in (with_void, tissue))
    return float(np.abs(with_ - without).max(initial=0.0))


def hide_in_turn(residents: Sequence[Rows], num_residents: int, seed: int) -> list[Rows]:
    """Divide residents into sets that are hidden one after the other, at most a tenth of the tissue at a time.

    Args:
        residents: Rows, which may overlap.
        num_residents: Number of residents of the tissue.
        seed: Seed of the order.

    Returns:
        Ascending rows of each set.
    """
    rows = np.unique(np.concatenate(residents))
    order = numpy_generator(seed, "hidden residents").permutation(rows)
    num_sets = int(np.ceil(len(rows) / max(1.0, HIDDEN_SHARE * num_residents)))
    return [np.sort(part) for part in np.array_split(order, max(1, num_sets))]


def _sample(rows: Sequence[Rows], seed: int, label: str, high_um: float) -> list[Rows]:
    """At most `MAX_PREDICTED` residents over all replicates."""
    most = max(1, MAX_PREDICTED // len(rows))
    generator = numpy_generator(seed, "predicted residents", label, round(high_um))
    return [np.sort(generator.permutation(own)[:most]) for own in rows]


def _rates(prediction: Prediction) -> Numbers:
    """(Q, P) predicted fraction of each gene in the counts of a cell, or what comes nearest to it."""
    found = np.expm1(prediction.mean) if prediction.composition is None else prediction.composition
    return found.astype(np.float64)


def _log2_change(sums: Numbers) -> Numbers:
    """(P,) log2 of the second over the first of (E, 2, P) sums, relative to the median gene, mean over E replicates."""
    sums = sums[sums.any(axis=(1, 2))] + _SMALL_RATE
    if not len(sums):
        return np.full(sums.shape[2], np.nan)
    change = np.log2(sums[:, 1] / sums[:, 0])
    return np.asarray((change - np.median(change, axis=1, keepdims=True)).mean(axis=0))
