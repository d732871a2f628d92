"""The files of a sensitivity analysis: the map as a table and as a figure, the search, and the facts as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import plots
from cifm_cli.simulation.sensitivity.summary import sensitivity_facts
from cifm_cli.workspace import atomic_files, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.simulation.sensitivity.measure import SensitivityResult

RESULT: Final = "sensitivity.json"
OWN: Final = ("sensitivity.csv", "sensitivity.parquet", "sensitivity.png", "search.csv", RESULT)
LIMIT_QUANTILE: Final = 0.99  # of the absolute values, beyond which colours of the map do not change


def write_sensitivity(out: Path, result: SensitivityResult, provenance: dict[str, Any]) -> dict[str, Any]:
    """Write an analysis into a folder, completely or not at all; its other files are left alone.

    Args:
        out: The folder; files of an earlier analysis in it are replaced or removed.
        result: The analysis.
        provenance: Dictionary from `provenance.collect`.

    Returns:
        The content of `sensitivity.json`.

    Raises:
        CifmError: The folder cannot be written.
    """
    content = {**sensitivity_facts(result), "provenance": provenance}
    with atomic_files(out, RESULT, lambda name: name in OWN) as new:
        if result.added is not None:
            # The line end is fixed: pandas would use that of the system.
            result.places.to_csv(new / OWN[0], index=False, lineterminator="\n", float_format="%.9g")
            result.places.to_parquet(new / OWN[1], index=False, write_page_checksum=True)
            (new / OWN[2]).write_bytes(draw_map(result))
        if result.proposals is not None:
            result.proposals.to_csv(new / OWN[3], index=False, lineterminator="\n", float_format="%.9g")
        write_json(new / RESULT, content)
    return content


def draw_map(result: SensitivityResult) -> bytes:
    """Draw the derivatives at the places, summed over the target residents, as PNG."""
    values = result.places["summed"].to_numpy()
    limit = float(np.quantile(np.abs(values), LIMIT_QUANTILE)) or float(np.abs(values).max()) or 1.0
    name = "" if result.added is None else result.added.cell_type
    return plots.tissue_map(
        result.places[["x_um", "y_um"]].to_numpy(),
        values,
        f"Sensitivity of {result.target.name} to an added cell ({name})",
        label="summed change per added cell, to first order",
        limits=(-limit, limit),
    )
