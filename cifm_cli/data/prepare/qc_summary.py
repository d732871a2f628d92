"""The report of a preparation as a dictionary, and as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.data.prepare.species import OTHER_FRACTION, num_foreign_cells

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.readers.base import Download
    from cifm_cli.data.units import UnitCheck

# The report is stored in every slide, and a whole transcriptome would fill it with names.
_MAX_NAMES = 20
FOREIGN = "mostly_other_species"  # number of such cells, in the report of a mixture of species


def summarise(
    download: Download,
    genes: GenePlan,
    dropped: dict[str, NDArray[np.bool_]],
    units: UnitCheck,
    slide: ad.AnnData,
    remarks: dict[str, list[str]],
) -> dict[str, Any]:
    """Summarise a preparation.

    Args:
        download: The download, N cells x F features.
        genes: The gene of each feature.
        dropped: Reason to (N,) mask of the cells that are dropped for it.
        units: The unit check.
        slide: The prepared slide.
        remarks: `notes` and `warnings` for the user.

    Returns:
        A JSON-serialisable dictionary: cells and genes before and after the filters, with the number of each reason;
        medians per cell; units; split sizes; remarks.
    """
    split = slide.obs[keys.SPLIT].value_counts()
    xy_um = slide.obsm[keys.SPATIAL]
    return {
        "platform": download.platform,
        "matrix": download.matrix,
        "cells": {
            "in": len(download.obs),
            "dropped": {reason: int(mask.sum()) for reason, mask in dropped.items() if mask.any()},
            "kept": slide.n_obs,
            "duplicate_coordinates": len(xy_um) - len(np.unique(xy_um, axis=0)),
            **({FOREIGN: num_foreign_cells(slide.obs)} if OTHER_FRACTION in slide.obs else {}),
        },
        "genes": {
            "in": len(download.genes),
            "dropped": {reason: _count_and_names(tuple(names)) for reason, names in genes.dropped.items()},
            "mapped": _count_and_names(genes.mapped),
            "summed": _count_and_names(genes.merged),
            "kept": slide.n_vars,
        },
        "median_counts": float(np.median(slide.obs[keys.TOTAL_COUNTS])),
        "median_genes": float(np.median(slide.obs[keys.NUM_GENES])),
        "units": {
            "derivation": download.units,
            "radius_um": units.radius_um,
            "radius_from": units.radius_from,
            "spacing_um": round(units.spacing_um, 4),
            "mean_degree": round(units.mean_degree, 4),
        },
        "split": {region: int(split[region]) for region in keys.REGIONS},
        **remarks,
    }


def summary_rows(report: dict[str, Any]) -> list[list[str]]:
    """A report as rows of a table: quantity, number, details.

    Args:
        report: Return value of `summarise`.

    Returns:
        Rows of three texts.
    """
    cells, genes, units = report["cells"], report["genes"], report["units"]
    return [
        ["cells in", f"{cells['in']:,}", ""],
        *([f"  dropped: {reason}", f"{count:,}", ""] for reason, count in cells["dropped"].items()),
        ["cells kept", f"{cells['kept']:,}", _duplicates(cells["duplicate_coordinates"])],
        *([["  mostly of another species", f"{cells[FOREIGN]:,}", ""]] if FOREIGN in cells else []),
        ["genes in", f"{genes['in']:,}", ""],
        *(_gene_row(f"dropped: {reason}", features) for reason, features in genes["dropped"].items()),
        *([_gene_row("identified by a table", genes["mapped"])] if genes["mapped"]["count"] else []),
        *([_gene_row("added to another with the same id", genes["summed"])] if genes["summed"]["count"] else []),
        ["genes kept", f"{genes['kept']:,}", ""],
        ["median counts, genes", f"{report['median_counts']:,g}, {report['median_genes']:,g}", ""],
        ["nearest cell, um", f"{units['spacing_um']:.2f}", units["derivation"]],
        [f"neighbours in {units['radius_um']:g} um", f"{units['mean_degree']:.1f}", f"radius: {units['radius_from']}"],
        *([region, f"{size:,}", ""] for region, size in report["split"].items() if size or region != keys.BUFFER),
    ]


def _count_and_names(names: tuple[str, ...]) -> dict[str, Any]:
    """The number of names, and the first distinct ones."""
    return {"count": len(names), "names": list(dict.fromkeys(names))[:_MAX_NAMES]}


def _gene_row(label: str, features: dict[str, Any]) -> list[str]:
    names = features["names"]
    return [f"  {label}", f"{features['count']:,}", ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")]


def _duplicates(num_duplicates: int) -> str:
    return f"{num_duplicates:,} at the coordinates of another cell" if num_duplicates else ""
