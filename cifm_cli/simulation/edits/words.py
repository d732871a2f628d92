"""Edits in the words of the command line, such as `A=B` for a swap, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifm_cli.data.crop import parse_crop
from cifm_cli.data.readers.locations import read_locations
from cifm_cli.errors import CifmError
from cifm_cli.simulation.edits.requests import VOID, Inject, Knockout, Overexpress, ReferenceCells, Remove, Swap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from cifm_cli.simulation.edits.requests import EditRequest


@dataclass(frozen=True)
class EditWords:
    """The options of `cifm simulate` that describe edits. Those that say where and how many apply to all edits."""

    inject: Sequence[str] = ()  # --inject TYPE
    remove: Sequence[str] = ()  # --remove LABEL
    swap: Sequence[str] = ()  # --swap A=B
    knockout: Sequence[str] = ()  # --knockout GENE
    overexpress: Sequence[str] = ()  # --overexpress GENE=x
    cells: str | None = None  # --in LABEL: the cells whose genes are changed
    count: int | None = None  # --count
    density: float | None = None  # --density
    at: Path | None = None  # --at CSV
    min_distance_um: float = 0.0  # --min-distance
    inject_from: Path | None = None  # --inject-from H5AD
    inject_label: str = "cell_type"  # --inject-label COLUMN
    donor_key: str | None = None  # --inject-donor-key COLUMN
    near: str | None = None  # --near LABEL
    within_um: float | None = None  # --within
    region: str | None = None  # --region X0,Y0,X1,Y1

    def requests(self) -> tuple[EditRequest, ...]:
        """Read the words.

        Returns:
            Injections, removals, swaps, knockouts and overexpressions, each in the order of the command line.

        Raises:
            CifmError: There is no edit, an option contradicts another or has no effect, a text has another form, or the file
                of places cannot be read.
        """
        self._require_edits()
        where: dict[str, Any] = {"near": self.near, "within_um": self.within_um}
        where["region_um"] = None if self.region is None else parse_crop(self.region, "--region")
        genes = {"cells": self.cells, **where}
        pairs = [split_pair(text, "--swap", "A=B, such as macrophage=tcell") for text in self.swap]
        folds = [split_pair(text, "--overexpress", "GENE=x, such as CXCL12=4") for text in self.overexpress]
        return (
            *self._injections(where),
            *(Remove(label, **where) for label in self.remove),
            *(Swap(first, second, **where) for first, second in pairs),
            *(Knockout(gene, **genes) for gene in self.knockout),
            *(Overexpress(gene, _number(fold, gene), **genes) for gene, fold in folds),
        )

    def _injections(self, where: dict[str, Any]) -> list[Inject]:
        at_um = None if self.at is None else read_locations(self.at)
        reference = None
        if self.inject_from is not None:
            reference = ReferenceCells(self.inject_from, self.inject_label, self.donor_key)
        return [
            Inject(
                label,
                self.count,
                self.density,
                at_um,
                self.min_distance_um,
                None if _is_void(label) else reference,
                **where,
            )
            for label in self.inject
        ]

    def _require_edits(self) -> None:
        """Refuse options without an edit, and those that change nothing."""
        if not any((self.inject, self.remove, self.swap, self.knockout, self.overexpress)):
            raise CifmError(
                "no edit is given: nothing would differ from the control",
                "name one: --inject TYPE, --remove LABEL, --swap A=B, --knockout GENE or --overexpress GENE=x",
            )
        of_injection = {
            "--count": self.count,
            "--density": self.density,
            "--at": self.at,
            "--min-distance": self.min_distance_um or None,
            "--inject-from": self.inject_from,
        }
        given = [option for option, value in of_injection.items() if value is not None]
        if given and not self.inject:
            raise CifmError(f"{given[0]}: no cells are injected", "name their type with --inject TYPE, or leave it out")
        if self.at is not None and len(self.inject) > 1:
            raise CifmError(f"--at with {len(self.inject)} types: each place takes one cell", "inject one type")
        if self.inject_from is not None and all(map(_is_void, self.inject)):
            raise CifmError(
                "--inject-from: void cells have no counts to take from it", "leave it out, or inject a type"
            )
        if self.donor_key is not None and self.inject_from is None:
            raise CifmError("--inject-donor-key: there is no reference", "name it with --inject-from FILE.h5ad")
        if self.cells is not None and not (self.knockout or self.overexpress):
            raise CifmError("--in: no gene is changed", "name one with --knockout GENE or --overexpress GENE=x")


def split_pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Split a text at its last equals sign.

    Args:
        text: The text.
        option: The option, for messages.
        form: The form that is expected.

    Returns:
        Both parts.

    Raises:
        CifmError: A part is missing.
    """
    first, _, second = text.rpartition("=")
    if not first.strip() or not second.strip():
        raise CifmError(f"{option} {text}: two parts are expected", f"write {form}")
    return first.strip(), second.strip()


def _number(text: str, gene: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CifmError(
            f"--overexpress {gene}={text}: {text!r} is not a number", f"write a multiple, such as {gene}=4"
        ) from None


def _is_void(label: str) -> bool:
    return label.strip().lower() == VOID
