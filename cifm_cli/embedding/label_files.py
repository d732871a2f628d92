"""Labels from a table: a CSV with the barcode and the label of every cell, as `cifm annotate apply` writes it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.data.readers.text_records import read_records
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.readers.text_records import TextRecords
    from cifm_cli.data.writers.embedded import EmbeddedSlide

_FILE_AND_COLUMN = re.compile(r"(?P<file>.+\.(?:csv|tsv|txt)(?:\.gz)?):(?P<column>.+)", re.IGNORECASE)
_SLIDE = "{slide}"  # stands for the name of the slide in the path
_BARCODES = ("barcode", "cell_id", "cell")  # names of the column of barcodes; the first column if none occurs
_SLIDES = ("slide", "sample")  # names of the column that says to which slide a row belongs
# What a cell without a label has, in lower case. In a column of obs, words such as `none` may be classes: only the first are missing.
UNLABELLED = {"", "nan", "unlabelled", "unlabeled", "unannotated"}
_MISSING = UNLABELLED | {"na", "n/a", "none", "null"}
_HINT = "give the barcode of each cell in a column called barcode, and the label in another"


@dataclass(frozen=True)
class LabelFile:
    """A column of a table, or of one table per slide."""

    path: str  # the path; `{slide}` stands for the name of a slide
    column: str  # name of the column of labels

    def paths(self, slides: Sequence[EmbeddedSlide]) -> list[Path]:
        """The tables, each once.

        Args:
            slides: Embedded slides.
        """
        return list(dict.fromkeys(Path(self.path.replace(_SLIDE, slide.name)) for slide in slides))


def parse_label_file(text: str) -> LabelFile | None:
    """Read `FILE.csv:COLUMN`.

    Args:
        text: What the user typed.

    Returns:
        File and column; None if the text does not name a table (.csv, .tsv or .txt, plain or .gz) and a column.
    """
    match = _FILE_AND_COLUMN.fullmatch(text)
    return LabelFile(match["file"], match["column"]) if match else None


def read_label_file(source: LabelFile, slides: Sequence[EmbeddedSlide]) -> list[NDArray[np.object_]]:
    """Join a table of labels with the cells of slides, by barcode.

    Args:
        source: The table and its column.
        slides: Embedded slides.

    Returns:
        For each slide (N,) labels; None for a cell without one.

    Raises:
        CifmError: A table cannot be read, has no such column or a barcode twice, a barcode occurs in several slides,
            or no barcode is that of a cell.
    """
    labels = []
    tables = {path: _LabelTable.read(path, source.column) for path in source.paths(slides)}
    if len(slides) > 1 and _SLIDE not in source.path:
        _require_own_barcodes(next(iter(tables.values())), slides)
    for slide in slides:
        table = tables[Path(source.path.replace(_SLIDE, slide.name))]
        of_barcode = table.labels_of(slide)
        labels.append(np.array([of_barcode.get(str(name)) for name in slide.obs.index], dtype=object))
    if all(label is None for of_slide in labels for label in of_slide):
        path, table = next(iter(tables.items()))
        example = next(iter(table.rows), ("", "", "", 0))[1]
        raise CifmError(
            f"{path}: no barcode is that of a cell, such as {slides[0].obs.index[0]!r}; the table has {example!r}",
            f"{_HINT}; a column called slide must hold names of slides: {', '.join(slide.name for slide in slides)}",
        )
    return labels


@dataclass(frozen=True)
class _LabelTable:
    """The rows of one table."""

    path: Path
    key: str  # `slide`, `sample` or empty: what the first entry of a row is
    rows: list[tuple[str, str, str, int]]  # slide or sample (empty without such a column), barcode, label, line

    @classmethod
    def read(cls, path: Path, column: str) -> _LabelTable:
        """Read a table, and check that each barcode occurs once."""
        records = read_records(path)
        if column not in records.columns:
            named = ", ".join(name for name in records.columns if name)
            raise CifmError(f"{path}: no column {column!r}, but {named}", "name the column of labels: FILE.csv:COLUMN")
        others = [name for name in records.columns if name != column]
        if not others:
            raise CifmError(f"{path}: no column of barcodes beside {column}", _HINT)
        barcodes = _named(records, others, _BARCODES)
        if barcodes is None:
            barcodes = [row[records.columns.index(others[0])] for row in records.rows]
        key = next((name for name in _SLIDES if name in {other.lower() for other in others}), "")
        owners = (_named(records, others, [key]) if key else None) or [""] * len(records.rows)
        rows = list(zip(owners, barcodes, records.column(column), records.lines, strict=True))
        first: dict[tuple[str, str], int] = {}
        for owner, barcode, _, line in rows:
            if (earlier := first.setdefault((owner, barcode), line)) != line:
                raise CifmError(
                    f"{path}: barcode {barcode} occurs twice, in lines {earlier} and {line}",
                    "give every cell one row; barcodes of several slides need a column called slide",
                )
        return cls(path, key, rows)

    def labels_of(self, slide: EmbeddedSlide) -> dict[str, str]:
        """Barcode to label, of the rows that may belong to a slide."""
        own = {"": "", "slide": slide.name, "sample": slide.facts.get(keys.SAMPLE, "")}[self.key]
        return {
            barcode: label for owner, barcode, label, _ in self.rows if owner == own and label.lower() not in _MISSING
        }


def _named(records: TextRecords, columns: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """The fields of the column with the first of some names, in any case; None if there is none."""
    by_name = {column.lower(): column for column in columns if column}
    found = next((by_name[name] for name in names if name in by_name), None)
    return None if found is None else records.column(found)


def _require_own_barcodes(table: _LabelTable, slides: Sequence[EmbeddedSlide]) -> None:
    """Raise an error if a row of the table may belong to cells of several slides."""
    num_slides = Counter(
        barcode
        for slide in slides
        for barcode in {str(name) for name in slide.obs.index} & table.labels_of(slide).keys()
    )
    # With a column of samples, sections of one sample may still share barcodes.
    owners = {} if table.key == "slide" else num_slides
    shared = sorted(barcode for barcode, number in owners.items() if number > 1)
    if table.key == "sample":
        shared = [barcode for barcode in shared if _in_one_sample(barcode, slides)]
    if shared:
        raise CifmError(
            f"{table.path}: barcode {shared[0]} is that of a cell in several slides ({len(shared):,} such barcodes)",
            f"add a column called slide, or give one table for each slide: 'labels/{_SLIDE}.csv:COLUMN'",
        )


def _in_one_sample(barcode: str, slides: Sequence[EmbeddedSlide]) -> bool:
    """Whether two slides of one sample have a cell of this name."""
    samples = [slide.facts.get(keys.SAMPLE, "") for slide in slides if barcode in set(map(str, slide.obs.index))]
    return len(set(samples)) < len(samples)
