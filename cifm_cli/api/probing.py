"""`cifm.probe`: linear probes of embedded slides, as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.api.slides import named_slides, open_adata
from cifm_cli.data.writers.embedded import EmbeddedSlide, check_origin
from cifm_cli.embedding.embed import SLOTS
from cifm_cli.embedding.labels import LabelChoice
from cifm_cli.embedding.probe import ProbeConfig, run_probe
from cifm_cli.embedding.probe_tables import paired_table, score_table, slide_table
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cifm_cli.embedding.probe_summary import ProbeResult


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier predicts a label from embeddings and from baselines.

    Args:
        metrics: The content of `probe.json` (docs/probe.md), without provenance. `metrics["evidence"]["answer"]` is the result
            in one sentence, `metrics["evidence"]["remarks"]` says how sure it is.
        scores: One row per set of features and metric, with `value` and its 95 % interval (`low`, `high`).
        paired: One row per embedding, metric and other features (`minus`): `difference`, with its interval.
        slides: One row per slide with held-out cells, set of features and class: scores within the slide, and the mean
            probability of the class.
        probabilities: One row per held-out cell, with its `slide`, `cell`, actual `class`, and the probability of each class
            from each set of features (columns `FEATURES:CLASS`).
    """

    metrics: dict[str, Any]
    scores: pd.DataFrame
    paired: pd.DataFrame
    slides: pd.DataFrame
    probabilities: pd.DataFrame


def probe(
    data: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    label: str,
    *,
    train_on: str | Sequence[str] = (),
    test_on: str | Sequence[str] = (),
    positive: str | None = None,
    ignore: str | Sequence[str] = (),
    num_folds: int = 5,
    max_cells: int = 20_000,
    layer: str | None = None,
    seed: int = 0,
) -> Probe:
    """Measure how well a linear classifier predicts a label from embeddings, as `cifm probe` does.

    Args:
        data: Slides that `cifm.embed` has embedded: one, several, or slides by name.
        label: Column of `obs`; `condition`, `tissue` or `sample` of prepared slides; or `FILE.csv:COLUMN`, a table with the names
            of cells in a column called `barcode`.
        train_on: Names or patterns (`*`, `?`) of the slides, samples or platforms to train the classifier on.
        test_on: The same for the test. If both are empty, samples (or blocks of a single slide) are held out in turn.
        positive: Class that is compared with all others together.
        ignore: Classes whose cells are left out.
        num_folds: Largest number of folds, where samples or blocks are held out in turn.
        max_cells: Larger data are sampled down to this number of cells, with `train_on` or `test_on` on each side.
        layer: Where the raw counts are, for the baselines: `X`, `raw`, or the name of a layer; by default the first that holds
            counts.
        seed: Seed of the sample, the folds and the bootstrap.

    Returns:
        Metrics of the embeddings and the baselines.

    Raises:
        CifmError: A slide has no embedding of `cifm.embed`, the label cannot be probed, or the slides cannot be divided.

    Examples:
        >>> probe = cifm.probe({"visium": a, "xenium": b}, "condition", train_on="visium", positive="tumour")
        >>> probe.scores.query("metric == 'roc_auc'")
    """
    if not isinstance(label, str):
        raise CifmError(
            f"label: expected a text, got {type(label).__name__}", "name a column of obs, or FILE.csv:COLUMN"
        )
    if num_folds < 2:
        raise CifmError(f"num_folds: {num_folds}", "give at least 2")
    if max_cells < 100:
        raise CifmError(f"max_cells: {max_cells}", "give at least 100")
    adatas = named_slides(data)
    slides = [_embedded_slide(adata, name, layer) for name, adata in adatas.items()]
    config = ProbeConfig(
        LabelChoice(label, positive, _names(ignore)),
        _names(train_on),
        _names(test_on),
        num_folds=num_folds,
        max_cells=max_cells,
        seed=seed,
    )
    return _as_tables(run_probe(slides, config), adatas)


def _as_tables(result: ProbeResult, adatas: Mapping[str, AnnData]) -> Probe:
    """The result with tables, cells by the names of the caller."""
    content = json.loads(json.dumps(result.content))  # tuples become lists, as in the file
    cells = [
        pd.DataFrame({"slide": slide.name, "cell": adatas[slide.name].obs_names[rows]})
        for slide, rows in zip(result.slides, result.rows, strict=True)
    ]
    probabilities = pd.concat(cells, ignore_index=True)
    probabilities["class"] = np.array(result.labels.classes, dtype=object)[result.labels.codes]
    for name, values in result.probabilities.items():
        for k, each in enumerate(result.labels.classes):
            probabilities[f"{name}:{each}"] = values[:, k]
    return Probe(content, score_table(content), paired_table(content), slide_table(content), probabilities)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def _embedded_slide(adata: AnnData, name: str, layer: str | None) -> EmbeddedSlide:
    """The content of an embedded AnnData, cells in the order of the caller."""
    opened = open_adata(adata, layer, None, name)
    metadata = adata.uns.get(keys.CIFM)
    slots = [slot for slot in SLOTS.values() if slot in adata.obsm]
    if not slots or not isinstance(metadata, Mapping) or keys.EMBEDDING not in metadata:
        raise CifmError(f"{name}: holds no embedding of cifm", "embed it first: cifm.embed(adata, model)")
    facts = {key: str(metadata.get(key, "")) for key in (keys.PLATFORM, keys.TISSUE, keys.CONDITION, keys.SAMPLE)}
    slide = opened.slide
    return EmbeddedSlide(
        name=name,
        xy_um=opened.in_caller_order(slide.xy_um),
        counts=_caller_rows(slide.counts(slide.region(keys.ALL)), opened.rows),
        gene_ids=slide.gene_ids,
        obs=adata.obs,
        embeddings={slot: _embedding(adata, slot, name) for slot in slots},
        facts=facts,
        origin=check_origin(metadata[keys.EMBEDDING], Path(name)),
    )


def _caller_rows(matrix: Any, rows: NDArray[np.int64]) -> Any:  # noqa: ANN401 - a sparse matrix
    """Reorder the rows of a sparse matrix to those of the caller."""
    return matrix[np.argsort(rows)]


def _embedding(adata: AnnData, slot: str, name: str) -> NDArray[np.float32]:
    """(N, D) finite features."""
    hint = "embed the slide again: cifm.embed(adata, model)"
    try:
        values = np.asarray(adata.obsm[slot], dtype=np.float32)
    except (TypeError, ValueError) as error:  # of a sparse matrix, or of text
        raise CifmError(f"{name}: obsm[{slot!r}] is no array of numbers", hint) from error
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise CifmError(f"{name}: obsm[{slot!r}] must be finite features, one row per cell", hint)
    return values
