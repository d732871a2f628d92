"""The folder that `cifm simulate` writes: tables, figures, a report, and the tissue before and after as `.h5ad`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.writers.h5ad import write_h5ad
from cifm_cli.data.writers.trajectory import trajectory_anndata
from cifm_cli.errors import CifmError
from cifm_cli.simulation.experiment import CONTROL, TREATED
from cifm_cli.simulation.figures import draw_figures
from cifm_cli.simulation.report import write_simulation_report
from cifm_cli.simulation.summary import change_frame
from cifm_cli.system_files import without_system_files
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anndata import AnnData

    from cifm_cli.simulation.experiment import Trajectory
    from cifm_cli.simulation.simulate import SimulationResult

RESULT: Final = "simulation.json"


def check_folder(out: Path) -> None:
    """Check that a folder can be written without replacing anything but an earlier simulation.

    Args:
        out: The folder.

    Raises:
        CifmError: It contains something else.
    """
    if out.exists() and not (out / RESULT).is_file() and not (out.is_dir() and not without_system_files(out.iterdir())):
        raise CifmError(f"{out}: exists, and is not the folder of a simulation", "name another folder with --out")


def write_simulation(
    out: Path, result: SimulationResult, names: Iterable[str], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Write a simulation into a folder, completely or not at all.

    Args:
        out: The folder; an earlier simulation in it is replaced.
        result: The simulation.
        names: Names of the residents.
        provenance: Dictionary from `provenance.collect`; `evaluation.sentence`, where it has it, is the first reason to
            trust or doubt the answer.

    Returns:
        The content of `simulation.json`.

    Raises:
        CifmError: The folder cannot be written.
    """
    content = {**result.to_json(), "provenance": provenance}
    if "evaluation" in provenance:
        content["answer"]["trust"].insert(0, provenance["evaluation"]["sentence"])
    with atomic_path(out) as folder:
        folder.mkdir()
        _write_tables(folder, result, content)
        (folder / RESULT).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf8")
        write_h5ad(folder / "trajectory.h5ad", to_anndata(result, names, provenance))
        images = draw_figures(result)
        for name, image in images.items():
            (folder / f"{name}.{image.suffix}").write_bytes(image.content)
        write_simulation_report(folder / "report.html", content, result.response.effects, images)
    return content


def _write_tables(folder: Path, result: SimulationResult, content: dict[str, Any]) -> None:
    tables = {
        "composition": result.composition(),
        "transitions": result.transitions(),
        "neighbours": result.neighbours(),
    }
    for name, table in tables.items():
        # The line end is fixed: pandas would use that of the system.
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    effects = result.response.effects
    for name, table in {"effects": effects, "change": change_frame(content["change"])}.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
    effects.to_parquet(folder / "effects.parquet", index=False, write_page_checksum=True)


def to_anndata(result: SimulationResult, names: Iterable[str], provenance: dict[str, Any]) -> AnnData:
    """The first replicate as an AnnData: residents, then injected cells.

    Args:
        result: The simulation.
        names: Names of the residents.
        provenance: Dictionary from `provenance.collect`.

    Returns:
        Layers `initial` (before the edits), `control` and `treated` (also `X`) with counts; `obs` with `injected`,
        `edited` (residents that an edit changed), `type_before`, `type_after` and `type_after_control`;
        `obsm["spatial"]`. The control has no injected cells: their counts are zero and their type is `absent`.
    """
    control, treated = result.trajectories[:2]
    tissue = treated.final
    num_injected = tissue.slide.num_cells - tissue.num_residents
    injected_counts = tissue.counts[tissue.num_residents :]
    # The layers of an AnnData have equal shapes, so the control has empty rows for the injected cells.
    no_counts = csr_matrix(injected_counts.shape, dtype=np.float32)

    def types(trajectory: Trajectory, step: int, of_injected: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Types of the residents after a step, then the labels of the injected cells."""
        of_residents = np.array(result.type_names, dtype=object)[trajectory.codes[step]]
        if trajectory is treated:
            of_residents[is_edited[: len(of_residents)] & (tissue.depths[: len(of_residents)] == 0)] = "removed"
        return np.concatenate([of_residents, of_injected])

    source_types = treated.added_labels
    is_edited = _is_edited(treated, tissue.slide.num_cells)
    absent = np.full(num_injected, "absent", dtype=object)
    return trajectory_anndata(
        tissue.slide,
        [*names, *(f"injected-{number}" for number in range(num_injected))],
        {
            "injected": np.arange(tissue.slide.num_cells) >= tissue.num_residents,
            "edited": is_edited,
            "type_before": types(control, 0, source_types),
            "type_after": types(treated, -1, source_types),
            "type_after_control": types(control, -1, absent),
        },
        {
            "initial": vstack([result.experiment.tissue.counts, injected_counts], format="csr"),
            CONTROL: vstack([control.final.counts, no_counts], format="csr"),
            TREATED: tissue.counts,
        },
        provenance,
    )


def _is_edited(treated: Trajectory, num_cells: int) -> np.ndarray[Any, Any]:
    """Whether each cell is a resident that an edit removed, replaced or changed."""
    edited = np.zeros(num_cells, dtype=bool)
    if treated.compared is not None:
        edited[: treated.codes.shape[1]] = True
        edited[treated.compared] = False
    return edited
