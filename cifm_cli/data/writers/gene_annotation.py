"""The annotation of genes in the files that cifm writes: `var` of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli import keys

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows, Slide


def gene_annotation(slide: Slide, columns: Rows | None = None) -> pd.DataFrame:
    """Build the table of genes of a slide.

    Args:
        slide: The slide, G genes.
        columns: (P,) columns of the slide to include; None for all genes.

    Returns:
        P rows (G for all genes) indexed by Ensembl id, with the column `keys.SYMBOL`.
    """
    selected = slice(None) if columns is None else columns
    # Dtype `object`, which anndata writes in the same format with every version of pandas.
    symbols, ids = (np.array(texts, dtype=object)[selected] for texts in (slide.symbols, slide.gene_ids))
    return pd.DataFrame({keys.SYMBOL: symbols}, index=pd.Index(ids, dtype=object))
