"""Maps of a simulated tissue: before, after, the difference between the arms, and an animation.

Letters: N residents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.report.cell_map import CellMap, Mark
from cifm_cli.simulation.experiment import CONTROL, TREATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cifm_cli.simulation.experiment import Trajectory
    from cifm_cli.simulation.simulate import SimulationResult

    Names = NDArray[np.object_]

_MAX_FRAMES: Final = 16
_DIFFERENCE: Final = (
    "In full colour: cells whose type after the last step differs between both arms, in the colour of their type with the "
    "edits. All other cells are pale."
)
_PANELS: Final = {TREATED: "with the edits", CONTROL: "without"}


def draw_maps(result: SimulationResult, colours: Mapping[str, str]) -> dict[str, tuple[bytes, str]]:
    """Draw the first replicate.

    Args:
        result: The simulation.
        colours: Hexadecimal colour by type; other types are grey.

    Returns:
        Images and captions by file name without suffix.
    """
    # Trajectories are in the order of the replicates, control and treated in turn.
    control, treated = result.trajectories[:2]
    names = np.array(result.type_names, dtype=object)
    drawn = _common(result, colours)
    after, without = names[treated.codes[-1]], names[control.codes[-1]]
    compared = np.zeros(len(after), dtype=bool)
    compared[slice(None) if treated.compared is None else treated.compared] = True
    differs = compared & (after != without)
    removed = _removed(treated)
    after[removed] = UNASSIGNED
    number = f"{differs.sum():,} of {compared.sum():,} cells ({100 * differs.sum() / max(compared.sum(), 1):.1f} %)"
    return {
        "map_before": (drawn.draw(names[control.codes[0]], "Before any edit"), "Cell types before any edit."),
        "map_treated": (
            drawn.draw(after, "After the last step, with the edits", with_marks=True),
            "Cell types after the last step, with the edits.",
        ),
        "map_control": (
            drawn.draw(without, "After the last step, without the edits"),
            "Cell types after the last step of the control, without the edits.",
        ),
        "map_difference": (
            drawn.draw(after, f"Difference: {number} end as another type", with_marks=True, emphasised=differs),
            _DIFFERENCE,
        ),
    }


def draw_animation(result: SimulationResult, colours: Mapping[str, str]) -> tuple[bytes, str]:
    """Draw the steps of the first replicate side by side.

    Args:
        result: The simulation.
        colours: Hexadecimal colour by type; other types are grey.

    Returns:
        GIF and caption.
    """
    control, treated = result.trajectories[:2]
    names = np.array(result.type_names, dtype=object)
    content = _animate(_common(result, colours), names, {TREATED: treated, CONTROL: control})
    return (
        content,
        "Step by step, with the edits and without. In full colour: cells that have changed their type since the start.",
    )


def _common(result: SimulationResult, colours: Mapping[str, str]) -> CellMap:
    """Positions, colours and frame of all maps; injected cells are inside the frame."""
    control, treated = result.trajectories[:2]
    present = set(np.unique([control.codes[0], control.codes[-1], treated.codes[-1]]).tolist())
    known = {result.type_names[code] for code in present}
    xy_um = treated.final.slide.xy_um
    low_um, high_um = xy_um.min(axis=0), xy_um.max(axis=0)
    return CellMap(
        xy_um[: treated.codes.shape[1]],
        {name: colour for name, colour in colours.items() if name in known},
        others="other types" if known - set(colours) - {UNASSIGNED} else "",
        unknown=UNASSIGNED,
        box_um=(low_um[0], low_um[1], high_um[0], high_um[1]),
        marks=_marks(treated),
    )


def _removed(treated: Trajectory) -> NDArray[np.bool_]:
    """(N,) residents that an edit removed."""
    num_residents = treated.codes.shape[1]
    is_edited = np.zeros(num_residents, dtype=bool)
    if treated.compared is not None:
        is_edited[:] = True
        is_edited[treated.compared] = False
    removed: NDArray[np.bool_] = is_edited & (treated.final.depths[:num_residents] == 0)
    return removed


def _marks(treated: Trajectory) -> list[Mark]:
    """Injected, removed and otherwise edited cells."""
    num_residents, xy_um = treated.codes.shape[1], treated.final.slide.xy_um
    added_um = xy_um[num_residents:]
    marks = [
        Mark(f"injected: {label}", added_um[treated.added_labels == label], "triangle")
        for label in dict.fromkeys(treated.added_labels.tolist())
    ]
    removed = _removed(treated)
    if removed.any():
        marks.append(Mark("removed", xy_um[:num_residents][removed], "cross"))
    changed = ~removed
    if treated.compared is not None:
        changed[treated.compared] = False
        if changed.any():
            marks.append(Mark("edited", xy_um[:num_residents][changed], "ring"))
    return marks


def _animate(drawn: CellMap, names: Names, arms: Mapping[str, Trajectory]) -> bytes:
    """Both arms side by side, at most 16 of the steps."""
    steps = len(arms[TREATED].codes) - 1
    shown = np.unique(np.linspace(0, steps, min(steps + 1, _MAX_FRAMES)).round().astype(int)).tolist()
    panels: dict[str, Any] = {_PANELS[arm]: [names[own.codes[step]] for step in shown] for arm, own in arms.items()}
    titles = [f"step {step} of {steps}" for step in shown]
    return drawn.animate(panels, titles, marked=_PANELS[TREATED])
