"""The report of a preparation: every cell and gene dropped and why, as a dictionary and as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.report import terminal

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.readers.base import Download
    from cifm_cli.data.units import UnitCheck

_NAMES_SHOWN = 20


def make_report(
    download: Download,
    genes: GenePlan,
    dropped: dict[str, NDArray[np.bool_]],
    units: UnitCheck,
    slide: ad.AnnData,
    remarks: dict[str, list[str]],
) -> dict[str, Any]:
    """What came in, what was dropped and why, what is kept.

    Args:
        download: As read.
        genes: What became of its features.
        dropped: What became of its cells: reason to mask.
        units: The unit check.
        slide: The prepared slide.
        remarks: `notes` and `warnings` for the user.

    Returns:
        A JSON-serialisable dictionary.
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
        },
        "genes": {
            "in": len(download.genes),
            "dropped": {reason: _listed(tuple(names)) for reason, names in genes.dropped.items()},
            "mapped": _listed(genes.mapped),
            "summed": _listed(genes.merged),
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


def show_report(name: str, report: dict[str, Any]) -> None:
    """Print the report on stderr.

    Args:
        name: Name of the slide.
        report: What `make_report` returned.
    """
    cells, genes, units = report["cells"], report["genes"], report["units"]
    rows = [
        ["cells in", f"{cells['in']:,}", ""],
        *([f"  dropped: {reason}", f"{count:,}", ""] for reason, count in cells["dropped"].items()),
        ["cells kept", f"{cells['kept']:,}", _places(cells["duplicate_coordinates"])],
        ["genes in", f"{genes['in']:,}", ""],
        *(_gene_row(f"dropped: {reason}", part) for reason, part in genes["dropped"].items()),
        *([_gene_row("identified by a table", genes["mapped"])] if genes["mapped"]["count"] else []),
        *([_gene_row("added to another of one id", genes["summed"])] if genes["summed"]["count"] else []),
        ["genes kept", f"{genes['kept']:,}", ""],
        ["median counts, genes", f"{report['median_counts']:,g}, {report['median_genes']:,g}", ""],
        ["nearest cell, um", f"{units['spacing_um']:.2f}", units["derivation"]],
        [f"neighbours in {units['radius_um']:g} um", f"{units['mean_degree']:.1f}", f"radius: {units['radius_from']}"],
        *([region, f"{size:,}", ""] for region, size in report["split"].items() if size or region != keys.BUFFER),
    ]
    terminal.table(name, ["", "number", ""], rows)
    for note in report["notes"]:
        terminal.say(f"note: {note}")
    for warning in report["warnings"]:
        terminal.warn(warning)


def _listed(names: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(names), "names": list(dict.fromkeys(names))[:_NAMES_SHOWN]}


def _gene_row(what: str, part: dict[str, Any]) -> list[str]:
    names = part["names"]
    return [f"  {what}", f"{part['count']:,}", ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")]


def _places(num_duplicates: int) -> str:
    return f"{num_duplicates:,} at the place of another" if num_duplicates else ""
