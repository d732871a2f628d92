"""The page beside a prepared slide, for people who look first: maps, histograms, and everything that was dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from anndata.io import read_elem
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.prepare.genes import SEVERAL_GENES, SEVERAL_ORTHOLOGS
from cifm_cli.data.prepare.splits import Split
from cifm_cli.data.writers.prepared import read_about
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.html import Image, Section, Table, write_report

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SIGNATURE = b"Made by cifm"  # in the footer of every report
_SHOWN = 100_000  # cells on a map; a page is about 800 pixels wide
_BRIGHTEST = 0.99  # quantile of the cells at which the colours of a map end
_BARS, _LAST_BAR = 60, 0.995  # bars of a histogram, and the quantile where they end
_NAMES_SHOWN = 8
_AMBIGUOUS = (SEVERAL_GENES, SEVERAL_ORTHOLOGS)


def page_of(slide: Path) -> Path:
    """Where the page of a prepared slide lies: beside it, under its name."""
    return slide.with_suffix(".html")


def check_page(slide: Path) -> None:
    """Refuse to replace a page that is somebody else's.

    Args:
        slide: The `.h5ad` to be written.

    Raises:
        CifmError: A file that cifm did not write lies where the page would.
    """
    page = page_of(slide)
    if page.exists() and not (page.is_file() and _SIGNATURE in page.read_bytes()):
        raise CifmError(
            f"{page} exists and is no page that cifm wrote", "choose another folder with --out or name with --name"
        )


def write_page(slide: Path) -> Path:
    """Write the page of a prepared slide; its matrix is not read.

    Args:
        slide: The `.h5ad` that `prepared.write` wrote.

    Returns:
        The page.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    about = read_about(slide) or {}
    report = about[keys.REPORT]
    with h5py.File(slide, "r") as file:
        xy_um = file[f"obsm/{keys.SPATIAL}"][:]
        counts, genes = (read_elem(file[f"obs/{name}"]) for name in (keys.TOTAL_COUNTS, keys.NUM_GENES))
        split = np.asarray(read_elem(file[f"obs/{keys.SPLIT}"]), dtype=object)
    shown = _choose(len(xy_um))
    degree = _degrees(xy_um, shown, about[keys.RADIUS_UM])
    sections = [
        *([Section("Warnings", "\n\n".join(report["warnings"]))] if report["warnings"] else []),
        Section("The slide", _summary(report), _facts(about)),
        Section(
            "Maps",
            _shown_note(len(xy_um)),
            images=_maps(xy_um[shown], counts[shown], genes[shown], split[shown], _split_by(report)),
        ),
        Section(
            "Cells", _cells_note(report), _cells(report), _histograms(counts, genes, degree, about[keys.RADIUS_UM])
        ),
        Section("Genes", _genes_note(report), _genes(report["genes"])),
        *([Section("Notes", "\n\n".join(report["notes"]))] if report["notes"] else []),
    ]
    write_report(page_of(slide), f"{slide.stem}: prepared slide", sections, about[keys.PROVENANCE])
    return page_of(slide)


def _split_by(report: dict[str, Any]) -> str:
    """How the slide was split; files of before there was a choice don't say."""
    return str(report.get("split_by", Split().describe(report["units"]["radius_um"])))


def _choose(num_cells: int) -> NDArray[np.int64]:
    """Rows to show: all, or as many as a page can, at random, so that no grid of bins turns into stripes."""
    if num_cells <= _SHOWN:
        return np.arange(num_cells)
    return np.sort(numpy_generator(0, "page").choice(num_cells, _SHOWN, replace=False))


def _degrees(xy_um: NDArray[np.float64], rows: NDArray[np.int64], radius_um: float) -> NDArray[np.int64]:
    """Cells within the radius of some of the cells, without the cell itself."""
    return np.asarray(cKDTree(xy_um).query_ball_point(xy_um[rows], radius_um, return_length=True)) - 1


def _shown_note(num_cells: int) -> str:
    if num_cells <= _SHOWN:
        return f"All {num_cells:,} cells."
    return (
        f"{_SHOWN:,} of the {num_cells:,} cells, drawn at random; so are those of the histogram of neighbours. "
        "Tables and the other histograms count all cells."
    )


def _maps(
    xy_um: NDArray[np.float64],
    counts: NDArray[np.float64],
    genes: NDArray[np.int64],
    split: NDArray[np.object_],
    split_by: str,
) -> list[Image]:
    from cifm_cli.report import plots  # matplotlib takes a second to import

    def draw(values: NDArray[Any], title: str) -> bytes:
        end = max(float(np.quantile(values, _BRIGHTEST)), 1.0)
        return plots.tissue_map(xy_um, values, title, label=title.lower(), limits=(0.0, end))

    return [
        Image(draw(counts, "Counts per cell"), "Counts over the kept genes; colours end at the 99th percentile."),
        Image(draw(genes, "Genes per cell"), "Kept genes with a count; colours end at the 99th percentile."),
        Image(
            plots.tissue_map(xy_um, split, "Regions of the split", order=keys.REGIONS),
            f"Where a model trains, is chosen and is tested: {split_by}.",
        ),
    ]


def _histograms(
    counts: NDArray[np.float64], genes: NDArray[np.int64], degree: NDArray[np.int64], radius_um: float
) -> list[Image]:
    from cifm_cli.report import plots

    near = f"Neighbours within {radius_um:g} um"
    return [
        Image(
            plots.histogram(degree, _edges(degree), near, label="neighbours"),
            f"{near}; {(degree == 0).mean():.2%} of the cells have none. The last bar holds all cells beyond.",
        ),
        *(
            Image(
                plots.histogram(values, _edges(values), f"{what} per cell", label=what.lower()),
                f"{what} per cell; the last bar holds all cells beyond.",
            )
            for values, what in ((counts, "Counts"), (genes, "Genes"))
        ),
    ]


def _edges(values: NDArray[Any]) -> list[float]:
    """Borders of bars that hold equally many whole numbers each, up to a value that few exceed."""
    end = int(np.quantile(values, _LAST_BAR)) + 1
    step = -(-end // _BARS)
    return [edge - 0.5 for edge in range(0, end + 2 * step, step)]


def _summary(report: dict[str, Any]) -> str:
    return f"{report['cells']['kept']:,} cells and {report['genes']['kept']:,} genes, from {report['matrix']}."


def _facts(about: dict[str, Any]) -> Table:
    report = about[keys.REPORT]
    units, split = report["units"], report["split"]
    rows = [
        ("platform", about[keys.PLATFORM]),
        *((key, about[key]) for key in (keys.SAMPLE, keys.TISSUE, keys.CONDITION) if about[key]),
        ("median counts, genes per cell", f"{report['median_counts']:,g}, {report['median_genes']:,g}"),
        ("coordinates", units["derivation"]),
        ("nearest cell (median)", f"{units['spacing_um']:.2f} um"),
        ("radius of the graph", f"{units['radius_um']:g} um ({units['radius_from']})"),
        ("neighbours in it (mean)", f"{units['mean_degree']:.1f}"),
        ("split", _split_by(report)),
        *((f"cells in {region}", f"{split[region]:,} ({split[region] / sum(split.values()):.0%})") for region in split),
    ]
    return Table(["", ""], [[name, str(value)] for name, value in rows])


def _cells_note(report: dict[str, Any]) -> str:
    twice = report["cells"]["duplicate_coordinates"]
    return f"{twice:,} cells lie at the place of another." if twice else "No two cells lie at one place."


def _cells(report: dict[str, Any]) -> Table:
    cells = report["cells"]
    rows = [
        ("in the download", cells["in"]),
        *((f"dropped: {reason}", count) for reason, count in cells["dropped"].items()),
        ("kept", cells["kept"]),
    ]
    return Table(["cells", "number", "share"], [[name, f"{n:,}", f"{n / cells['in']:.2%}"] for name, n in rows])


def _genes_note(report: dict[str, Any]) -> str:
    dropped = report["genes"]["dropped"]
    ambiguous = sum(dropped[reason]["count"] for reason in _AMBIGUOUS if reason in dropped)
    return f"{ambiguous:,} features are dropped because their name is ambiguous." if ambiguous else ""


def _genes(genes: dict[str, Any]) -> Table:
    """What became of the features: in = matched + mapped + dropped; those of one gene are summed."""
    lost = sum(part["count"] for part in genes["dropped"].values())
    matched = genes["in"] - lost - genes["mapped"]["count"]
    rows = [
        ["in the download", f"{genes['in']:,}", ""],
        ["matched by their Ensembl id", f"{matched:,}", ""],
        ["mapped by a table", *_numbered(genes["mapped"])],
        *([f"dropped: {reason}", *_numbered(part)] for reason, part in genes["dropped"].items()),
        ["summed with another of one id", *_numbered(genes["summed"])],
        ["genes kept", f"{genes['kept']:,}", ""],
    ]
    return Table(["features", "number", "such as"], rows)


def _numbered(part: dict[str, Any]) -> list[str]:
    names = part["names"]
    return [f"{part['count']:,}", ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")]
