"""The HTML report beside a prepared slide: maps, histograms, and the cells and genes that were dropped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.io import read_elem
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.prepare.genes import SEVERAL_GENES, SEVERAL_ORTHOLOGS
from cifm_cli.data.prepare.qc_summary import FOREIGN
from cifm_cli.data.prepare.splits import SplitConfig
from cifm_cli.data.units import describe_extent
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.html import Image, Section, Table, draw_image, write_report

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SIGNATURE = b"Made by cifm"  # in the footer of every report
_MAX_SHOWN = 100_000  # cells on a map, which is about 800 pixels wide
_COLOUR_QUANTILE = 0.99  # the colours of a map end at this quantile of the cells
_NUM_BINS, _LAST_QUANTILE = 60, 0.995  # bins of a histogram, and the quantile of the cells where the last one begins
_MAX_NAMES = 8
_AMBIGUOUS = (SEVERAL_GENES, SEVERAL_ORTHOLOGS)


def qc_report_path(slide: Path) -> Path:
    """Path of the report of a prepared slide: the same name, with the ending `.html`."""
    return slide.with_suffix(".html")


def require_replaceable(page: Path) -> None:
    """Raise an error if a file exists that cifm did not write.

    Args:
        page: Path of the report.

    Raises:
        CifmError: The file exists and is not a report of cifm.
    """
    # A page of the same name may be the user's own notes, which must not be lost.
    if page.exists() and not (page.is_file() and _SIGNATURE in page.read_bytes()):
        raise CifmError(
            f"{page} exists and is not a report that cifm wrote", "choose another folder with --out or name with --name"
        )


def write_qc_report(slide: Path) -> Path:
    """Write the report of a prepared slide. The counts are not read.

    Args:
        slide: The prepared `.h5ad`.

    Returns:
        Path of the report.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    metadata = read_metadata(slide) or {}
    report = metadata[keys.REPORT]
    with open_for_reading(slide) as file:
        xy_um = file[f"obsm/{keys.SPATIAL}"][:]
        counts, genes = (read_elem(file[f"obs/{name}"]) for name in (keys.TOTAL_COUNTS, keys.NUM_GENES))
        split = np.asarray(read_elem(file[f"obs/{keys.SPLIT}"]), dtype=object)
    # Drawing a million points takes long and shows nothing more on a map of this size.
    shown = _choose_rows(len(xy_um))
    degree = _degrees(xy_um, shown, metadata[keys.RADIUS_UM])
    sections = [
        Section(
            "Maps",
            _shown_note(len(xy_um)),
            images=_maps(xy_um[shown], counts[shown], genes[shown], split[shown], _split_by(report)),
        ),
        Section("The slide", table=_facts(metadata, xy_um)),
        Section("Distributions", images=_histograms(counts, genes, degree, metadata[keys.RADIUS_UM])),
        Section("Cells", _cells_note(report), _cells(report)),
        Section("Genes", _genes_note(report), _genes(report["genes"])),
        *([Section("Notes", "\n\n".join(report["notes"]))] if report["notes"] else []),
    ]
    page = qc_report_path(slide)
    write_report(
        page,
        f"{slide.stem}: prepared slide",
        sections,
        metadata[keys.PROVENANCE],
        answer=_answer(slide.stem, report),
        remarks=_remarks(report),
    )
    return page


def _split_by(report: dict[str, Any]) -> str:
    """Description of the split; slides written before there was a choice do not store it."""
    return str(report.get("split_by", SplitConfig().describe(report["units"]["radius_um"])))


def _choose_rows(num_cells: int) -> NDArray[np.int64]:
    """Rows to show: all, or a random subset, as a regular one would show a grid of bins as stripes."""
    if num_cells <= _MAX_SHOWN:
        return np.arange(num_cells)
    # A fixed seed, so that the page of a slide is the same every time.
    return np.sort(numpy_generator(0, "page").choice(num_cells, _MAX_SHOWN, replace=False))


def _degrees(xy_um: NDArray[np.float64], rows: NDArray[np.int64], radius_um: float) -> NDArray[np.int64]:
    """(n,) number of other cells within the radius of n cells."""
    return np.asarray(cKDTree(xy_um).query_ball_point(xy_um[rows], radius_um, return_length=True)) - 1


def _shown_note(num_cells: int) -> str:
    if num_cells <= _MAX_SHOWN:
        return f"All {num_cells:,} cells."
    return (
        f"{_MAX_SHOWN:,} of the {num_cells:,} cells, drawn at random, also for the histogram of neighbours. "
        "Tables and the other histograms are of all cells."
    )


def _maps(
    xy_um: NDArray[np.float64],
    counts: NDArray[np.float64],
    genes: NDArray[np.int64],
    split: NDArray[np.object_],
    split_by: str,
) -> list[Image]:
    from cifm_cli.report import plots  # matplotlib takes a second to import

    def draw(values: NDArray[Any], title: str, caption: str) -> Image:
        """Draw a map of one value per cell."""
        # Without a limit, a few extreme cells would make all others look alike. At least 1, for slides where
        # nearly all cells are void.
        end = max(float(np.quantile(values, _COLOUR_QUANTILE)), 1.0)
        label, limits = title.lower(), (0.0, end)
        return draw_image(lambda: plots.tissue_map(xy_um, values, title, label=label, limits=limits), caption)

    return [
        draw(counts, "Counts per cell", "Counts over the kept genes; the colours end at the 99th percentile."),
        draw(genes, "Genes per cell", "Kept genes with a count; the colours end at the 99th percentile."),
        draw_image(
            lambda: plots.tissue_map(xy_um, split, "Regions of the split", order=keys.REGIONS),
            f"The cells for training, validation and test: {split_by}.",
        ),
    ]


def _histograms(
    counts: NDArray[np.float64], genes: NDArray[np.int64], degree: NDArray[np.int64], radius_um: float
) -> list[Image]:
    from cifm_cli.report import plots

    near = f"Neighbours within {radius_um:g} µm"
    return [
        draw_image(
            partial(plots.histogram, degree, _edges(degree), near, label="neighbours"),
            f"{near}; {(degree == 0).mean():.2%} of the cells have none. The last bar includes all cells with more.",
        ),
        *(
            draw_image(
                partial(plots.histogram, values, _edges(values), f"{quantity} per cell", label=quantity.lower()),
                f"{quantity} per cell; the last bar includes all cells with more.",
            )
            for values, quantity in ((counts, "Counts"), (genes, "Genes"))
        ),
    ]


def _edges(values: NDArray[Any]) -> list[float]:
    """Edges of bins with the same number of whole numbers each, up to a value that few cells exceed."""
    # A few extreme cells would squeeze all others into one bin.
    end = int(np.quantile(values, _LAST_QUANTILE)) + 1
    # Bins of unequal numbers of integers would show spurious peaks.
    step = -(-end // _NUM_BINS)
    return [edge - 0.5 for edge in range(0, end + 2 * step, step)]


def _answer(name: str, report: dict[str, Any]) -> str:
    """Whether the slide can be used, in one sentence."""
    number = len(report["warnings"])
    doubt = {0: "nothing looks wrong", 1: "one warning has to be read first"}
    size = f"{report['cells']['kept']:,} cells and {report['genes']['kept']:,} genes"
    return f"{name} is prepared, with {size}; {doubt.get(number, f'{number} warnings have to be read first')}."


def _remarks(report: dict[str, Any]) -> list[str]:
    """Warnings first, then what was kept, and how the positions became micrometres."""
    cells, units, split = report["cells"], report["units"], report["split"]
    warnings = [f"Warning: {warning}." for warning in report["warnings"]]
    kept = f"{cells['kept']:,} of the {cells['in']:,} cells of {report['matrix']} were kept ({cells['kept'] / cells['in']:.0%})."
    counts = (
        f"Half of the cells have at least {report['median_counts']:,g} counts and {report['median_genes']:,g} genes."
    )
    scale = (
        f"Positions: {units['derivation']}. The nearest cell is {units['spacing_um']:.1f} µm away (median), and the graph joins "
        f"cells within {units['radius_um']:g} µm, {units['mean_degree']:.1f} on average."
    )
    parts = ", ".join(f"{number:,} {region}" for region, number in split.items())
    return [*warnings, kept, counts, scale, f"Regions: {parts}."]


def _facts(metadata: dict[str, Any], xy_um: NDArray[np.float64]) -> Table:
    report, extent = metadata[keys.REPORT], describe_extent(xy_um) or {}
    units, split = report["units"], report["split"]
    rows = [
        ("platform", metadata[keys.PLATFORM]),
        *((key, metadata[key]) for key in (keys.SAMPLE, keys.TISSUE, keys.CONDITION) if metadata[key]),
        ("median counts, genes per cell", f"{report['median_counts']:,g}, {report['median_genes']:,g}"),
        (
            "extent (for --crop and --at)",
            ", ".join(f"{axis} {low:.0f} to {high:.0f} µm" for axis, (low, high) in extent.items()),
        ),
        ("coordinates", units["derivation"]),
        ("nearest cell (median)", f"{units['spacing_um']:.2f} µm"),
        ("radius of the graph", f"{units['radius_um']:g} µm ({units['radius_from']})"),
        ("neighbours in it (mean)", f"{units['mean_degree']:.1f}"),
        ("split", _split_by(report)),
        *((f"cells in {region}", f"{split[region]:,} ({split[region] / sum(split.values()):.0%})") for region in split),
    ]
    return Table(["property", "value"], [[name, str(value)] for name, value in rows])


def _cells_note(report: dict[str, Any]) -> str:
    duplicates = report["cells"]["duplicate_coordinates"]
    return f"{duplicates:,} cells have the coordinates of another cell." if duplicates else "All coordinates differ."


def _cells(report: dict[str, Any]) -> Table:
    cells = report["cells"]
    rows = [
        ("in the download", cells["in"]),
        *((f"dropped: {reason}", count) for reason, count in cells["dropped"].items()),
        ("kept", cells["kept"]),
        *([("with most counts in genes of another species", cells[FOREIGN])] if FOREIGN in cells else []),
    ]
    return Table(["cells", "number", "fraction"], [[name, f"{n:,}", f"{n / cells['in']:.2%}"] for name, n in rows])


def _genes_note(report: dict[str, Any]) -> str:
    dropped = report["genes"]["dropped"]
    ambiguous = sum(dropped[reason]["count"] for reason in _AMBIGUOUS if reason in dropped)
    return f"{ambiguous:,} features were dropped because their names are ambiguous." if ambiguous else ""


def _genes(genes: dict[str, Any]) -> Table:
    """Features by outcome: in = matched + mapped + dropped; features of one gene are summed."""
    num_dropped = sum(features["count"] for features in genes["dropped"].values())
    matched = genes["in"] - num_dropped - genes["mapped"]["count"]
    rows = [
        ["in the download", f"{genes['in']:,}", ""],
        ["matched by their Ensembl id", f"{matched:,}", ""],
        ["mapped by a table", *_count_and_examples(genes["mapped"])],
        *([f"dropped: {reason}", *_count_and_examples(features)] for reason, features in genes["dropped"].items()),
        ["summed with another of the same id", *_count_and_examples(genes["summed"])],
        ["genes kept", f"{genes['kept']:,}", ""],
    ]
    return Table(["features", "number", "such as"], rows)


def _count_and_examples(features: dict[str, Any]) -> list[str]:
    names = features["names"]
    return [f"{features['count']:,}", ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")]
