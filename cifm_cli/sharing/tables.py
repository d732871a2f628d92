"""Results as tables: pairs of samples, clusters, types of clusters, and groups. They are the CSV and Parquet files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from cifm_cli.sharing.fractions import mixing_p_values

if TYPE_CHECKING:
    from cifm_cli.sharing.share import Sharing

CLUSTER_COLUMNS = ["sample", "cluster", "cells"]
ENRICHMENT_COLUMNS = ["sample", "cluster", "type", "cells", "fraction", "log2_enrichment", "p", "q"]
_INTERVAL = (0.025, 0.975)


def matrix_table(sharing: Sharing) -> pd.DataFrame:
    """Make a table with a row for each pair of samples.

    Args:
        sharing: The results.

    Returns:
        Columns `sample`, `neighbour_sample`, `fraction`, `expected`, `log2_enrichment`, `mixed_low` and `mixed_high` (95 %
        of the permutations of the samples over the cells), and `p` and `q` (at least as much sharing as in a permutation;
        corrected over the pairs of different samples, NaN for a sample with itself).
    """
    fractions, samples = sharing.fractions, sharing.samples
    p = mixing_p_values(fractions)
    np.fill_diagonal(p, np.nan)
    other = ~np.eye(len(samples), dtype=bool)
    q = np.full_like(p, np.nan)
    q[other] = false_discovery_control(p[other])
    low, high = np.quantile(fractions.mixed, _INTERVAL, axis=0)
    values = {
        "fraction": fractions.matrix,
        "expected": fractions.expected,
        "log2_enrichment": fractions.log2_enrichment,
        "mixed_low": low,
        "mixed_high": high,
        "p": p,
        "q": q,
    }
    return pd.DataFrame(
        {
            "sample": np.repeat(samples, len(samples)),
            "neighbour_sample": np.tile(samples, len(samples)),
            **{name: matrix.ravel() for name, matrix in values.items()},
        }
    )


def cluster_table(sharing: Sharing) -> pd.DataFrame:
    """Make a table with a row for each cluster of each sample.

    Args:
        sharing: The results.

    Returns:
        Columns `sample`, `cluster` (from 1), `cells`, `own_fraction`, and a column `fraction_SAMPLE` for each sample.
    """
    rows = []
    for name, each in sharing.by_sample.items():
        own = sharing.samples.index(name)
        for cluster, (size, means) in enumerate(zip(each.sizes, each.fractions, strict=True)):
            columns = {f"fraction_{sample}": mean for sample, mean in zip(sharing.samples, means, strict=True)}
            rows.append(
                {"sample": name, "cluster": cluster + 1, "cells": int(size), "own_fraction": means[own], **columns}
            )
    return pd.DataFrame(rows)


def enrichment_table(sharing: Sharing) -> pd.DataFrame:
    """Make a table with a row for each type in each cluster of each sample; empty without types.

    Args:
        sharing: The results.

    Returns:
        Columns `ENRICHMENT_COLUMNS`. `q` is corrected over all rows; a sample with a single cluster has no p-values.
    """
    rows = []
    for name, each in sharing.by_sample.items():
        if each.enrichment is None:
            continue
        found = each.enrichment
        sizes = np.maximum(found.counts.sum(axis=1), 1)
        present = np.flatnonzero(found.counts.sum(axis=0))
        for cluster in range(len(each.sizes)):
            for kind in present:
                count = int(found.counts[cluster, kind])
                p = float(found.p_values[cluster, kind]) if len(each.sizes) > 1 else np.nan
                fold = float(found.log2_enrichment[cluster, kind])
                rows.append((name, cluster + 1, sharing.types[kind], count, count / sizes[cluster], fold, p))
    table = pd.DataFrame(rows, columns=ENRICHMENT_COLUMNS[:-1])
    q = np.full(len(table), np.nan)
    tested = table["p"].notna().to_numpy(dtype=bool)
    if tested.any():
        q[tested] = false_discovery_control(table["p"].to_numpy(dtype=np.float64)[tested])
    return table.assign(q=q)


def group_table(sharing: Sharing) -> pd.DataFrame:
    """Make a table with a row for each pair of groups; empty without groups.

    Args:
        sharing: The results.

    Returns:
        Columns `group`, `other`, `pairs`, `log2_enrichment`, `difference`, `p` and `q`.
    """
    test = sharing.group_test
    return pd.DataFrame([] if test is None else [asdict(pair) for pair in test.pairs])
