"""Writing a slide that is held in memory as a prepared slide, so that training can read it from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.metadata import SLIDE_FACTS
from cifm_cli.data.writers.gene_annotation import gene_annotation
from cifm_cli.data.writers.h5ad import write_h5ad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide


def write_slide(target: Path, slide: Slide, names: Sequence[str], source_rows: Rows) -> None:
    """Write a slide as an `.h5ad` that `slide.open_slide` reads.

    Args:
        target: The file.
        slide: The slide; N cells in Hilbert order.
        names: N names of the cells.
        source_rows: (N,) rows of the cells in the data that the slide was made from.

    Raises:
        CifmError: The file cannot be written.
    """
    counts = slide.counts(np.arange(slide.num_cells))
    obs = pd.DataFrame(
        {
            keys.TOTAL_COUNTS: slide.total_counts,
            keys.NUM_GENES: counts.getnnz(axis=1),
            keys.SPLIT: pd.Categorical(np.array(keys.REGIONS)[slide.split], categories=keys.REGIONS),
            keys.DOWNLOAD_ROW: source_rows,
        },
        index=pd.Index(list(names), dtype=object),
    )
    adata = ad.AnnData(counts, obs=obs, var=gene_annotation(slide), obsm={keys.SPATIAL: slide.xy_um})
    # `open_slide` requires these entries, which a slide from arrays lacks.
    facts = {key: (slide.facts or {}).get(key, "") for key in SLIDE_FACTS}
    about = {
        keys.FORMAT: keys.PREPARED_FORMAT,
        keys.RADIUS_UM: slide.radius_um,
        # There was no preparation to report.
        keys.REPORT: "{}",
        keys.PROVENANCE: "{}",
    }
    adata.uns[keys.CIFM] = {**about, **facts}
    write_h5ad(target, adata)
